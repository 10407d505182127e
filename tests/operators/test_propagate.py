"""Masks are encoded beside the tracker: the same tables, errors that reach their unit, a bounded number of steps in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.array_video import ArrayVideo, unit_batch
from vrshq.operators.masks import rle
from vrshq.operators.masks.holes import fill_holes
from vrshq.operators.models.family import Request, TrackedObject
from vrshq.operators.propagate import Propagate, PropagateConfig
from vrshq.operators.video.prefetch import Behind

FRAMES, OBJECTS, SIDE, AREA = 12, 3, 24, 4


class Steps:
    """A tracker of random masks. It uses one buffer for all its steps, as a tracker may."""

    def __init__(self, *, fail_at: int | None = None, error: Exception | None = None, buffer: bool = True) -> None:
        self.fail_at, self.error, self.buffer = fail_at, error, buffer
        self.begun, self.done, self.most = 0, 0, 0
        self.threads: set[str] = set()
        self.logits = torch.randn(FRAMES, OBJECTS, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    def open(self, video: Any, *, stays: bool = False) -> Any:  # noqa: ARG002
        return SimpleNamespace(encoder_calls=0, video=video)

    def track(self, _opened: Any, requests: Mapping[int, Request]) -> Iterator[list[TrackedObject]]:
        shared = torch.empty(OBJECTS, SIDE, SIDE)
        for frame in range(FRAMES):
            shared.copy_(self.logits[frame])
            self.begun += 1
            self.most = max(self.most, self.begun - self.done)
            yield [
                TrackedObject(key, number, frame, shared[number], 1.5, prompted=frame == 0, hole_area=AREA)
                for key in requests
                for number in range(OBJECTS)
            ]
        if self.fail_at == FRAMES and self.error:
            raise self.error

    def full_size(self, opened: Any, low_res: Tensor) -> Tensor:
        self.threads.add(threading.current_thread().name)
        if self.done == self.fail_at and self.error:
            raise self.error
        self.done += 1
        size = (opened.video.height, opened.video.width)
        return torch.nn.functional.interpolate(low_res[:, None], size=size, mode="bilinear")[:, 0]


def propagate(tracker: Steps) -> dict[str, Any]:
    operator = Propagate(PropagateConfig(model="untrained-tiny"))
    operator.tracker = tracker  # type: ignore[assignment]
    columns = {"prompts": [[[0.0]] * OBJECTS], "sampled_frames": [[0]]}
    batch = operator(unit_batch(ArrayVideo(FRAMES), ["a"], **columns))
    return {name: values[0] for name, values in batch.items()}


def test_masks_equal_those_that_are_filled_and_encoded_one_by_one() -> None:
    tracker = Steps()
    unit = propagate(tracker)
    assert unit["errors"] == [None]
    opened = tracker.open(ArrayVideo(FRAMES))
    for number in range(OBJECTS):
        for frame in range(FRAMES):
            filled = fill_holes(tracker.logits[frame, number][None], AREA)
            [want] = rle.encode((tracker.full_size(opened, filled) > 0).numpy())
            assert unit["rles"][0][number][frame] == want.rle
            assert unit["areas"][0][number][frame] == want.area
            assert unit["bboxes"][0][number][frame] == list(want.bbox)


def test_masks_are_encoded_on_another_thread_a_bounded_number_of_steps_behind() -> None:
    tracker = Steps()
    propagate(tracker)
    assert tracker.done == FRAMES
    assert len(tracker.threads) == 1
    assert threading.current_thread().name not in tracker.threads
    assert tracker.most <= 3  # the step itself and two behind it


@pytest.mark.parametrize("fail_at", [0, 5, FRAMES - 1, FRAMES])
def test_an_error_beside_the_tracker_or_in_it_is_the_error_of_the_unit(fail_at: int) -> None:
    unit = propagate(Steps(fail_at=fail_at, error=ValueError("a mask of no size")))
    assert unit["rles"] == []
    assert [one and one["message"] for one in unit["errors"]] == ["a mask of no size"]
    assert not [one for one in threading.enumerate() if one.name.startswith("behind")]


def test_a_device_without_memory_for_the_masks_is_reported_as_such() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        propagate(Steps(fail_at=3, error=torch.OutOfMemoryError("CUDA out of memory")))


def test_calls_are_worked_off_in_order_on_one_thread_and_all_are_done_at_the_end() -> None:
    done: list[tuple[int, str]] = []
    with Behind(2) as behind:
        for number in range(50):
            behind.put(lambda one: done.append((one, threading.current_thread().name)), number)
    assert [number for number, _ in done] == list(range(50))
    assert len({thread for _, thread in done}) == 1


def test_the_caller_waits_when_the_calls_under_way_are_too_many() -> None:
    gate, entered = threading.Event(), []

    def caller() -> None:
        with Behind(2) as behind:
            for number in range(3):
                behind.put(gate.wait)
                entered.append(number)

    thread = threading.Thread(target=caller)
    thread.start()
    thread.join(0.2)
    assert entered == [0, 1]
    gate.set()
    thread.join()
    assert entered == [0, 1, 2]


def test_calls_after_a_failed_one_are_dropped() -> None:
    done: list[int] = []
    release = threading.Event()

    def work(number: int) -> None:
        release.wait()
        if number == 0:
            raise ValueError("first")
        done.append(number)

    with pytest.raises(ValueError, match="first"), Behind(4) as behind:  # noqa: PT012
        for number in range(4):
            behind.put(work, number)
        release.set()
        for number in range(4, 100):
            behind.put(work, number)
    assert len(done) < 99
    assert not [one for one in threading.enumerate() if one.name.startswith("behind")]


def test_what_the_caller_raises_is_not_hidden_by_what_is_behind_it() -> None:
    def work() -> None:
        raise ValueError("behind")

    with pytest.raises(KeyError), Behind(4) as behind:  # noqa: PT012
        behind.put(work)
        raise KeyError("caller")


def test_codes_of_a_unit_without_masks_are_those_of_empty_masks() -> None:
    operator = Propagate(PropagateConfig(model="untrained-tiny"))
    operator.tracker = SimpleNamespace(open=lambda *_, **__: None, track=lambda *_: iter(()))
    columns = {"prompts": [[[0.0]]], "sampled_frames": [[0]]}
    batch = operator(unit_batch(ArrayVideo(2), ["a"], **columns))
    [empty] = rle.encode(np.zeros((1, 40, 64), bool))
    assert batch["rles"][0][0] == [[empty.rle] * 2]
