"""Damaged copies of clips: what disks, networks and careless tools do to a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.support import clips
from tests.support.label_runs import instruction

Random = np.random.Generator


def _bits(data: bytearray, random: Random) -> bytes:
    """Some bits are turned."""
    for place in random.integers(len(data), size=int(random.integers(1, 30))):
        data[place] ^= 1 << int(random.integers(8))
    return bytes(data)


def _block(data: bytearray, random: Random) -> bytes:
    """A block of a disk is zeros, or another file's bytes."""
    begin, size = _span(data, random)
    data[begin : begin + size] = bytes(size) if random.random() < 0.5 else random.bytes(size)
    return bytes(data)


def _cut(data: bytearray, random: Random) -> bytes:
    """The end, the beginning or a middle part is gone."""
    begin, size = _span(data, random)
    where = random.integers(3)
    if where == 0:
        del data[len(data) - size - begin // 2 :]
    elif where == 1:
        del data[:size]
    else:
        del data[begin : begin + size]
    return bytes(data)


def _repeat(data: bytearray, random: Random) -> bytes:
    """A part comes twice, as after a resumed transfer."""
    begin, size = _span(data, random)
    data[begin:begin] = data[begin : begin + size]
    return bytes(data)


def _huge_field(data: bytearray, random: Random) -> bytes:
    """Fields of the headers hold the largest numbers. Half of the fields lie in the first or last kilobyte."""
    for _ in range(int(random.integers(1, 4))):
        near = min(1024, len(data) - 8)
        place = int(random.integers(near) if random.random() < 0.5 else len(data) - 8 - random.integers(near))
        width = int(random.choice([2, 4, 8]))
        data[place : place + width] = [b"\xff" * width, b"\x7f" + b"\xff" * (width - 1)][int(random.integers(2))]
    return bytes(data)


def _span(data: bytearray, random: Random) -> tuple[int, int]:
    """Where a part begins, and its size: from 16 bytes to a third of the file."""
    size = int(np.exp(random.uniform(np.log(16), np.log(max(17, len(data) // 3)))))
    return int(random.integers(max(1, len(data) - size))), size


KINDS: dict[str, Callable[[bytearray, Random], bytes]] = {
    "bits": _bits,
    "block": _block,
    "cut": _cut,
    "repeat": _repeat,
    "huge-field": _huge_field,
}
CONTAINERS: dict[str, Callable[[Path], Path]] = {
    "mp4": lambda path: clips.h264(path, frames=10),
    "mov": lambda path: clips.encode(path, "mpeg4", frames=10),
    "mkv": lambda path: clips.h264(path, frames=10),
    "webm": lambda path: clips.encode(path, "libvpx", frames=10),
    "avi": lambda path: clips.encode(path, "mpeg4", frames=10, bf=2),
    "ts": lambda path: clips.h264(path, frames=10),
}


def mutated(data: bytes, kind: str, seed: int) -> bytes:
    """A damaged copy; `kind` is one of `KINDS`. The same seed gives the same bytes."""
    return KINDS[kind](bytearray(data), np.random.default_rng(seed))


def write_damaged_corpus(folder: Path, copies: int) -> Path:
    """Writes `copies` damaged copies of clips in six containers, and the table with one instruction for each."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {suffix: make(folder / f"whole.{suffix}").read_bytes() for suffix, make in CONTAINERS.items()}
    names = []
    for number, (suffix, kind) in zip(range(copies), _endless(), strict=False):
        names.append(f"{number:05d}-{kind}.{suffix}")
        (folder / names[-1]).write_bytes(mutated(whole[suffix], kind, number))
    table = folder / "instructions.jsonl"
    table.write_text("".join(json.dumps(instruction(name, 0, "the block")) + "\n" for name in names))
    return table


def _endless() -> Iterator[tuple[str, str]]:
    """Every container with every kind, again and again."""
    while True:
        yield from ((suffix, kind) for kind in KINDS for suffix in CONTAINERS)
