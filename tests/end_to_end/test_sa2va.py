"""A labelling run of Sa2VA: answers and several objects in tables, report and exports; the same on Ray, killed and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.support.fault_kit import Command, checksums, nodes, wait_until
from tests.support.label_runs import content, decoded, instruction, write_table
from tests.support.sa2va_tiny import ANSWERS, MODEL, QUESTIONS, write_frames
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.export.formats import FORMATS
from vrshq.pipelines.export.run import export
from vrshq.pipelines.label.planning.plan import make_plan
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.opened import open_run
from vrshq.pipelines.report.names import sheet_name
from vrshq.pipelines.report.run import write_report

Masks = dict[tuple[str, str, int, int], np.ndarray]  # by video, instruction, object, frame


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Five instructions on two videos: one answer without [SEG], one with two, one with four."""
    folder = tmp_path_factory.mktemp("sa2va")
    for name in ("q2", "q3"):
        write_frames(name, folder / name)
    rows = [
        instruction("q2", "none", QUESTIONS["q2"]),
        instruction("q2", "one", "the red cup on the left"),
        instruction("q3", "two", QUESTIONS["q3"]),
        instruction("q3", "four", "[SEG] [SEG] [SEG]"),
        instruction("q3", "bad", " "),
    ]
    return write_table(folder / "table.jsonl", rows)


@pytest.fixture(scope="module")
def run(table: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The for-loop's run."""
    output = str(tmp_path_factory.mktemp("loop") / "run")
    label(table, output, Settings(model=MODEL, max_instructions_per_unit=2), use_ray=False)
    return output


@pytest.fixture(scope="module")
def masks(run: str) -> Masks:
    """The run's masks as arrays."""
    rows = content(run)["masks"]
    keys = ("video_id", "instruction_id", "object_id", "frame_index")
    return {tuple(row[key] for key in keys): decoded(row).astype(bool) for row in rows}


def test_sa2va_tables_hold_answers_and_objects(run: str, masks: Masks) -> None:
    tracks = {track["instruction_id"]: track for track in content(run)["tracks"]}
    assert {key: (track["status"], track["num_objects"]) for key, track in tracks.items()} == {
        "none": ("empty", 0),
        "one": ("ok", tracks["one"]["num_objects"]),
        "two": ("ok", 2),
        "four": ("ok", 4),
        "bad": ("error", None),
    }
    assert tracks["none"]["answer"] == ANSWERS["q2"]
    assert tracks["two"]["answer"] == ANSWERS["q3"]
    assert tracks["none"]["presence"] is tracks["bad"]["answer"] is tracks["two"]["keyframe_index"] is None
    assert tracks["two"]["clip_probs"] is None
    assert len(tracks["two"]["object_scores"]) == 2 * len(tracks["two"]["sampled_frames"])
    objects: dict[str, set[int]] = {}
    for _, key, number, _ in masks:
        objects.setdefault(key, set()).add(number)
    assert (objects["none"], objects["two"], objects["four"]) == ({0}, {0, 1}, {0, 1, 2, 3})
    assert len([key for key in masks if key[1] == "two"]) == 2 * 7
    assert not any(mask.any() for key, mask in masks.items() if key[1] == "none")


def test_sa2va_run_in_python_gives_the_union_or_an_object(run: str, masks: Masks) -> None:
    found = open_run(run).masks("q3", "two")
    assert found.objects == [0, 1]
    assert len(found) == 7
    for frame, mask in found:
        both = [masks["q3", "two", number, frame] for number in (0, 1)]
        assert np.array_equal(mask, both[0] | both[1])
        assert np.array_equal(found.of(1)[frame], both[1])


def test_sa2va_report_shows_objects_in_their_colours_and_the_answer(run: str, tmp_path: Path) -> None:
    write_report(run, str(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert "answer: &lt;p&gt;the ball&lt;/p&gt; [SEG] and" in page
    assert ANSWERS["q2"] in page
    assert "2 objects" in page
    assert "0 objects" in page
    colors = np.asarray(Image.open(tmp_path / sheet_name("q3", "two")).convert("RGB")).reshape(-1, 3).astype(int)
    pink = (colors[:, 0] - colors[:, 1] > 60) & (colors[:, 2] - colors[:, 1] > 20)
    blue = (colors[:, 2] - colors[:, 0] > 60) & (colors[:, 1] - colors[:, 0] > 20)
    assert pink.sum() > 500
    assert blue.sum() > 500


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_sa2va_exports_keep_objects_apart_or_say_that_they_do_not(
    name: str, run: str, masks: Masks, tmp_path: Path
) -> None:
    summary = export(run, name, str(tmp_path / "out"))
    apart = {"coco-rle", "ytvis-json", "cvat", "fiftyone", "palette-png", "overlay-mp4"}
    apart |= {"mask-mp4", "cutout", "cutout-webm", "yolo-seg"}
    merged = any("as the union of their masks" in line for line in summary.lines())
    assert merged == (name not in apart | {"davis-official"})  # whose ids these are not
    assert summary.written == {"ok": 3, "empty": 1, "error": 1}
    read = READERS.get(name)
    if read:
        read(tmp_path / "out", masks)


def read_coco(folder: Path, masks: Masks) -> None:
    dataset = COCO(str(folder / "annotations.json"))
    found = set()
    for one in dataset.loadAnns(dataset.getAnnIds()):
        [image] = dataset.loadImgs(one["image_id"])
        key = (one["video_id"], one["instruction_id"], one["object_id"], image["frame_index"])
        assert np.array_equal(dataset.annToMask(one).astype(bool), masks[key])
        found.add(key)
    assert found == {key for key, mask in masks.items() if mask.any()}


def read_ytvis(folder: Path, masks: Masks) -> None:
    annotations: list[dict[str, Any]] = json.loads((folder / "annotations.json").read_text())["annotations"]
    two = [one for one in annotations if one["instruction_id"] == "two"]
    assert [one["object_id"] for one in two] == [0, 1]
    assert len(two[0]["segmentations"]) == 7
    areas = [[int(masks["q3", "two", number, frame].sum()) or None for frame in range(7)] for number in (0, 1)]
    assert [one["areas"] for one in two] == areas


def read_palette(folder: Path, masks: Masks) -> None:
    ids = np.asarray(Image.open(folder / "q3" / "two" / "00003.png"))
    first, second = (masks["q3", "two", number, 3] for number in (0, 1))
    assert np.array_equal(ids > 0, first | second)
    assert (ids[first & ~second] == 1).all()
    assert (ids[second & ~first] == 2).all()


def read_union(folder: Path, masks: Masks) -> None:
    png = np.asarray(Image.open(folder / "q3" / "two" / "00003.png"))
    assert np.array_equal(png > 0, masks["q3", "two", 0, 3] | masks["q3", "two", 1, 3])


def read_cvat(folder: Path, masks: Masks) -> None:
    text = (folder / "q3.xml").read_text()
    shown = [key for key, mask in masks.items() if key[0] == "q3" and mask.any()]
    assert text.count("<track ") == len(shown)
    assert text.count('<attribute name="object_id">3</attribute>') == sum(key[2] == 3 for key in shown)


def read_fiftyone(folder: Path, masks: Masks) -> None:
    frames = json.loads((folder / "labels" / "q3.json").read_text())["frames"]
    shown = [(key[1], key[2]) for key, mask in masks.items() if key[0] == "q3" and key[3] == 3 and mask.any()]
    objects = frames["4"]["objects"]["objects"]
    listed = [tuple(attribute["value"] for attribute in one["attrs"]["attrs"]) for one in objects]
    assert sorted(listed) == sorted(shown)
    assert len({one["index"] for one in objects}) == len(objects)


READERS = {
    "coco-rle": read_coco,
    "ytvis-json": read_ytvis,
    "palette-png": read_palette,
    "png-tree": read_union,
    "cvat": read_cvat,
    "fiftyone": read_fiftyone,
}


def test_sa2va_run_belongs_to_its_original_decoder(table: str, tmp_path: Path) -> None:
    """Another file of SAM2 gives other masks, so it cannot go on with a run; without the setting it does not matter."""
    folder = shutil.copytree(MODEL, tmp_path / "model")
    (folder / "sam2").mkdir()
    identities = []
    for written in (b"one", b"other"):
        (folder / "sam2" / "sam2.pt").write_bytes(written)
        for decoder in ("own", "original"):
            settings = Settings.model_validate({"model": str(folder), "tracking": {"decoder": decoder}})
            identities.append(json.dumps(make_plan(table, str(tmp_path / "run"), settings).identity["model"]))
    assert identities[0] == identities[2]
    assert len(set(identities)) == 3


@pytest.mark.ray
def test_sa2va_on_ray_gives_the_for_loops_tables(table: str, run: str, tmp_path: Path) -> None:
    pools = [{"operators": ["presample", "tokens", "fuse", "keyframe", "propagate"], "units": 2}]
    settings = Settings.model_validate({"model": MODEL, "max_instructions_per_unit": 2, "resources": {"pools": pools}})
    output = str(tmp_path / "run")
    label(table, output, settings)
    assert checksums(output) == checksums(run)


@pytest.mark.ray
@pytest.mark.long
def test_sa2va_on_ray_killed_and_resumed_gives_the_for_loops_tables(table: str, run: str, tmp_path: Path) -> None:
    output = str(tmp_path / "run")
    line = ["label", table, "--output", output, "--model", MODEL, "--set", "max_instructions_per_unit=2"]
    with nodes(workers=1) as cluster:
        command = Command(*line, "--address", cluster.address)
        wait_until(
            lambda: bool(RunDirectory(output).finished_units()) or command.process.poll() is not None, 240, "a unit"
        )
        assert command.kill()
        before = RunDirectory(output).finished_units()
        assert 0 < len(before) < 3
        command = Command(*line, "--address", cluster.address)
        assert command.end(300) == 0, command.output
    assert checksums(output) == checksums(run)
