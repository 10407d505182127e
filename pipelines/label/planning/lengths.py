"""The lengths of a run's videos for its plan: the headers of a sample of them, read in a process of its own.

A video is untrusted input, and a decoder that a broken one ends must not end the command. The process has bounds: a number
of videos, bytes, and seconds; what it found until then counts. A video without a readable header is left out.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import is_remote, is_web, local_path
from vrshq.operators.video.frame_names import IMAGE_SUFFIXES

MOST_VIDEOS = 64
MOST_SECONDS = 10.0
# Longest time in which the process has to start, in seconds.
_START_SECONDS = 30.0
MOST_BYTES = 8 << 20
MOST_BYTES_IN_ALL = 128 << 20
# The same where every length counts. The header of 10 hours with 60 frames a second has some 20 MiB.
EVERY_BYTES = 64 << 20
EVERY_SECONDS = 60.0
_READERS = 8
_COMMAND = "from vrshq.pipelines.label.planning.lengths import main; main()"


@dataclass(frozen=True)
class Lengths:
    """What the headers of a sample of units say.

    Attributes:
        looked: number of videos whose header was read.
        videos: number of videos of which the sample was drawn.
        frames: average number of a unit's labelled frames.
        frame_instructions: average of frames times instructions of a unit.
        by_uri: number of frames of the videos whose header was read, by video_uri.
    """

    looked: int
    videos: int
    frames: float
    frame_instructions: float
    by_uri: Mapping[str, int] = field(default_factory=dict, hash=False)


def look_at_headers(units: pa.Table, every: int) -> Lengths:
    """The lengths of a random sample of units (rows of `MANIFEST`), which may be empty: every n-th frame of their spans.

    Costs at most `MOST_SECONDS` and the start of a process. The same units give the same sample.
    """
    rows = sorted(random.Random(0).sample(range(units.num_rows), min(MOST_VIDEOS, units.num_rows)))
    columns = ["video_uri", "instruction_ids", "start", "end"]
    sample = units.select(columns).take(pa.array(rows, pa.int64())).to_pylist()
    uris = list(dict.fromkeys(unit["video_uri"] for unit in sample))
    frames = _frames_by_child(uris, _Bounds(MOST_SECONDS, MOST_BYTES, MOST_BYTES_IN_ALL))
    found = []
    for unit in sample:
        if whole := frames.get(unit["video_uri"]):
            last = whole if unit["end"] is None else min(unit["end"], whole)
            found.append((len(range(unit["start"] or 0, last, every)), len(unit["instruction_ids"])))
    number = max(1, len(found))
    return Lengths(
        looked=len(frames),
        videos=pc.count_distinct(units["video_id"]).as_py(),
        frames=sum(length for length, _ in found) / number,
        frame_instructions=sum(length * count for length, count in found) / number,
        by_uri=frames,
    )


def lengths_of(uris: Sequence[str]) -> dict[str, int]:
    """The number of frames that the header of each video states, by uri. Costs a read of each header.

    Headers of up to `EVERY_BYTES` are read; `MOST_VIDEOS` at once have `EVERY_SECONDS`.
    """
    found: dict[str, int] = {}
    for begin in range(0, len(uris), MOST_VIDEOS):
        part = uris[begin : begin + MOST_VIDEOS]
        found |= _frames_by_child(part, _Bounds(EVERY_SECONDS, EVERY_BYTES, EVERY_BYTES * len(part)))
    return found


class _Bounds(NamedTuple):
    """What the process may take: seconds, bytes of a header, and bytes of all headers."""

    seconds: float
    header: int
    headers: int


def _frames_by_child(uris: Sequence[str], bounds: _Bounds) -> dict[str, int]:
    """The stated number of frames by uri, from a process that may die or be killed at any moment."""
    # The child finds the same packages as this process, and none of the user's own in the current folder.
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    command = [sys.executable, "-P", "-c", _COMMAND]
    try:
        ended = subprocess.run(
            command,
            input=json.dumps([list(uris), bounds]).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_START_SECONDS + bounds.seconds,
            check=False,
            env={**os.environ, "PYTHONPATH": paths},
        )
        output = ended.stdout
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
    except OSError:
        return {}
    found: dict[str, int] = {}
    for line in output.split(b"\n")[:-1]:  # the last line may be cut
        with contextlib.suppress(ValueError):
            place, frames = json.loads(line)
            found[uris[place]] = frames
    return found


def main() -> None:
    """The child: JSON [uris, bounds] on stdin, and a line [place of the uri, frames] on stdout for each header read."""
    uris, given = json.load(sys.stdin)
    bounds = _Bounds(*given)
    ending = threading.Timer(bounds.seconds, os._exit, [0])  # whatever the readers wait for
    ending.daemon = True
    ending.start()
    budget, lock = _Budget(bounds.headers), threading.Lock()

    def look(place: int) -> None:
        try:
            frames = frames_of(uris[place], budget, bounds.header)
        except Exception:  # noqa: BLE001 - a video without a readable header is left out of an estimate
            return
        if frames:
            with lock:
                sys.stdout.write(f"{json.dumps([place, frames])}\n")
                sys.stdout.flush()

    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(look, range(len(uris))))


def frames_of(uri: str, budget: _Budget | None = None, most: int | None = None) -> int | None:
    """The number of frames that a video's header states, or that a folder of frames has; None where it is not stated.

    Raises OSError, and what PyAV raises, where it cannot be found within `most` bytes (default: `MOST_BYTES`) and the budget.
    """
    from vrshq.operators.video.headers import stated_frames

    if is_web(uri):  # whether web servers may be called is decided where the run fetches videos
        return None
    if not is_remote(uri):
        path = local_path(uri)
        if path.is_dir():
            with os.scandir(path) as entries:
                return _count(entry.name for entry in entries)
        if not path.is_file():
            return None
        with path.open("rb", buffering=0) as file:
            return stated_frames(_bounded(file, budget, most))
    parent, _, name = uri.rstrip("/").rpartition("/")
    folder = Folder(parent, patience_s=0)
    if folder.exists(name):
        with folder.open_read(name) as file:
            return stated_frames(_bounded(file, budget, most))
    return _count(name for name in Folder(uri, patience_s=0).list() if "/" not in name)


def _count(names: Iterable[str]) -> int:
    return sum(Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".") for name in names)


class _Budget:
    """Bytes that may still be read, over all threads."""

    def __init__(self, size: int) -> None:
        self._left, self._lock = size, threading.Lock()

    def take(self, size: int) -> None:
        """Takes some of them. Raises OSError where there are no more."""
        with self._lock:
            self._left -= size
            if self._left < 0:
                raise OSError("the header is larger than what may be read for a plan")


class _BoundedFile(io.RawIOBase):
    """A file of which only so many bytes can be read."""

    def __init__(self, file: BinaryIO, budgets: Sequence[_Budget]) -> None:
        self._file, self._budgets = file, budgets

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; OSError beyond the bound."""
        data = self._file.read(size)
        for budget in self._budgets:
            budget.take(len(data))
        return data


def _bounded(file: BinaryIO, budget: _Budget | None, most: int | None) -> BinaryIO:
    return cast(BinaryIO, _BoundedFile(file, [_Budget(most or MOST_BYTES), *([budget] if budget else [])]))
