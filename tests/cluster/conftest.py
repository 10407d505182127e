"""A real S3 server, and places to try storage on."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.s3_server import S3_BUCKET, S3Server


@pytest.fixture(scope="session", autouse=True)
def importable_workers() -> Iterator[None]:
    """The processes of Ray import these tests' workers by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An S3 server with one bucket, and the environment that leads to it. Yields the folder that it serves."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server, server.reached():
        yield server.served


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The uri of a folder that is not there yet: on disk, in memory, on the S3 server."""
    if request.param == "local":
        return str(tmp_path / "place")
    if request.param == "memory":
        return f"memory://tests-{secrets.token_hex(4)}/place"
    request.getfixturevalue("s3_server")
    return f"s3://{S3_BUCKET}/{secrets.token_hex(4)}/place"
