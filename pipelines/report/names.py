"""The names of contact sheets and overlay videos below the folder of a report."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Set

from vrshq.cluster.storage.folder import Folder

_FILE = re.compile(r"report/[0-9a-f]{16}\.(png|mp4)")


def sheet_name(video_id: str, instruction_id: str) -> str:
    """The path of an instruction's sheet: `report/`, and hexadecimal digits only, for any ids."""
    return f"report/{_digits(video_id, instruction_id)}.png"


def film_name(video_id: str, instruction_id: str) -> str:
    """The path of an instruction's overlay video, beside its sheet."""
    return f"report/{_digits(video_id, instruction_id)}.mp4"


def _digits(video_id: str, instruction_id: str) -> str:
    return hashlib.sha256(json.dumps([video_id, instruction_id]).encode()).hexdigest()[:16]


def remove_other_files(folder: Folder, shown: Set[str]) -> None:
    """Removes the sheets and videos of an earlier report that are not among `shown`. Files of other names stay."""
    for name in set(filter(_FILE.fullmatch, folder.list("report"))) - shown:
        folder.remove(name)
