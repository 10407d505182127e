"""Promises of videos that lie in another place than when they were labelled."""

from __future__ import annotations

from pathlib import Path

import pytest

from vrshq.pipelines.label.tables.moved import MovedVideosError, VideoPlaces


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"1")


def test_a_tree_that_was_moved_whole_is_found_by_the_longest_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/cup.mp4", "cup.mp4", "a/frames/0.jpg")
    uris = ["/old/data/a/cup.mp4", "s3://bucket/data/a/frames", "/old/data/a/lost.mp4", "/elsewhere/cup.mp4"]
    places = VideoPlaces(str(tmp_path), uris)
    assert [places.now(uri) for uri in uris] == [
        str(tmp_path / "a/cup.mp4"),
        str(tmp_path / "a/frames"),
        str(tmp_path / "lost.mp4"),
        str(tmp_path / "cup.mp4"),
    ]


def test_without_a_root_videos_lie_where_they_lay() -> None:
    assert VideoPlaces(None, ["x"]).now("/old/cup.mp4") == "/old/cup.mp4"


def test_a_path_never_leads_outside_the_root(tmp_path: Path) -> None:
    touch(tmp_path, "root/cup.mp4", "secret.mp4")
    places = VideoPlaces(str(tmp_path / "root"), ["cup.mp4"])
    assert places.now("/x/../secret.mp4") == str(tmp_path / "root" / "secret.mp4")
    assert places.now("a/../../cup.mp4") == str(tmp_path / "root" / "cup.mp4")


def test_a_root_without_any_of_the_videos_is_one_line(tmp_path: Path) -> None:
    touch(tmp_path, "other.mp4")
    with pytest.raises(
        MovedVideosError, match=rf"^--videos {tmp_path}: holds none of the run's videos, such as /old/a\.mp4 or"
    ):
        VideoPlaces(str(tmp_path), ["/old/a.mp4", "/old/b.mp4"])
