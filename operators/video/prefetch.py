"""Preparing the next item on a thread while the current one is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")


def ahead(prepare: Callable[[Item], Prepared], items: Iterable[Item]) -> Iterator[Prepared]:
    """Yields `prepare(item)` for each item in order; the next one is prepared meanwhile, on one thread.

    Decoding and resizing frames leave Python's lock, so they run beside the networks. At most two prepared items exist at
    a time. `prepare` is never called twice at once; what it raises is raised here, at its item.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        pending = [pool.submit(prepare, item) for item in islice(iterator, 1)]
        while pending:
            prepared = pending.pop().result()
            pending = [pool.submit(prepare, item) for item in islice(iterator, 1)]
            yield prepared
