"""Videos that stay open between the units of a worker: those of one video share what was fetched, decoded and encoded."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

from vrshq.operators.batch import Batch

Key = tuple[Any, ...]


@dataclass(eq=False)
class KeptVideo:
    """One video, in use by one unit at a time.

    Attributes:
        key: the video and its span.
        path: its local path.
        kept: what operators keep of it (live column `kept`).
        counted: decode passes and encoder calls that were counted for earlier units.
    """

    key: Key
    path: str
    kept: dict[str, Any]
    stack: ExitStack
    counted: list[int] = field(default_factory=lambda: [0, 0])

    def since_last(self) -> tuple[int, int]:
        """Decode passes and encoder calls since the last call."""
        video, features = self.kept.get("video"), self.kept.get("features")
        now = [video.decode_passes if video else 0, features.encoder_calls if features else 0]
        passes, calls = (new - old for new, old in zip(now, self.counted, strict=True))
        self.counted = now
        return passes, calls

    def close(self) -> None:
        """Frees the decoder, what is kept, and a copy on local scratch."""
        if (video := self.kept.pop("video", None)) is not None:
            video.close()
        self.kept.clear()
        self.stack.close()


class KeptVideos:
    """The videos that wait for their next unit: at most one for each unit that the worker has worked on at once."""

    def __init__(self) -> None:
        self._waiting: list[KeptVideo] = []
        self._lock = threading.Lock()

    def take(self, key: Key, fetch: Callable[[], AbstractContextManager[str]]) -> KeptVideo:
        """The video, as an earlier unit left it, or fetched. One that waits for another unit is closed for it."""
        with self._lock:
            found = next((one for one in self._waiting if one.key == key), None)
            other = found or (self._waiting[0] if self._waiting else None)
            if other is not None:
                self._waiting.remove(other)
        if found is not None:
            return found
        if other is not None:
            other.close()
        with contextlib.ExitStack() as stack:
            path = stack.enter_context(fetch())
            return KeptVideo(key, path, {}, stack.pop_all())

    def give(self, video: KeptVideo, *, more: bool) -> None:
        """Takes a video back. `more`: whether another unit of it is likely to follow; else it is closed."""
        if more:
            with self._lock:
                self._waiting.append(video)
        else:
            video.close()


def note_open(videos: Sequence[KeptVideo | None], batch: Batch) -> None:
    """Notes what the operators have opened for the units of a batch, so that it can be counted and closed."""
    for index, video in enumerate(videos):
        for name in ("video", "features"):
            if video is not None and batch.get(name) and batch[name][index] is not None:
                video.kept.setdefault(name, batch[name][index])
