"""A GPU without memory costs time and never an answer: smaller batches, then a counted attempt, then an error row that says so.

There is no GPU here: the error is torch's own, raised by a network whose batch is too large.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.clips import h264
from tests.support.label_runs import content, instruction, write_table
from vrshq.operators.batch import is_out_of_device_memory, map_units, new_batch
from vrshq.operators.models.sam2 import tracker
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.pipelines.label.resources import Resources
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings

TRACK = Segmenter.track


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Five instructions on one video, and one on another."""
    for name in ("five", "one"):
        h264(tmp_path / f"{name}.mp4", frames=4)
    rows = [instruction("five.mp4", number, f"the block {number}") for number in range(5)]
    return write_table(tmp_path / "t.jsonl", [*rows, instruction("one.mp4", 0, "the block")])


def too_large_above(most: int, sizes: list[int]) -> Callable[..., Any]:
    """SAM2's tracking step on a device that has memory for so many objects; `sizes` gets the batches that were tried."""

    def track(self: Segmenter, features: Any, conditioning: Any, *rest: Any, **named: Any) -> Any:
        size = len(conditioning[0].pointer)
        sizes.append(size)
        if size > most:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity ..."
            )
        return TRACK(self, features, conditioning, *rest, **named)

    return track


def test_a_unit_that_does_not_fit_is_done_in_smaller_batches(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # untrained weights give all five the same mask, which would be tracked once
    monkeypatch.setattr(tracker, "_alike", lambda memories: {place: [place] for place in memories})
    roomy, tight = str(tmp_path / "roomy"), str(tmp_path / "tight")
    label(table, roomy, Settings(model="untrained-tiny"), use_ray=False)
    sizes: list[int] = []
    monkeypatch.setattr(Segmenter, "track", too_large_above(2, sizes))
    label(table, tight, Settings(model="untrained-tiny"), use_ray=False)
    # 16 and 8 hold all five, 4 is still too many; the next unit begins with whole batches again
    assert [size for size in sizes if size > 2] == [5, 5, 4]
    want, got = content(roomy), content(tight)
    assert [track["status"] for track in got["tracks"]] == [track["status"] for track in want["tracks"]]
    assert got["errors"] == []
    differing = sum(one["rle"] != other["rle"] for one, other in zip(got["masks"], want["masks"], strict=True))
    assert differing <= len(want["masks"]) // 10  # a batch's size may change the last bits


def test_a_unit_that_never_fits_ends_as_an_error_that_says_so_and_the_others_go_on(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run = str(tmp_path / "run")
    large = Settings(model="untrained-tiny", resources=Resources(instruction_batch=2))
    monkeypatch.setattr(Segmenter, "decode_prompt", never_for_five(sizes))
    label(table, run, large, use_ray=False)
    tracks = content(run)["tracks"]
    assert {track["video_id"]: track["error_type"] for track in tracks} == {"five.mp4": "OutOfMemory", "one.mp4": None}
    message = next(track["error_message"] for track in tracks if track["video_id"] == "five.mp4")
    assert "out of device memory with batches of one: OutOfMemoryError: CUDA out of memory" in message


def never_for_five(sizes: list[int]) -> Callable[..., Any]:
    """A mask decoder without memory for the first video, whatever the batch."""
    decode = Segmenter.decode_prompt

    def decode_prompt(self: Segmenter, features: Any, embedding: Any) -> Any:
        sizes.append(len(embedding))
        if len(sizes) <= 5:  # CLIP in batches of 16, 8, 4, 2 and 1, the others of fewer
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(self, features, embedding)

    return decode_prompt


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp"),
    ],
)
def test_an_operator_never_turns_missing_memory_into_a_failure(error: Exception) -> None:
    def run(_: dict[str, Any]) -> dict[str, Any]:
        raise error

    batch = new_batch([{"unit_id": "u", "texts": ["a"]}])
    with pytest.raises(type(error)):
        map_units("stage", batch, run, {})
    assert not is_out_of_device_memory(MemoryError("of the host"))


def test_batches_are_halved_down_to_one() -> None:
    resources, seen = Resources(clip_batch=5, encode_batch=1, instruction_batch=16), []
    while resources != (resources := resources.with_halved_batches()):
        seen.append((resources.clip_batch, resources.encode_batch, resources.instruction_batch))
    assert seen == [(2, 1, 8), (1, 1, 4), (1, 1, 2), (1, 1, 1)]
