"""Long files are opened by the index of their packets: the right frames, named damage, and no decode of the whole file."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.clips import GOOD, h264, read_code
from vrshq.operators.batch import InputError
from vrshq.operators.video import choose_reader, indexed_reader
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.video import open_video

INDEXED = [
    "h264 mp4 b-frames",
    "h264 mp4 intra refresh",
    "h264 mp4 variable rate",
    "h264 mp4 start at 3 s",
    "h264 mp4 rotated 90",
    "h264 mp4 10 bit",
    "h264 ts b-frames",
    "hevc mp4 b-frames",
    "hevc mp4 open gop",
    "vp9 webm",
]
DOUBTFUL = ["h264 mp4 edit list", "h264 mkv from mid-group", "mpeg4 avi b-frames"]
NO_CACHE = DecodeConfig(frame_cache_bytes=0)


@pytest.fixture(autouse=True)
def short_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of some dozen frames are long, and decord reads none."""
    monkeypatch.setattr(indexed_reader, "LONG_FRAMES", 10)
    monkeypatch.setattr(choose_reader, "distrust", lambda *_: "a test")


def orders(count: int) -> Iterator[list[int]]:
    """Frames upwards, downwards by blocks, and in any order."""
    yield list(range(count))
    yield [frame for end in range(count, 0, -7) for frame in range(max(0, end - 7), end)]
    yield random.Random(0).choices(range(count), k=2 * count)


@pytest.mark.parametrize("kind", [*INDEXED, *DOUBTFUL])
def test_each_frame_is_the_one_of_its_index_in_any_order(kind: str, tmp_path: Path) -> None:
    made = GOOD[kind]
    with open_video(str(made.make(tmp_path / f"clip{made.suffix}")), NO_CACHE) as video:
        assert video.reader_reason.endswith("; long") == (kind in INDEXED), video.reader_reason
        for order in orders(video.num_frames):
            assert [read_code(video.frames([frame])[0]) for frame in order] == [made.numbers[frame] for frame in order]


def test_opening_decodes_some_groups_and_not_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0
    take = indexed_reader.IndexedReader._take

    def counted(reader: indexed_reader.IndexedReader) -> object:
        nonlocal decoded
        decoded += 1
        return take(reader)

    monkeypatch.setattr(indexed_reader.IndexedReader, "_take", counted)
    path = h264(tmp_path / "clip.mp4", frames=300, gop=10)
    with open_video(str(path), NO_CACHE) as video:
        assert (video.num_frames, video.decode_passes) == (300, 0)
        assert decoded <= 3 * (10 + 3 + 3)
        assert read_code(video.frames([299])[0]) == 299
        assert decoded <= 3 * (10 + 3 + 3) + 10


def test_blocks_backwards_decode_each_group_once(tmp_path: Path) -> None:
    with open_video(str(h264(tmp_path / "clip.mp4", frames=60, gop=60, bf=0)), NO_CACHE) as video:
        for end in range(60, 0, -6):
            assert [read_code(frame) for frame in video.frames(range(end - 6, end))] == list(range(end - 6, end))
        assert video.decode_passes == 1


def test_what_may_be_held_is_bounded(tmp_path: Path) -> None:
    path = h264(tmp_path / "clip.mp4", frames=60, gop=60, bf=0)
    frame_bytes = 96 * 160 * 3
    with open_video(str(path), DecodeConfig(frame_cache_bytes=0, decord_bytes=20 * frame_bytes)) as video:
        reader = video._reader
        assert isinstance(reader, indexed_reader.IndexedReader)
        video.frames([50])
        assert sorted(reader._passed) == list(range(30, 50))


def test_damage_in_the_middle_is_named_when_it_is_reached(tmp_path: Path) -> None:
    path = h264(tmp_path / "clip.mp4", frames=120, gop=20)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"breaks at frame \d+ of 120|frames are lost"), open_video(str(path)) as video:
        list(video.stream())
