"""`vrshq synth`, `vrshq train`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from vrshq.pipelines.cli.options import Address, Config, UseRay
from vrshq.pipelines.cli.terminal import continues, say
from vrshq.pipelines.config.assignments import SettingsError

if TYPE_CHECKING:
    from vrshq.pipelines.train.presence_settings import PresenceSettings


def synth(
    output: Annotated[
        str,
        typer.Argument(
            metavar="URI",
            help="New or empty folder, local or in a bucket, or the folder of the same command or of fewer videos.",
        ),
    ],
    videos: Annotated[int, typer.Option("--videos", metavar="COUNT", help="Number of videos.")],
    seed: Annotated[int, typer.Option("--seed", metavar="NUMBER", help="The same seed gives the same bytes.")] = 0,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="One split for all videos: train, valid, test or test_unseen; default: 70, 10, 10, 10 %.",
        ),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="jpeg (folders of frames), mp4, or both.")
    ] = "both",
    config: Config = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="One setting, e.g. frames=[8, 16]. Repeatable; `vrshq settings synth` explains them.",
        ),
    ] = None,
    address: Address = None,
    ray: UseRay = True,
) -> None:
    """Make synthetic videos with instructions and exact masks, in ReVOS's layout."""
    from vrshq.pipelines.synth.run import synth as run_synth
    from vrshq.pipelines.synth.settings import Where, load_config

    settings = load_config(config, set_ or [])

    def on_begin() -> None:
        say(f"{videos} videos of seed {seed} into {output}")

    made_now: list[str] = []
    with continues(lambda: f"{len(made_now)} videos are made by this command"):
        done = run_synth(
            output,
            videos=videos,
            seed=seed,
            split=split,
            form=form,
            config=settings,
            where=Where(address, use_ray=ray),
            on_begin=on_begin,
            on_video=made_now.append,
        )
    made = ", ".join(f"{count} {name}" for name, count in done.videos.items())
    kinds = ", ".join(f"{count} {name}" for name, count in done.kinds.items())
    say(f"{made}; instructions: {kinds}; checksum {done.checksum}")


def train(
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="URI",
            help="YAML file, or the name of a packaged one: example, presence, tiny or vrs-hq-7b.",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="URI", help="Folder of the run, local or in a bucket.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="One setting, e.g. stages.0.steps=100. Repeatable; `vrshq settings train` explains them.",
        ),
    ] = None,
    address: Address = None,
    ray: Annotated[
        bool, typer.Option("--ray/--no-ray", help="Work as the settings say, or in this process alone (workers=0).")
    ] = True,
    example: Annotated[
        bool, typer.Option("--example", help="Print a small configuration that trains in minutes, and do nothing else.")
    ] = False,
) -> None:
    """Train a model in stages. The same command again continues an interrupted run."""
    from vrshq.pipelines.train.presence_settings import PresenceSettings
    from vrshq.pipelines.train.run import train as run_train
    from vrshq.pipelines.train.settings import CONFIGS, load_any_settings

    if example:
        say((CONFIGS / "example.yaml").read_text(encoding="utf-8").rstrip())
        return
    if config is None or output is None:
        raise SettingsError(
            "vrshq train: expected --config FILE and --output FOLDER; vrshq train --example prints one to begin with"
        )
    settings = load_any_settings(config, set_ or [])
    if isinstance(settings, PresenceSettings):
        _train_presence(settings, output)
        return
    settings = settings if ray else replace(settings, workers=0)

    def on_begin() -> None:
        for stage in settings.stages:
            work = f"{stage.steps} steps of {stage.batch} samples of {', '.join(stage.data)}"
            say(f"{stage.name}: {work}; trains {', '.join(stage.trained)}")

    reached = "no step is logged yet"

    def on_log(stage: str, step: int, row: dict[str, float]) -> None:
        nonlocal reached
        reached = f"stage {stage} has reached step {step}"
        shown = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")
        say(f"{stage} {step}: {shown}")

    with continues(lambda: f"{reached}, the last checkpoint is kept"):
        bundle = run_train(settings, output, address=address, on_begin=on_begin, on_log=on_log)
    say(f"{bundle}: use it with --model {bundle}")


def _train_presence(settings: PresenceSettings, output: str) -> None:
    """Trains a presence head, and says what it makes of the held-out videos."""
    from vrshq.pipelines.train.presence import train_presence

    reached = "no video is done yet"

    def on_begin() -> None:
        say(f"presence head of {settings.model}: gathers the evidence of its videos, then trains")

    def on_video(done: int, total: int) -> None:
        nonlocal reached
        reached = f"the evidence of {done} of {total} videos is kept"
        if done % 20 == 0 or done == total:
            say(f"{done} of {total} videos")

    with continues(lambda: reached):
        bundle, found = train_presence(settings, output, on_begin=on_begin, on_video=on_video)
    say(
        f"held-out: {found['with_target']} instructions with a target, {found['without']} without; AUROC {found['auroc']:.4f} "
        f"(object score alone {found['auroc_of_object_score']:.4f}), Brier score {found['brier_score']:.4f}, calibration error "
        f"{found['calibration_error']:.4f}"
    )
    say(
        f"presence above {found['threshold']:.4f} keeps a mask: {found['without_target_with_mask']:.1%} of those without a "
        f"target do, {found['with_target_without_mask']:.1%} of those with one do not; by the object score alone, which may "
        f"lose as many, {found['without_target_with_mask_by_object_score']:.1%} of those without a target do"
    )
    say(f"{bundle}: use it with --model {bundle}")
