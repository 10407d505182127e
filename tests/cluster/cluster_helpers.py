"""What the fixtures and the tests of `cluster` share."""

from __future__ import annotations

import socket

S3_BUCKET = "corpus"


def free_port() -> int:
    """A TCP port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
