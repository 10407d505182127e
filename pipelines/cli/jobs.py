"""`vrshq submit`."""

from __future__ import annotations

from typing import Annotated

import typer

from vrshq.pipelines.config.assignments import SettingsError


def submit(
    context: typer.Context,
    address: Annotated[
        str, typer.Option("--address", metavar="URL", help="The cluster's job server, e.g. http://head:8265.")
    ],
    working_dir: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Folder to ship to the cluster; default: none, vrshq is installed there."),
    ] = None,
    follow: Annotated[bool, typer.Option(help="Follow the job's log, and exit with the job's exit code.")] = True,
) -> None:
    """Run a vrshq command as a Ray job: vrshq submit --address URL -- label ..."""
    from vrshq.cluster.ray.jobs import submit as submit_job

    if not context.args:
        raise SettingsError(
            "vrshq submit: no command given; expected for example: vrshq submit --address URL -- label ..."
        )
    runtime_env = {"working_dir": working_dir} if working_dir else {}
    raise typer.Exit(submit_job(address, ["vrshq", *context.args], runtime_env=runtime_env, follow=follow))
