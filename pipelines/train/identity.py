"""The identity of a run: `train.json` records the settings of its folder."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter

from vrshq.cluster.storage.differences import differences
from vrshq.cluster.storage.folder import Folder
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.train.settings import TrainSettings

# Settings that may differ between the commands of one run: place, speed, and the description of the result.
FREE = ("workers", "parallel", "device", "threads", "feeders", "checkpoint_every", "log_every", "attempts", "presence")
# Differences that a refusal names.
_SHOWN = 5


def dump_settings(settings: TrainSettings) -> str:
    """The settings as JSON."""
    return TypeAdapter(TrainSettings).dump_json(settings).decode()


def parse_settings(text: str) -> TrainSettings:
    """The settings that `dump_settings` wrote."""
    settings: TrainSettings = TypeAdapter(TrainSettings).validate_json(text)
    return settings


def claim_folder(folder: Folder, settings: TrainSettings) -> None:
    """Writes `train.json` into a new folder; checks it in a folder that has one.

    Raises:
        SettingsError: settings other than `FREE` differ from those of the folder. The message names them, with the stage.
    """
    given = json.loads(dump_settings(settings))
    if not folder.exists("train.json"):
        folder.write_bytes("train.json", (json.dumps(given, indent=1) + "\n").encode())
        return
    known = _completed(json.loads(folder.read_bytes("train.json")))
    ours, theirs = ({name: value for name, value in one.items() if name not in FREE} for one in (known, given))
    different = list(differences(ours, theirs))
    if different:
        shown = "; ".join(different[:_SHOWN])
        more = f"; and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
        raise SettingsError(
            f"{folder.uri}: it holds a run with other settings (its own -> this command's: {shown}{more}); give the same ones, "
            "or a new folder"
        )


def _completed(known: Any) -> Any:
    """Recorded settings with the defaults of settings that did not exist when they were recorded; as they are if unusable."""
    try:
        return json.loads(dump_settings(TypeAdapter(TrainSettings).validate_python(known)))
    except ValueError:  # pydantic's, and the settings' own
        return known
