"""Ray sessions of these tests keep to a folder of their own."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def ray_environment() -> Iterator[None]:
    folder = tempfile.mkdtemp(prefix="ve-")  # short: Ray puts sockets in it, and their paths have a limit
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
    shutil.rmtree(folder, ignore_errors=True)
