"""Work beside the caller on one thread: the next item prepared ahead of it, or finished ones worked off behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import ParamSpec, TypeVar

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Given = ParamSpec("Given")


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


class Behind:
    """A context that works off calls on one thread behind the caller, in their order, and ends when all are done.

    The caller waits when `most` calls are under way, so what they hold is bounded. What a call raises is raised at a later
    `put` or at the end of the context, and the calls after it are dropped.
    """

    def __init__(self, most: int = 2) -> None:
        self.most = most
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._pending: deque[Future[object]] = deque()

    def put(self, work: Callable[Given, object], *args: Given.args, **kwargs: Given.kwargs) -> None:
        """Calls `work` on the thread when the calls before it are done."""
        while len(self._pending) >= self.most or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(work, *args, **kwargs))

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._pending:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)
