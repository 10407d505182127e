"""The published numbers: of whole systems, and of the paper's own ablations (tables 4 to 9)."""

from __future__ import annotations

import csv
import functools
from importlib.resources import files
from typing import Any

from vrshq.operators.models.families import VRS_HQ
from vrshq.pipelines.label.settings import Settings, load_settings

Row = dict[str, str]
# The groups of settings that the paper's ablations change. Other settings do not keep a row from being matched.
_METHOD = ("sampling", "fusion", "keyframe")
_SEED = "seed"  # the paper's rows name none


@functools.cache
def _rows() -> tuple[Row, ...]:
    text = files("vrshq.pipelines.evaluate").joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines(), restval=""))


def published_rows(dataset: str) -> list[Row]:
    """The published numbers of systems on a data set, as `Row`s.

    Their columns: benchmark, system, group, J, F, JF, R, source, note, tIoU, vIoU; "" for a number not found.
    """
    name = "ref-davis17" if dataset == "ref-davis17-official" else dataset
    return [row for row in _rows() if row["benchmark"] == name and not row["table"]]


def ablation_rows() -> list[Row]:
    """The rows of the paper's ablations: VRS-HQ-7B on ReVOS, one row for each setting and group.

    Besides the columns of `published_rows`: `table`, `setting` (in the paper's words), `settings` (the same for this program:
    `key=value` texts, "default", or "none" where it has no such setting), and `trained`, "yes" where the paper trained a model
    for the row, so that switching the setting of one model is another experiment.
    """
    return [row for row in _rows() if row["table"]]


def matching(settings: Settings, table: str | None = None) -> dict[str, Any] | None:
    """The published row of a variant's settings, as JSON values; None where no row has these settings.

    Args:
        settings: of the variant.
        table: the paper's table in which to look; default: all, the first one wins.

    Returns:
        `table`, `setting`, `trained` (bool), `source`, `note`, and for `referring` and `reasoning` each J, F and JF (percent).
    """
    own = _compared(settings)
    found = [row for row in ablation_rows() if table in (None, row["table"]) and _of_row(row["settings"]) == own]
    if not found:
        return None
    first = found[0]
    same = [row for row in found if (row["table"], row["setting"]) == (first["table"], first["setting"])]
    return {
        "table": first["table"],
        "setting": first["setting"],
        "trained": first["trained"] == "yes",
        "source": first["source"],
        "note": first["note"],
        **{row["group"]: {name: float(row[name]) for name in ("J", "F", "JF")} for row in same},
    }


def is_published(settings: Settings) -> bool:
    """Whether the settings of the method are the published ones."""
    return bool(_compared(settings) == _of_row("default"))


@functools.cache
def _of_row(settings: str) -> Any:
    """What `_compared` gives for a row; None for a row that no settings have."""
    if settings == "none":
        return None
    return _compared(load_settings(None, [] if settings == "default" else settings.split(" ")))


def _compared(settings: Settings) -> dict[str, Any]:
    """The settings of the method, without seeds, and with the published values where there are none."""
    values: dict[str, dict[str, Any]] = settings.model_dump(include=set(_METHOD))
    values["sampling"]["sampler"] = values["sampling"]["sampler"] or VRS_HQ.sampler
    values["sampling"]["max_image_token"] = values["sampling"]["max_image_token"] or VRS_HQ.frames
    return {group: {name: value for name, value in values[group].items() if name != _SEED} for group in _METHOD}
