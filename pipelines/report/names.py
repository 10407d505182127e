"""The names of contact sheets below the folder of a report."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Set

from vrshq.cluster.storage.folder import Folder

_SHEET = re.compile(r"report/[0-9a-f]{16}\.png")


def sheet_name(video_id: str, instruction_id: str) -> str:
    """The path of an instruction's sheet: `report/`, and hexadecimal digits only, for any ids."""
    return f"report/{hashlib.sha256(json.dumps([video_id, instruction_id]).encode()).hexdigest()[:16]}.png"


def remove_other_sheets(folder: Folder, shown: Set[str]) -> None:
    """Removes the sheets of an earlier report that are not among `shown`. Files of other names stay."""
    for name in set(filter(_SHEET.fullmatch, folder.list("report"))) - shown:
        folder.remove(name)
