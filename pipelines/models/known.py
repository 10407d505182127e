"""The models that have a short name: where they lie, their licence, what they need, and what was proven of them here."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_TABLE = Path(__file__).parent / "known.yaml"
NO_LICENCE = "none stated"


@dataclass(frozen=True)
class Companion:
    """Weights that a model needs from another repository.

    Attributes:
        hub: the repository.
        licence: as its publisher states it.
        files: names of the files that are needed; empty: all of a model.
        optional: the setting without which they are not needed; empty: they always are.
    """

    hub: str
    licence: str
    files: tuple[str, ...] = ()
    optional: str = ""


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A row of `known.yaml`.

    Attributes:
        name: short name, for `--model`.
        family: its family, a key of `vrshq.operators.models.families.FAMILIES`.
        parameters: numbers in the networks, companions included that are not optional; so are `memory` and `download`.
        licence: as its publisher states it, or "none stated".
        memory: bytes of the loaded weights alone, by the setting `dtype`.
        proven: what was proven of it here.
        hub: its repository on the hub; None for a model inside the package.
        companions: weights of other repositories, by the folder of the bundle that they belong into.
        download: bytes of the weights, about; 0 for a model inside the package.
        derived: what `download` was computed from.
    """

    name: str
    family: str
    parameters: int
    licence: str
    memory: Mapping[str, int] = field(hash=False)
    proven: str
    hub: str | None = None
    companions: Mapping[str, Companion] = field(default_factory=dict, hash=False)
    download: int = 0
    derived: str = ""

    @property
    def licences(self) -> str:
        """The licence, and in brackets those of the companions that it always needs."""
        others = ", ".join(f"{place}: {one.licence}" for place, one in self.companions.items() if not one.optional)
        return f"{self.licence} ({others})" if others else self.licence

    def companions_on(self, files: Collection[str]) -> dict[str, Companion]:
        """The companions whose folder is not among the model's own files."""
        return {
            place: one
            for place, one in self.companions.items()
            if not any(file.startswith(f"{place}/") for file in files)
        }


@functools.cache
def known_models() -> dict[str, KnownModel]:
    """All known models by their short name, in the order of the table."""
    rows: list[dict[str, Any]] = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    return {row["name"]: KnownModel(**{**row, "companions": _companions(row)}) for row in rows}


def known_model(name: str) -> KnownModel | None:
    """The known model of a short name or of a hub id; None where there is none."""
    found = known_models().get(name)
    return found or next((one for one in known_models().values() if one.hub == name), None)


def human_bytes(nbytes: float) -> str:
    """A size as people write it: 20.2 GB, 16 MB, 0 B."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if nbytes >= size:
            return f"{nbytes / size:.3g} {unit}"
    return f"{nbytes:.0f} B"


def _companions(row: Mapping[str, Any]) -> dict[str, Companion]:
    given: dict[str, dict[str, Any]] = row.get("companions", {})
    return {place: Companion(**{**one, "files": tuple(one.get("files", ()))}) for place, one in given.items()}
