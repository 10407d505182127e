"""When frames are shown: the times of a file's packets, in presentation order."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.support import clips
from vrshq.operators.video.times import DEFAULT_RATE, frame_times


def test_a_file_of_constant_rate_has_evenly_spread_times(tmp_path: Path) -> None:
    clips.h264(tmp_path / "v.mp4", frames=7)
    times = frame_times(str(tmp_path / "v.mp4"), 7)
    with av.open(str(tmp_path / "v.mp4")) as container:
        rate = container.streams.video[0].average_rate
    assert rate is not None
    assert [tick * times.unit for tick in times.ticks] == [number / Fraction(rate) for number in range(7)]
    assert {times.duration(index) for index in range(7)} == {times.ticks[1]}


def test_a_file_of_variable_rate_keeps_the_time_of_each_frame(tmp_path: Path) -> None:
    shown = [0, 40, 100, 105, 300, 301, 900]
    clips.h264(tmp_path / "v.mp4", pts=shown, frames=len(shown), bf=2)
    times = frame_times(str(tmp_path / "v.mp4"), len(shown))
    assert [round(tick * times.unit * 1000) for tick in times.ticks] == shown
    assert times.duration(6) == times.duration(5) == times.ticks[6] - times.ticks[5]


@pytest.mark.parametrize("count", [1, 3])
def test_pictures_of_a_folder_are_25_a_second(tmp_path: Path, count: int) -> None:
    times = frame_times(str(tmp_path), count)
    assert [tick * times.unit for tick in times.ticks] == [number / DEFAULT_RATE for number in range(count)]
    assert times.duration(0) * times.unit == 1 / DEFAULT_RATE


def test_a_file_with_another_number_of_times_has_its_average_rate(tmp_path: Path) -> None:
    clips.h264(tmp_path / "v.mp4", frames=7)
    times = frame_times(str(tmp_path / "v.mp4"), 5)
    assert times.ticks == [0, 1, 2, 3, 4]
    assert times.duration(4) == 1
