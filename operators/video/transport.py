"""Where an MPEG transport stream was interrupted: places where packets of a stream were lost on their way.

ffmpeg flags packets near such places, and forgets some of the flags. The counters in the packets' headers tell them all.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

STRIDES = (188, 192, 204)  # plain packets; with a time stamp before each (m2ts); with a check sum after each
SYNC = 0x47
CHUNK = 188 * 192 * 204  # bytes read at a time, whole packets of each stride: 7 MB
_SURE = 5  # sync bytes at the right distance that tell where packets begin


def interruptions(path: Path, identity: int) -> list[int]:
    """The places, in bytes, of the packets of stream `identity` (its PID) before which others were lost, or that are damaged.

    Costs one read of the file. Memory: one chunk.
    """
    with path.open("rb") as file:
        stride, start = _alignment(np.frombuffer(file.read(64 * 1024), np.uint8))
        if not stride:
            return []
        found: list[int] = []
        last = -1  # the counter of the stream's last packet
        file.seek(start)
        while len(data := file.read(CHUNK)) >= stride:
            packets = np.frombuffer(data[: len(data) // stride * stride], np.uint8).reshape(-1, stride)
            broken = np.flatnonzero(packets[:, 0] != SYNC)
            if len(broken):  # bytes are missing or damaged: go on where packets begin again
                packets = packets[: broken[0]]
            last = _count(packets, identity, start, last, found)
            start += packets.size
            if len(broken):
                found.append(start)
                file.seek(start + 1)
                again, offset = _alignment(np.frombuffer(file.read(64 * 1024), np.uint8), (stride,))
                if not again:
                    break
                start += 1 + offset
                file.seek(start)
    return found


def _alignment(head: np.ndarray, strides: tuple[int, ...] = STRIDES) -> tuple[int, int]:
    """(distance of packets, place of the first one's sync byte); (0, 0) where no packets are found."""
    for stride in strides:
        for start in np.flatnonzero(head[: max(0, len(head) - stride * (_SURE - 1))] == SYNC).tolist():
            if (head[start : start + stride * _SURE : stride] == SYNC).all():
                return stride, start
    return 0, 0


def _count(packets: np.ndarray, identity: int, start: int, last: int, found: list[int]) -> int:
    """Adds the interruptions among packets (n, stride), the first of which lies at `start`; returns the last counter."""
    if not len(packets):
        return last
    head = packets[:, :6].astype(np.int64)
    mine = np.flatnonzero((head[:, 1] & 0x1F) << 8 | head[:, 2] == identity)
    head = head[mine]
    has_payload = head[:, 3] & 0x10 != 0
    announced = (head[:, 3] & 0x20 != 0) & (head[:, 4] > 0) & (head[:, 5] & 0x80 != 0)  # a discontinuity on purpose
    counters = head[:, 3] & 0x0F
    before = np.concatenate([[last], counters[:-1]]) if len(counters) else counters
    # a packet without payload repeats the counter; so does a packet that is sent twice
    expected = (counters == before) | (has_payload & (counters == (before + 1) % 16)) | (before < 0)
    damaged = head[:, 1] & 0x80 != 0
    places = mine[damaged | ~(expected | announced)]
    found += (start + places * packets.shape[1]).tolist()
    return int(counters[-1]) if len(counters) else last
