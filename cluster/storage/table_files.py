"""The files of a table at one moment: which holds the rows of a unit, and where in it."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.merging import Merged, merged_files, merged_meanwhile
from vrshq.cluster.storage.shared import is_shared

Span = tuple[int, int]  # the first row, and the row after the last one

_PART = re.compile(r"part-([0-9a-f]+)(?:-([0-9]+))?\.parquet")


@dataclass(frozen=True)
class TableFiles:
    """The files of a table, as one listing and the ledgers tell them. No part and no merged file was opened.

    An index of the merged units is made when it is first needed; it takes some 40 bytes a unit.

    Attributes:
        parts: the live parts: unit id -> names, in the order of the units; of a unit with windows in the order of those.
        merged: the merged files, in order.
        dead: names of parts that do not count: their units are in merged files, or windows of units with a part for the whole.
        shared: the shared parts among the merged files -> the units that count there.
        unknown: shared parts without a ledger.
    """

    parts: dict[str, list[str]]
    merged: list[Merged]
    dead: list[str]
    shared: dict[str, list[str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    @functools.cached_property
    def spans(self) -> dict[str, list[Span] | None]:
        """Where the rows that count are in the merged files; None: everywhere, which is so unless a unit is there twice."""
        if not self.merged:
            return {}
        units = pa.concat_arrays([one.units for one in self.merged])
        if pc.count_distinct(units).as_py() == len(units):
            return dict.fromkeys(one.name for one in self.merged)
        return dict(self.find(units.to_pylist())[0])

    @property
    def names(self) -> list[str]:
        """Names of the files with rows that count: merged files, then parts."""
        return [*(one.name for one in self.merged), *self.part_names]

    @property
    def part_names(self) -> list[str]:
        """Names of the live parts."""
        return [*itertools.chain.from_iterable(self.parts.values())]

    def units(self) -> set[str]:
        """Ids of all units with rows."""
        return set(self.parts).union(*(one.units.to_pylist() for one in self.merged))

    def find(self, unit_ids: Iterable[str]) -> tuple[dict[str, list[Span]], list[str], bool]:
        """Where the rows of some units are.

        Returns:
            the spans of rows by merged file, ascending, those side by side as one; the units with parts, ascending; whether
            every unit was found.
        """
        wanted = sorted(set(unit_ids))
        single = [unit for unit in wanted if unit in self.parts]
        rest = [unit for unit in wanted if unit not in self.parts]
        ids, order, begins, ends = self._index
        spans: dict[str, list[Span]] = {}
        found = 0
        if rest and len(ids):
            asked = np.array(rest, np.bytes_)
            places = np.minimum(np.searchsorted(ids, asked), len(ids) - 1)
            known = np.sort(order[places[ids[places] == asked]])
            found = len(known)
            files = np.searchsorted(self._bounds, known, side="right") - 1
            for file, begin, end in zip(files.tolist(), begins[known].tolist(), ends[known].tolist(), strict=True):
                if begin < end:
                    _add(spans.setdefault(self.merged[file].name, []), begin, end)
        return spans, single, found == len(rest)

    @functools.cached_property
    def _bounds(self) -> np.ndarray:
        """For each merged file the place of its first unit among all merged units, int64."""
        return np.cumsum([0, *(len(one.units) for one in self.merged)])[:-1]

    @functools.cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Ids of the merged units in order, their places among all merged units; by place, the unit's first row and its end."""
        if not self.merged:
            nothing = np.zeros(0, np.int64)
            return np.zeros(0, "S1"), nothing, nothing, nothing
        ids = np.concatenate([np.array(one.units.to_pylist(), np.bytes_) for one in self.merged])
        ends = np.concatenate([np.cumsum(one.rows.to_numpy()) for one in self.merged])
        order = np.argsort(ids, kind="stable")
        return ids[order], order, ends - np.concatenate([one.rows.to_numpy() for one in self.merged]), ends


def _add(spans: list[Span], begin: int, end: int) -> None:
    """Adds a span behind the others, as one with the last where they meet."""
    if spans and spans[-1][1] == begin:
        spans[-1] = (spans[-1][0], end)
    else:
        spans.append((begin, end))


def listed(folder: Folder, table_name: str) -> tuple[dict[str, int], TableFiles]:
    """Lists a table of the run directory `folder`, into which another process may write and merge.

    Returns:
        name -> size in bytes of the files; and the files as `table_files` tells them. Each unit that was there before is
        there once.
    """
    sizes = folder.sizes(table_name)
    names = {*sizes, *merged_meanwhile(folder, table_name, sizes)}
    files = table_files(folder, table_name, names)
    if files.unknown:  # they are being written, or were merged before their ledgers were read
        files = table_files(folder, table_name, names.union(merged_meanwhile(folder, table_name, names)))
    return sizes, files


def table_files(folder: Folder, table_name: str, names: Iterable[str]) -> TableFiles:
    """The files of a table of the run directory `folder`.

    Args:
        folder: the run directory.
        table_name: the table.
        names: a listing of the table's folder. The ledgers of the merged files among them are read.
    """
    names = sorted(names)
    merged = merged_files(folder, table_name, names)
    shared = _shared(merged)
    gone = {name for name, units in shared.items() if not units}
    unknown = sorted({name for name in names if is_shared(name)} - shared.keys())
    merged = [one for one in merged if one.name not in gone]
    found = [(match, name) for name in names if (match := _PART.fullmatch(name.rpartition("/")[2]))]
    whole = {match[1] for match, _ in found if match[2] is None}
    done = _those_in([match[1] for match, _ in found], merged)
    live: dict[str, list[tuple[int, str]]] = {}
    dead = sorted(gone)
    for match, name in found:
        unit, window = match[1], match[2]
        if unit in done or (window is not None and unit in whole):
            dead.append(name)
        else:
            live.setdefault(unit, []).append((int(window or 0), name))
    parts = {unit: [name for _, name in sorted(live[unit])] for unit in sorted(live)}
    return TableFiles(parts, merged, dead, {name: units for name, units in shared.items() if units}, unknown)


def _shared(merged: list[Merged]) -> dict[str, list[str]]:
    """For each shared file its units that are in no file before it."""
    shared = {one.name: one.units.to_pylist() for one in merged if is_shared(one.name)}
    known = _those_in([*itertools.chain(*shared.values())], [one for one in merged if one.name not in shared])
    for name, units in shared.items():
        shared[name] = [unit for unit in units if unit not in known]
        known.update(units)
    return shared


def _those_in(unit_ids: list[str], merged: list[Merged]) -> set[str]:
    """Those of some units that are in merged files."""
    if not merged:
        return set()
    asked = pa.array(unit_ids, pa.string())
    found = pc.is_in(asked, value_set=pa.concat_arrays([one.units for one in merged]))
    return set(asked.filter(found).to_pylist())
