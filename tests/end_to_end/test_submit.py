"""`vrshq submit` to a real cluster with a job server: videos and tables on S3, followed to the job's end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.fault_kit import Command, accounted, write_corpus
from tests.support.s3_server import S3_BUCKET, S3Server, free_port
from vrshq.cluster.storage.run_directory import RunDirectory

pytestmark = pytest.mark.ray

VIDEOS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    served = tmp_path_factory.mktemp("s3")
    write_corpus(served / S3_BUCKET / "videos", VIDEOS)
    with S3Server(served) as running, running.reached():
        yield running


@pytest.fixture(scope="module")
def job_server(server: S3Server) -> Iterator[str]:  # noqa: ARG001 - the cluster's processes take its way from the environment
    """The address of a one-node cluster of its own, with its dashboard; its processes find `vrshq` as installed."""
    port = free_port()
    scripts = Path(sys.executable).parent
    ports = ("port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "ray-client-server-port")
    command = [str(scripts / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={port}"]
    command += [f"--{name}={free_port()}" for name in ports]
    command += [f"--temp-dir={os.environ['RAY_TMPDIR']}/j", "--object-store-memory=100000000"]
    environment = os.environ | {"RAY_AUTH_MODE": "token", "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    head = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert head.poll() is None
            try:
                urllib.request.urlopen(f"{address}/api/version", timeout=1)
            except urllib.error.HTTPError:
                break  # it answers that it wants the token
            except OSError:
                time.sleep(0.5)
            else:
                break
        yield address
    finally:
        # Nothing in it is kept, and its orderly end would take 20 s.
        started = psutil.Process(head.pid).children(recursive=True)
        for process in (head, *started):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        head.communicate()


def test_a_job_labels_a_bucket_into_a_bucket_and_its_log_and_exit_code_come_back(job_server: str) -> None:
    run = f"s3://{S3_BUCKET}/jobs/run"
    line = ["label", f"s3://{S3_BUCKET}/videos/instructions.jsonl", "--output", run, "--model", "untrained-tiny"]
    command = Command("submit", "--address", job_server, "--", *line, environment={"RAY_AUTH_MODE": "token"})
    assert command.end(300) == 0, command.output
    assert ", 0 errors" in command.output
    assert f"tables in {run}" in command.output
    assert "WebSocket" not in command.output  # Ray's own words about the log that was followed
    counts = accounted(run)
    assert (len(counts), set(counts.values())) == (VIDEOS, {1})
    assert RunDirectory(run).errored_units() == set()

    for environment in ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another"}, {"RAY_AUTH_MODE": "disabled"}):
        command = Command("submit", "--address", job_server, "--", *line, environment=environment)
        assert command.end(60) == 1
        assert command.output == (
            f"error: the job server at {job_server} refuses the token, which is missing or another one; set RAY_AUTH_TOKEN, "
            "or RAY_AUTH_TOKEN_PATH to the file that holds the cluster's\n"
        )

    wrong = ["label", f"s3://{S3_BUCKET}/videos/none.jsonl", "--output", run, "--model", "untrained-tiny"]
    command = Command("submit", "--address", job_server, "--", *wrong, environment={"RAY_AUTH_MODE": "token"})
    assert command.end(300) == 1, command.output
    assert "none.jsonl" in command.output
