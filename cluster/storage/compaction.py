"""One compaction of a run directory: which parts are merged into which files. `vrshq.cluster.storage.merging` does the merging.

The folder of each table is listed once, and `ledger/` once for all tables. The parts of a merged file are removed in bulk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vrshq.cluster.storage import merging
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.merging import Group
from vrshq.cluster.storage.shared import LEDGERS, ledger_of
from vrshq.cluster.storage.table_files import TableFiles, table_files

MERGED_TABLES = ("masks", "tracks", "tokens")

Check = Callable[[], None]
# Merges planned groups, in any order and anywhere, and yields each when its file is there. It calls the check now and then.
Spread = Callable[[Folder, Sequence[Group], Check], Iterator[Group]]


def proceed() -> None:
    """The check of a caller that needs no lease."""


def one_by_one(folder: Folder, groups: Sequence[Group], check: Check) -> Iterator[Group]:
    """Merges the groups in this process, one after the other."""
    for group in groups:
        merging.merge(folder, group, check)
        yield group


def carry_out(folder: Folder, groups: Sequence[Group], check: Check, spread: Spread) -> None:
    """Plans the groups, has them merged, and removes the parts of each. The caller holds the lease, which `check` proves."""
    for group in groups:
        check()
        merging.write_plan(folder, group)
    check()  # a plan that was written too late is in nobody's hands
    for group in spread(folder, groups, check) if groups else ():
        check()
        merging.remove_sources(folder, group)


class Compaction:
    """A compaction of the run directory `folder`. Making one lists `tracks/` and `errors/` and merges nothing yet.

    Attributes:
        finished: ids of the finished units.
        errored: ids of the units with error rows. They keep their parts, so that a retry does not rewrite a merged file.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._tracks = self._listed("tracks")
        self.finished = self._tracks[1].units()
        self.errored = table_files(folder, "errors", folder.list("errors")).units()
        # not those whose windows are still being written: a part beside a merged file would not count
        self._mergeable = self.finished - self.errored

    def merge(
        self, unit_ids: Sequence[str], *, to_the_end: bool, check: Check = proceed, spread: Spread = one_by_one
    ) -> dict[str, tuple[int, int]]:
        """Merges parts into files of about `merging.TARGET_BYTES`. Can be killed at any point and called again.

        Args:
            unit_ids: all units of the manifest, in its order.
            to_the_end: also merges a rest that is smaller than that size. Use it when no more parts will come.
            check: called before each file is written and before its parts are removed; raises to end the compaction there.
            spread: where the groups are merged.

        Returns:
            for each table, how many parts were merged, into how many files.
        """
        ledgers = self._folder.list(merging.LEDGERS)
        groups: list[Group] = []
        useless: list[str] = []
        left: set[str] = set()  # shared parts
        for name in MERGED_TABLES:
            sizes, files = self._tracks if name == "tracks" else self._listed(name)
            there = [*files.part_names, *files.shared]
            planned, orphans = merging.unfinished(self._folder, name, there, files.merged, ledgers)
            useless += [*files.dead, *orphans]
            done = {part for group in planned for _, part in group.parts}
            ordered = [part for part in self._ordered(files, unit_ids) if part[1] not in done]
            cut = merging.grouped(ordered, sizes, to_the_end=to_the_end)
            first = 1 + max(map(merging.number_of, [*sizes, *(group.file for group in planned)]), default=-1)
            groups += planned
            groups += [merging.new_group(name, number, parts) for number, parts in enumerate(cut, start=first)]
            left.update(files.shared)
            useless += files.unknown if to_the_end else ()
        check()
        self._folder.remove_all(useless)
        carry_out(self._folder, groups, check, spread)
        if to_the_end:  # nobody commits any more
            left -= {part for group in groups for _, part in group.parts}
            needed = {ledger_of(name) for name in left}
            self._folder.remove_all(name for name in ledgers if name.startswith(LEDGERS) and name not in needed)
        return {name: _counts([group for group in groups if group.table == name]) for name in MERGED_TABLES}

    def _ordered(self, files: TableFiles, unit_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The parts of units that can be merged, in the order of the units; a shared part at the first of its units."""
        holders = {unit: name for name, units in files.shared.items() for unit in units}
        for unit in unit_ids:
            if unit not in self._mergeable:
                continue
            yield from ((unit, part) for part in files.parts.get(unit, ()))
            if unit in holders:
                name = holders[unit]
                together = [other for other in files.shared[name] if other in self._mergeable]
                yield from ((other, name) for other in together)
                for other in together:
                    del holders[other]

    def _listed(self, table_name: str) -> tuple[dict[str, int], TableFiles]:
        sizes = self._folder.sizes(table_name)
        return sizes, table_files(self._folder, table_name, sizes)


def _counts(groups: Sequence[Group]) -> tuple[int, int]:
    return sum(len(group.parts) for group in groups), len(groups)
