"""The YOLO data set by the rules of Ultralytics' loader: paths, classes, polygons, and the masks that it fills from them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from tests.support import clips
from tests.support.clips import read_code
from tests.support.one_answer import write_run
from vrshq.pipelines.export.run import export
from vrshq.pipelines.export.yolo import line_of

HEIGHT, WIDTH = 96, 160


def loaded(folder: Path) -> tuple[dict[str, Any], dict[str, list[tuple[int, np.ndarray]]]]:
    """`data.yaml`, and by picture (its path below the folder) its objects: class and polygon (n, 2) in shares.

    The checks are those of the loader, which drops a picture or refuses the set where one fails.
    """
    about = yaml.safe_load((folder / "data.yaml").read_text("utf-8"))
    assert {"train", "val", "names"} <= about.keys()
    assert "path" not in about  # else relative to the reader's own folder of data sets; now to the file
    assert list(about["names"]) == list(range(len(about["names"])))
    found = {}
    for listed in (folder / about["train"]).read_text("utf-8").splitlines():
        picture = listed.replace("./", f"{folder}/", 1)
        assert listed.startswith("./")
        with Image.open(picture) as image:
            image.verify()
            assert min(image.size) > 9
        label = Path("/labels/".join(picture.rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt")
        rows = [line.split() for line in label.read_text("utf-8").strip().splitlines()]
        objects = []
        for row in rows:
            assert len(row) > 6  # fewer are taken for a box
            assert len(row) % 2 == 1
            values = np.array(row[1:], np.float32).reshape(-1, 2)
            assert values.min() >= 0
            assert values.max() <= 1
            assert 0 <= int(row[0]) < len(about["names"])
            assert (values.max(0) > values.min(0)).all()  # a box without a side is no box
            objects.append((int(row[0]), values))
        found[listed.removeprefix("./images/")] = objects
    return about, found


def filled(shares: np.ndarray, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """The mask as the loader makes it: whole numbers by cutting off, then `cv2.fillPoly`."""
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [(shares * (width, height)).astype(np.int32)], 1)
    return mask > 0


@pytest.fixture
def objects() -> tuple[np.ndarray, np.ndarray]:
    """A ring with an empty frame, and two squares that lie apart."""
    ring, parts = np.zeros((2, 4, HEIGHT, WIDTH), np.uint8)
    for number in range(3):
        cv2.circle(ring[number], (50 + number, 48), 40, 1, -1)
        cv2.circle(ring[number], (50 + number, 48), 15, 0, -1)
        parts[number, 10:30, 100:120] = parts[number, 60:80, 130 + number : 150 + number] = 1
    return ring > 0, parts > 0


def test_pictures_labels_and_classes_are_those_of_the_run(
    objects: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    clip = clips.h264(tmp_path / "v.mp4", frames=4, height=HEIGHT, width=WIDTH)
    run = write_run(str(tmp_path / "run"), clip, list(range(4)), *objects)
    summary = export(run.uri, "yolo", str(tmp_path / "out"))
    assert (summary.format, summary.notes, summary.merged) == ("yolo-seg", [], 0)
    about, found = loaded(tmp_path / "out")
    assert about["names"] == {0: "the block"}
    assert list(found) == [f"v/{number:05d}.jpg" for number in range(4)]
    assert [len(found[name]) for name in found] == [2, 2, 2, 0]
    for number, (name, (ring, parts)) in enumerate(itertools.islice(found.items(), 3)):
        assert read_code(np.asarray(Image.open(tmp_path / "out" / "images" / name))) == number
        mask = objects[0][number].astype(np.uint8)
        border = cv2.dilate(mask, np.ones((3, 3))) != cv2.erode(mask, np.ones((3, 3)))
        assert not ((filled(ring[1]) != (mask > 0)) & ~border).any()
        wrong = filled(parts[1]) ^ objects[1][number]
        assert 0 < wrong.sum() < 60  # the line that joins the two squares
        assert not (objects[1][number] & ~filled(parts[1])).any()
        assert cv2.connectedComponents(filled(parts[1]).astype(np.uint8))[0] == 2


@pytest.mark.parametrize(
    "pixels", [[(5, 7)], [(5, 7), (5, 8)], [(0, 0)], [(95, 159), (94, 158)], [(3, x) for x in range(9)]]
)
def test_the_smallest_masks_have_a_polygon_with_an_area(pixels: list[tuple[int, int]]) -> None:
    mask = np.zeros((1, HEIGHT, WIDTH), bool)
    for row, column in pixels:
        mask[0, row, column] = True
    number, *values = line_of(3, mask[0]).split()
    assert number == "3"
    shares = np.array(values, np.float32).reshape(-1, 2)
    assert len(shares) >= 3
    assert (shares.max(0) > shares.min(0)).all()
    assert np.array_equal(filled(shares), mask[0])


def test_labels_are_written_without_pictures_where_the_video_is_gone(
    objects: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    run = write_run(str(tmp_path / "run"), tmp_path / "none.mp4", list(range(4)), *objects)
    summary = export(run.uri, "yolo-seg", str(tmp_path / "out"))
    assert any(note.startswith("v: labels without pictures, because ") for note in summary.notes)
    assert len(list((tmp_path / "out" / "labels" / "v").iterdir())) == 4


def test_a_video_called_images_is_found_by_the_loader(tmp_path: Path) -> None:
    from tests.pipelines.export.test_export import write_run as write_many

    clip = clips.h264(tmp_path / "v.mp4", frames=2, height=HEIGHT, width=WIDTH)
    masks = np.zeros((2, HEIGHT, WIDTH), bool)
    masks[:, 10:30, 10:40] = True
    keys = [("a/images", "0"), ("a/images", "1"), ("a/%69mages", "0")]
    run = write_many(
        str(tmp_path / "run"), dict.fromkeys(keys, masks), dict.fromkeys((key[0] for key in keys), str(clip))
    )
    export(run.uri, "yolo-seg", str(tmp_path / "out"))
    about, found = loaded(tmp_path / "out")
    assert about["names"] == {0: "text 0 <&>", 1: "text 1 <&>"}
    assert sorted(len(each) for each in found.values()) == [1, 1, 2, 2]
