"""One compaction of a run directory: which parts are merged into which files. `vrshq.cluster.storage.merging` does the merging.

The folder of each table is listed once, and `ledger/` once for all tables. The parts of a merged file are removed in bulk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vrshq.cluster.storage import merging
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.table_files import TableFiles, table_files

MERGED_TABLES = ("masks", "tracks", "tokens")


def proceed() -> None:
    """The check of a caller that needs no lease."""


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

    def merge(
        self, unit_ids: Sequence[str], *, to_the_end: bool, check: Callable[[], None] = proceed
    ) -> dict[str, tuple[int, int]]:
        """Merges parts into files of about `merging.TARGET_BYTES`. Can be killed at any point and called again.

        Args:
            unit_ids: all units of the manifest, in its order.
            to_the_end: also merges a rest that is smaller than that size. Use it when no more parts will come.
            check: called before each file is written and before its parts are removed; raises to end the compaction there.

        Returns:
            for each table, how many parts were merged, into how many files.
        """
        ledgers = self._folder.list("ledger")
        done = {}
        for name in MERGED_TABLES:
            sizes, files = self._tracks if name == "tracks" else self._listed(name)
            check()
            merging.remove_leftovers(self._folder, name, files.dead, files.merged, ledgers)
            ordered = [(one, files.parts[one]) for one in unit_ids if one in files.parts and one not in self.errored]
            groups = merging.grouped(ordered, sizes, to_the_end=to_the_end)
            merging.merge(self._folder, name, groups, first=len(files.merged), check=check)
            done[name] = (sum(map(len, groups)), len(groups))
        return done

    def _listed(self, table_name: str) -> tuple[dict[str, int], TableFiles]:
        sizes = self._folder.sizes(table_name)
        return sizes, table_files(self._folder, table_name, sizes)
