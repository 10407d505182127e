"""Names of the files that mark the progress of a run, and compact JSON with stable bytes."""

from __future__ import annotations

import json
from typing import Any

from vrshq.cluster.storage.folder import Folder

MADE = "synth.json"
MAKING = "making"  # holds settings.json and videos/<video>.json until the tables are written

JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def record_name(video: str) -> str:
    """The file with the record of a finished video."""
    return f"{MAKING}/videos/{video}.json"


def write_json(target: Folder, name: str, value: Any) -> None:
    """Writes a value as compact JSON."""
    target.write_bytes(name, JSON.encode(value).encode())
