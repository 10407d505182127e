"""Objects keep their number over the pieces of a video, whatever the order in which each piece found them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.masks import rle
from vrshq.operators.masks.windows import Answers
from vrshq.pipelines.label.tables.schema import MASKS, SCHEMA_VERSION, TOKENS, TRACKS
from vrshq.pipelines.label.work.joining import Joiner

LENGTH, OVERLAP, OBJECTS = 6, 2, 3  # frames that a piece begins after the one before, and shares with the next one
HEIGHT, WIDTH = 5, 4 * OBJECTS


class Memory:
    """A `WindowStore` in memory."""

    def __init__(self, num_frames: int) -> None:
        self.length = 4
        self.count = -(-num_frames // self.length)
        self.windows: dict[int, Answers] = {}

    def read(self, number: int) -> Answers | None:
        return self.windows.get(number)

    def write(self, number: int, answers: Answers) -> None:
        self.windows[number] = answers

    def save(self, name: str, content: bytes) -> None:
        raise AssertionError(name, content)

    def load(self, name: str) -> bytes | None:
        raise AssertionError(name)

    def reached(self) -> None:
        pass

    def keep_unit(self, columns: Mapping[str, Any]) -> None:
        raise AssertionError(columns)


def mask(thing: int | None, frame: int) -> rle.EncodedMask:
    """A thing is a block of its own columns that moves up and down."""
    pixels = np.zeros((1, HEIGHT, WIDTH), bool)
    if thing is not None:
        pixels[0, frame % 2 : frame % 2 + 3, 4 * thing : 4 * thing + 3] = True
    return rle.encode(pixels)[0]


def write_piece(run: RunDirectory, number: int, frames: range, things: list[int], total: int) -> str:
    """A piece in which the things were found in the given order."""
    unit, named = f"{number:04x}", {"video_id": f"ab-{number:04}", "instruction_id": "0"}
    track = {
        **named,
        "video_uri": "v",
        "text": "all",
        "answer": f"{len(things)}",
        "num_objects": len(things),
        "num_frames": total,
        "status": "ok" if things else "empty",
        "start": frames.start,
        "end": frames.stop,
        "every": 1,
        "height": HEIGHT,
        "width": WIDTH,
        "sampled_frames": [frames[0], frames[-1]],
        "object_scores": [float(thing) for thing in things],
        "attempts": 1,
        "schema_version": SCHEMA_VERSION,
        "presence": 0.5,
    }
    masks = [
        {
            **named,
            "object_id": place,
            "frame_index": frame,
            "height": HEIGHT,
            "width": WIDTH,
            "object_score": 1.0,
            **vars(mask(thing, frame)),
        }
        for place, thing in enumerate(things or [None])
        for frame in frames
    ]
    tokens = {**named, "sampled_frames": track["sampled_frames"], "seg": [0.0] * len(things), "tak": [], "d": 1}
    tables = {
        "masks": pa.Table.from_pylist(masks, MASKS),
        "tokens": pa.Table.from_pylist([tokens], TOKENS),
        "tracks": pa.Table.from_pylist([track], TRACKS),
    }
    run.commit_unit(unit, tables)
    return unit


# some things in some order
FOUND = st.tuples(st.permutations(range(OBJECTS)), st.integers(0, OBJECTS)).map(lambda drawn: drawn[0][: drawn[1]])


@settings(max_examples=40, deadline=None)
@given(st.lists(FOUND, min_size=2, max_size=5))
def test_objects_keep_their_number_where_they_go_on(found: list[list[int]]) -> None:
    total = LENGTH * len(found)
    with TemporaryDirectory() as folder:
        run = RunDirectory(str(Path(folder)))
        spans = [range(LENGTH * place, min(LENGTH * (place + 1) + OVERLAP, total)) for place in range(len(found))]
        units = [
            write_piece(run, place, span, things, total)
            for place, (span, things) in enumerate(zip(spans, found, strict=True))
        ]
        stores: list[Memory] = []

        def store_of(unit: dict[str, Any]) -> Memory:
            stores.append(Memory(unit["num_frames"]))
            return stores[0]

        whole = {"unit_id": "ab", "video_id": "v", "instruction_ids": ["0"], "texts": ["all"]}
        unit = Joiner(run, {"ab": units}, one_object=False).join(whole, store_of)
    # each thing has a number of its own for every run of pieces in which it is found
    runs = sum(
        thing in things and not (place and thing in found[place - 1])
        for place, things in enumerate(found)
        for thing in range(OBJECTS)
    )
    assert unit["num_objects"] == [runs]
    scores = [float(thing) for things in found for thing in things]
    assert unit["object_scores"] == [[scores] if scores else None]
    assert len(unit["seg"][0]) == len(scores)
    store = stores[0]
    objects = [
        [one for number in range(store.count) for one in store.windows[number][0][place].masks if one]
        for place in range(max(1, runs))
    ]
    assert [len(one) for one in objects] == [total] * max(1, runs)
    owner = [max(0, min((frame - OVERLAP // 2) // LENGTH, len(found) - 1)) for frame in range(total)]
    for frame in range(total):
        shown = sorted(one[frame].rle for one in objects if one[frame].area)
        assert shown == sorted(mask(thing, frame).rle for thing in found[owner[frame]])
    for one in objects:
        shown_by = {
            thing
            for thing in range(OBJECTS)
            for frame in range(total)
            if one[frame].area and one[frame].rle == mask(thing, frame).rle
        }
        assert len(shown_by) <= 1
    assert unit["summed"][0].shown == bool(runs)
