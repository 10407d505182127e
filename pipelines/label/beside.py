"""Merging of parts while a run works, so that small parts do not pile up to a million objects.

The receipts say which parts there are, so no folder of a table is listed. Whenever units that are finished without errors fill
a file, or are many, a thread of the driver has their parts merged: by actors that reserve nothing, where the run is on Ray.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.ray.merges import beside_others
from vrshq.cluster.storage import merging
from vrshq.cluster.storage.compaction import MERGED_TABLES, Compaction, carry_out
from vrshq.cluster.storage.merging import Group
from vrshq.cluster.storage.run_directory import part_name
from vrshq.cluster.storage.shared import shared_name
from vrshq.cluster.storage.windows import window_name
from vrshq.errors import UserError
from vrshq.pipelines.label.planning.plan import Plan

logger = logging.getLogger(__name__)

# Seconds for which the end of a command that stops early waits for the thread.
_LEAVE_S = 10.0

Receipt = dict[str, Any]


class _StoppedError(Exception):
    """The command ends early."""


@contextmanager
def merging_beside(plan: Plan, check: Callable[[], None]) -> Iterator[Callable[[Receipt], None]]:
    """Merges beside the run for the time of a `with`, whose value takes the receipt of each finished unit.

    Does nothing where `resources.compact` is off. Leaving it waits for what was begun; leaving it by an exception stops it.
    A failure to merge is a warning: parts may always stay parts, and the end of the run tries again.

    Args:
        plan: of the run.
        check: proves that the caller still holds the lease, else raises.
    """
    if not plan.settings.resources.compact:
        yield lambda _: None
        return
    beside = _Beside(plan, check)
    try:
        yield beside.add
    except BaseException:
        beside.stop()
        raise
    beside.end()


class _Beside:
    def __init__(self, plan: Plan, check: Callable[[], None]) -> None:
        self._plan, self._check, self._folder = plan, check, plan.run.folder
        self._receipts: list[Receipt] = []  # of the units whose parts are not merged yet
        self._bytes = 0
        self._full: queue.SimpleQueue[list[Receipt] | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        if len(plan.finished) >= merging.MOST_PARTS:  # their parts may not be merged yet
            self._full.put([])
            self._work()

    def add(self, receipt: Receipt) -> None:
        """Notes the parts of a finished unit. Units with errors keep theirs."""
        if receipt["errors"]:
            return
        shared = receipt["shared"]
        if self._receipts and self._receipts[-1]["shared"] not in (None, shared):
            self._put()  # now all units of that part are there: their receipts follow each other
        self._receipts.append({name: receipt[name] for name in ("unit_id", "masks", "windows", "shared")})
        self._bytes += receipt["bytes"]
        if shared is None:
            self._put()

    def _put(self) -> None:
        """Has the parts merged that are there, if they are enough."""
        if self._bytes >= merging.TARGET_BYTES or len(self._receipts) >= merging.MOST_PARTS:
            self._full.put(self._receipts)
            self._receipts, self._bytes = [], 0
            self._work()

    def end(self) -> None:
        """Waits until all that was begun is merged."""
        self._full.put(None)
        if self._thread is not None:
            self._thread.join()

    def stop(self) -> None:
        """Ends the merging where it is."""
        self._stopped.set()
        self._full.put(None)
        if self._thread is not None:
            self._thread.join(_LEAVE_S)

    def _work(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._merge_all, name="merging", daemon=True)
            self._thread.start()

    def _merge_all(self) -> None:
        try:
            number: int | None = None
            while (receipts := self._full.get()) is not None:
                self._going()
                if not receipts:
                    self._merge_earlier()
                    continue
                if number is None:
                    names = self._folder.list(merging.LEDGERS)
                    number = 1 + max(map(merging.number_of, names), default=-1)
                groups = self._groups(receipts, number)
                number += 1
                carry_out(self._folder, groups, self._going, beside_others)
        except _StoppedError:
            pass
        except UserError as error:
            logger.warning("no more parts are merged while the run works: %s", error)

    def _merge_earlier(self) -> None:
        """Merges parts of units that earlier commands have finished. Lists the tables once."""
        ids = self._in_order(list(self._plan.finished))
        Compaction(self._folder).merge(ids, to_the_end=False, check=self._going, spread=beside_others)

    def _going(self) -> None:
        if self._stopped.is_set():
            raise _StoppedError
        self._check()

    def _groups(self, receipts: Sequence[Receipt], number: int) -> list[Group]:
        """One group of each table, of the parts that the units have."""
        by_id = {receipt["unit_id"]: receipt for receipt in receipts}
        units = self._in_order([receipt["unit_id"] for receipt in receipts])
        groups = []
        for table in MERGED_TABLES:
            parts = [(unit, name) for unit in units for name in _parts(table, by_id[unit])]
            firsts = {name: place for place, (_, name) in reversed([*enumerate(parts)])}
            parts.sort(key=lambda part: firsts[part[1]])  # the units of a shared part together
            if parts:
                groups.append(merging.new_group(table, number, parts))
        return groups

    def _in_order(self, unit_ids: list[str]) -> list[str]:
        """The units in the order of the manifest."""
        ids = self._plan.manifest["unit_id"]
        ordered: list[str] = ids.filter(pc.is_in(ids, pa.array(unit_ids, pa.string()))).to_pylist()
        return ordered


def _parts(table: str, receipt: Receipt) -> list[str]:
    """The names of a unit's parts of a table."""
    unit = receipt["unit_id"]
    if receipt["shared"]:
        return [shared_name(table, receipt["shared"])] if table != "masks" or receipt["masks"] else []
    if table != "masks":
        return [part_name(table, unit)]
    if receipt["windows"]:
        return [window_name(unit, number) for number in range(receipt["windows"])]
    return [part_name(table, unit)] if receipt["masks"] else []
