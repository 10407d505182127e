"""A folder of frames in a bucket is accepted and refused like the same folder on disk."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from tests.support.clips import image_folder, read_code
from vrshq.operators.batch import InputError
from vrshq.operators.video.video import open_video
from vrshq.pipelines.label.settings import Limits
from vrshq.pipelines.label.work.videos import local_video


def codes(folder: Path, scratch: Path, limits: Limits = Limits()) -> list[int]:  # noqa: B008 - frozen
    memory = fsspec.filesystem("memory")
    uri = f"/{scratch.name}/frames"
    memory.put(str(folder), uri, recursive=True)
    try:
        with local_video(f"memory:/{uri}", str(scratch / "scratch"), limits) as path, open_video(path) as video:
            return [read_code(frame) for frame in video.stream()]
    finally:
        memory.rm(f"/{scratch.name}", recursive=True)


def test_images_come_in_order_and_other_files_stay_where_they_are(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "frames", ["0.5.jpg", "1.25.webp", "1.5.png"])
    (folder / "notes.txt").write_bytes(b"x")
    (folder / ".hidden.jpg").write_bytes(b"x")
    assert codes(folder, tmp_path) == [0, 1, 2]


@pytest.mark.parametrize("name", ["1.avif", "1.jpg.part", "1", "cover.jpg"])
def test_an_image_without_a_place_refuses_the_folder(name: str, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "frames", ["0.jpg", "1.jpg", "2.jpg"])
    (folder / "1.jpg").rename(folder / name)
    with pytest.raises(InputError, match=name):
        codes(folder, tmp_path)


def test_limits_are_named_as_the_settings_are(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "frames", ["0.jpg", "1.jpg"])
    for limits, name in ((Limits(max_frames=1), "limits.max_frames"), (Limits(max_bytes=10), "limits.max_bytes")):
        with pytest.raises(InputError, match=f"raise {name}"):
            codes(folder, tmp_path, limits)
