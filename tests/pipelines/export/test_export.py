"""Promises of `vrshq.pipelines.export.run`: what its consumers read back is what the run holds."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from tests.support import dataset_fixtures as fixtures
from tests.support.clips import h264, read_code
from vrshq.cluster.storage.errors import StorageError
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.masks.rle import encode
from vrshq.pipelines.cli import main as cli
from vrshq.pipelines.evaluate.datasets import open_benchmark
from vrshq.pipelines.export.answers import EXTRACT, UNITS_AT_ONCE
from vrshq.pipelines.export.cvat import row_runs
from vrshq.pipelines.export.errors import ExportError
from vrshq.pipelines.export.formats import FORMATS
from vrshq.pipelines.export.names import part_of, path_of, source_files
from vrshq.pipelines.export.pictures import voc_palette
from vrshq.pipelines.export.run import export
from vrshq.pipelines.label.asked.units import build_manifest
from vrshq.pipelines.label.tables.moved import MovedVideosError
from vrshq.pipelines.label.tables.schema import MASKS, SCHEMA_VERSION, TRACKS

Masks = dict[tuple[str, str], np.ndarray]
EVIL = ["../../out", "/etc/passwd", "..", ".", "", "a\\b", "a\0b", "x" * 400, "<script>&\"'", "00000.png", "%2E", "球"]


def write_run(
    uri: str,
    answers: dict[tuple[str, str], np.ndarray | str | None],
    uris: dict[str, str],
    scores: dict[tuple[str, str], list[float]] | None = None,
) -> RunDirectory:
    """A run directory. `answers`: (video_id, instruction_id) -> masks (T, H, W), or "error" with the size known,
    "lost" without, or None for an instruction whose unit was not finished.
    """
    run = RunDirectory(uri)
    rows = [
        {"video_id": video, "video_uri": uris[video], "instruction_id": key, "text": f"text {key} <&>"}
        for video, key in answers
    ]
    manifest = build_manifest(pa.Table.from_pylist(rows), videos_root=None, base="/", max_instructions_per_unit=2)
    run.write_manifest(manifest)
    sizes = {video: found.shape for (video, _), found in answers.items() if isinstance(found, np.ndarray)}
    for unit in manifest.to_pylist():
        video = unit["video_id"]
        mine = {key: answers[video, key] for key in unit["instruction_ids"]}
        if any(found is None for found in mine.values()):
            continue
        tracks, masks = [], []
        for key, text in zip(unit["instruction_ids"], unit["texts"], strict=True):
            found = mine[key]
            shape = None if isinstance(found, str) and found == "lost" else sizes[video]
            track = {"video_id": video, "video_uri": unit["video_uri"], "instruction_id": key, "text": text}
            track |= {"attempts": 1, "schema_version": SCHEMA_VERSION}
            if shape:
                track |= dict(zip(("num_frames", "height", "width"), shape, strict=True))
            if isinstance(found, np.ndarray):
                track |= {"status": "ok" if found.any() else "empty", "presence": 0.75}
                given = (scores or {}).get((video, key), [2.0] * len(found))
                for index, (mask, code) in enumerate(zip(found, encode(found), strict=True)):
                    row = {"video_id": video, "instruction_id": key, "object_id": 0, "frame_index": index}
                    row |= {"height": mask.shape[0], "width": mask.shape[1], "rle": code.rle, "area": code.area}
                    masks.append(row | {"bbox": list(code.bbox), "object_score": given[index]})
            else:
                track |= {"status": "error", "error_type": "InputError", "error_message": "broken"}
            tracks.append(track)
        tables = {
            "tracks": pa.Table.from_pylist(tracks, schema=TRACKS),
            "masks": pa.Table.from_pylist(masks, schema=MASKS),
        }
        run.commit_unit(unit["unit_id"], tables)
    return run


CLIP = fixtures.make_clip(1, length=3)
OTHER = fixtures.make_clip(2, length=4, height=40, width=56)


@pytest.fixture
def videos(tmp_path: Path) -> dict[str, str]:
    """Three videos: a folder of frames numbered in steps of 5, a file, and a folder that is gone."""
    fixtures.write_frames(tmp_path / "frames" / "one", CLIP, fixtures.stems(3, step=5))
    (tmp_path / "two.mp4").write_bytes(b"any")
    return {"TAO/one": str(tmp_path / "frames" / "one"), "two": str(tmp_path / "two.mp4"), "gone": "/no/such/folder"}


@pytest.fixture
def masks() -> Masks:
    """What the run of `run` answered, errors with a known size as empty masks."""
    nothing = np.zeros(CLIP.shape, bool)
    return {
        ("TAO/one", "0"): CLIP.objects["1"],
        ("TAO/one", "1"): CLIP.objects["2"],
        ("TAO/one", "2"): nothing,
        ("TAO/one", "3"): nothing,
        ("two", "a"): OTHER.objects["1"] | OTHER.objects["2"],
    }


@pytest.fixture
def run(tmp_path: Path, videos: dict[str, str], masks: Masks) -> RunDirectory:
    answers: dict[tuple[str, str], np.ndarray | str | None] = {**masks}
    answers["TAO/one", "3"] = "error"
    answers["gone", "x"] = "lost"
    answers["two", "late"] = None
    answers["two", "b"] = None
    answers["two", "a0"] = masks["two", "a"]  # shares the unit of "a"
    masks["two", "a0"] = masks["two", "a"]
    return write_run(str(tmp_path / "run"), answers, videos)


def names_of(video_id: str, count: int) -> list[str]:
    return fixtures.stems(count, step=5) if video_id == "TAO/one" else fixtures.stems(count)


def pixels(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("PNG", "L")
    found = np.asarray(image)
    assert set(np.unique(found)) <= {0, 255}
    return found > 0


def expected_names(masks: Masks, top: str = "") -> set[str]:
    return {
        f"{top}{video}/{key}/{name}.png"
        for (video, key), found in masks.items()
        for name in names_of(video, len(found))
    }


def test_png_tree_has_every_frame_of_every_instruction(tmp_path: Path, run: RunDirectory, masks: Masks) -> None:
    summary = export(run.uri, "png-tree", str(tmp_path / "out"))
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == expected_names(masks) | {"export.json"}
    for (video, key), expected in masks.items():
        for name, mask in zip(names_of(video, len(expected)), expected, strict=True):
            assert (pixels((tmp_path / "out" / video / key / f"{name}.png").read_bytes()) == mask).all()
    assert summary.written == {"ok": 4, "empty": 1, "error": 1}
    assert [(item["video_id"], item["instruction_id"], item["reason"]) for item in summary.left_out] == [
        ("gone", "x", "InputError: broken"),
        ("two", "b", "not finished"),
        ("two", "late", "not finished"),
    ]
    assert [item["instruction_id"] for item in summary.failed] == ["3"]
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == summary.as_dict()


def test_another_name_of_a_format_gives_the_same_files(tmp_path: Path, run: RunDirectory) -> None:
    for name, other in (("coco-rle", "coco"), ("png-tree", "png")):
        assert export(run.uri, other, str(tmp_path / other)).format == name
        export(run.uri, name, str(tmp_path / name))
        trees = [
            {path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()}
            for top in (tmp_path / name, tmp_path / other)
        ]
        assert trees[0] == trees[1]


def test_videos_that_were_moved_give_their_names_from_where_they_lie_now(
    tmp_path: Path, run: RunDirectory, masks: Masks, videos: dict[str, str]
) -> None:
    old = Path(videos["TAO/one"])
    new = tmp_path / "moved" / old.name
    shutil.copytree(old, new)
    shutil.rmtree(old)
    lost = export(run.uri, "png-tree", str(tmp_path / "lost"))
    assert any("so they are named by number" in note for note in lost.notes)
    export(run.uri, "png-tree", str(tmp_path / "out"), videos=str(tmp_path / "moved"))
    key = next(key for video, key in masks if video == "TAO/one")
    names = sorted(path.stem for path in (tmp_path / "out" / "TAO" / "one" / key).iterdir())
    assert names == names_of("TAO/one", 3)
    with pytest.raises(MovedVideosError):
        export(run.uri, "png-tree", str(tmp_path / "none"), videos=str(tmp_path / "empty"))
    assert not (tmp_path / "none").exists()


def test_png_tree_is_read_back_as_ground_truth(tmp_path: Path, run: RunDirectory, masks: Masks) -> None:
    export(run.uri, "png-tree", str(tmp_path / "set" / "Annotations"))
    keys = [key for video, key in masks if video == "TAO/one"]
    entry = {"frames": names_of("TAO/one", 3), "expressions": {key: {"exp": key} for key in keys}}
    fixtures.write_json(tmp_path / "set" / "meta_expressions.json", {"videos": {"TAO/one": entry}})
    benchmark = open_benchmark("png-tree", str(tmp_path / "set"))
    for expression in benchmark.videos[0].expressions:
        codes = benchmark.masks(benchmark.videos[0], expression)
        for code, mask in zip(codes, masks["TAO/one", expression.expression_id], strict=True):
            assert (sum(coco.decode(one) for one in code) == mask).all()


@pytest.mark.parametrize(
    ("name", "file", "top"),
    [("mevis-zip", "mevis.zip", ""), ("refytvos-zip", "ref-youtube-vos.zip", "Annotations/")],
)
def test_submissions_have_the_layout_their_server_expects(
    name: str, file: str, top: str, tmp_path: Path, run: RunDirectory, masks: Masks
) -> None:
    export(run.uri, name, str(tmp_path / "out"))
    with zipfile.ZipFile(tmp_path / "out" / file) as archive:
        assert archive.testzip() is None
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}  # the same bytes tomorrow
        assert len(archive.namelist()) == len(set(archive.namelist()))
        assert set(archive.namelist()) == expected_names(masks, top)
        for (video, key), expected in masks.items():
            for frame, mask in zip(names_of(video, len(expected)), expected, strict=True):
                assert (pixels(archive.read(f"{top}{video}/{key}/{frame}.png")) == mask).all()


@pytest.fixture
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints how long it took
        yield


@pytest.mark.usefixtures("quiet")
def test_coco_reads_back_the_masks(tmp_path: Path, run: RunDirectory, masks: Masks) -> None:
    export(run.uri, "coco-rle", str(tmp_path / "out"))
    dataset = COCO(str(tmp_path / "out" / "annotations.json"))
    images = dataset.loadImgs(dataset.getImgIds())
    assert {image["file_name"] for image in images} == {
        f"{video}/{name}.jpg" for video, count in (("TAO/one", 3), ("two", 4)) for name in names_of(video, count)
    }
    found = {key: np.zeros(expected.shape, bool) for key, expected in masks.items()}
    for annotation in dataset.loadAnns(dataset.getAnnIds()):
        [image] = dataset.loadImgs(annotation["image_id"])
        mask = dataset.annToMask(annotation)
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == coco.toBbox(annotation["segmentation"]).astype(int).tolist()
        assert annotation["score"] == pytest.approx(1 / (1 + np.exp(-2.0)))
        found[image["video_id"], annotation["instruction_id"]][image["frame_index"]] = mask
    for key, expected in masks.items():
        assert (found[key] == expected).all(), key


@pytest.mark.usefixtures("quiet")
def test_coco_results_can_be_scored_by_their_own_evaluator(tmp_path: Path, run: RunDirectory) -> None:
    from pycocotools.cocoeval import COCOeval

    export(run.uri, "coco-rle", str(tmp_path / "out"))
    dataset = COCO(str(tmp_path / "out" / "annotations.json"))
    fields = ("image_id", "category_id", "segmentation", "score")
    results = dataset.loadRes(
        [{name: found[name] for name in fields} for found in dataset.loadAnns(dataset.getAnnIds())]
    )
    evaluation = COCOeval(dataset, results, "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_ytvis_holds_a_null_where_the_object_is_not(tmp_path: Path, run: RunDirectory, masks: Masks) -> None:
    export(run.uri, "ytvis-json", str(tmp_path / "out"))
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    videos = {video["id"]: video for video in content["videos"]}
    assert [category["id"] for category in content["categories"]] == [1]
    assert len({annotation["id"] for annotation in content["annotations"]}) == len(masks) == len(content["annotations"])
    submission = json.loads((tmp_path / "out" / "submission.json").read_text())
    for annotation, result in zip(content["annotations"], submission, strict=True):
        video = videos[annotation["video_id"]]
        expected = masks[video["video_id"], annotation["instruction_id"]]
        assert (video["length"], video["height"], video["width"]) == expected.shape
        assert len(video["file_names"]) == len(expected)
        lists = (annotation["segmentations"], annotation["areas"], annotation["bboxes"], expected)
        for code, area, box, mask in zip(*lists, strict=True):
            if mask.any():
                assert (coco.decode(code) == mask).all()
                assert (area, box) == (mask.sum(), coco.toBbox(code).astype(int).tolist())
            else:
                assert (code, area, box) == (None, None, None)
        assert result["segmentations"] == annotation["segmentations"]
        assert (result["video_id"], result["category_id"]) == (annotation["video_id"], 1)
        assert result["score"] == (0.0 if annotation["instruction_id"] == "3" else 0.75)


def test_revos_results_and_data_set_read_back(tmp_path: Path, run: RunDirectory, masks: Masks) -> None:
    export(run.uri, "revos-json", str(tmp_path / "out"))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {(video, key) for video, found in results.items() for key in found} == masks.keys()
    benchmark = open_benchmark("revos", str(tmp_path / "out"), split="train")
    for video in benchmark.videos:
        assert list(video.frames) == names_of(video.video_id, len(video.frames))
        for expression in video.expressions:
            expected = masks[video.video_id, expression.expression_id]
            predicted = results[video.video_id][expression.expression_id]["prediction_masks"]
            codes = benchmark.masks(video, expression)
            assert expression.text == f"text {expression.expression_id} <&>"
            for one, frame, mask in zip(predicted, codes, expected, strict=True):
                assert (coco.decode(one) == mask).all()
                assert (sum((coco.decode(code) for code in frame), np.zeros(mask.shape, int)) == mask).all()


def test_cvat_masks_decode_to_the_run_s(tmp_path: Path, run: RunDirectory, masks: Masks) -> None:
    export(run.uri, "cvat", str(tmp_path / "out"))
    found = {key: np.zeros(expected.shape, bool) for key, expected in masks.items()}
    groups: dict[str, set[tuple[str, str]]] = {}
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    for video in ("TAO/one", "two"):
        root = ElementTree.parse(tmp_path / "out" / f"{video}.xml").getroot()
        assert root.findtext("version") == "1.1"
        assert root.findtext("meta/task/name") == video
        assert root.findtext("meta/task/labels/label/name") == labels[0]["name"]
        declared = [node.text for node in root.findall("meta/task/labels/label/attributes/attribute/name")]
        assert declared == [attribute["name"] for attribute in labels[0]["attributes"]]
        ids = [track.get("id") for track in root.findall("track")]
        assert len(set(ids)) == len(ids)
        for track in root.findall("track"):
            [mask] = track.findall("mask")  # CVAT keeps only the first mask of a track
            given = {node.get("name"): node.text for node in mask.findall("attribute")}
            assert given["text"] == f"text {given['instruction_id']} <&>"
            key: Any = (video, str(given["instruction_id"]))
            groups.setdefault(f"{video} {track.get('group_id')}", set()).add(key)
            left, top, width, height = (int(mask.get(name, "")) for name in ("left", "top", "width", "height"))
            runs = [int(run) for run in mask.get("rle", "").split(",")]
            flat = np.repeat(np.arange(len(runs)) % 2, runs)
            frame = int(mask.get("frame", ""))
            assert not found[key][frame].any()
            found[key][frame, top : top + height, left : left + width] = flat.reshape(height, width)
    for key, expected in masks.items():
        assert (found[key] == expected).all(), key
    assert all(len(keys) == 1 for keys in groups.values())


def test_fiftyone_labels_hold_the_masks(
    tmp_path: Path, run: RunDirectory, masks: Masks, videos: dict[str, str]
) -> None:
    summary = export(run.uri, "fiftyone", str(tmp_path / "out"))
    index = json.loads((tmp_path / "out" / "manifest.json").read_text())["index"]
    assert [record["data"] for record in index] == [videos["TAO/one"], videos["two"]]
    assert len(summary.notes) == 1
    assert "is not a video file" in summary.notes[0]
    found = {key: np.zeros(expected.shape, bool) for key, expected in masks.items()}
    for record, video in zip(index, ("TAO/one", "two"), strict=True):
        for number, frame in json.loads((tmp_path / "out" / record["labels"]).read_text())["frames"].items():
            assert frame["frame_number"] == int(number) >= 1
            for item in frame["objects"]["objects"]:
                key = (video, item["attrs"]["attrs"][0]["value"])
                _, height, width = masks[key].shape
                inside = np.load(io.BytesIO(zlib.decompress(base64.b64decode(item["mask"]))), allow_pickle=False)
                corner = item["bounding_box"]["top_left"]
                left, top = round(corner["x"] * width), round(corner["y"] * height)
                end = item["bounding_box"]["bottom_right"]
                assert inside.shape == (round(end["y"] * height) - top, round(end["x"] * width) - left)
                box = (slice(top, top + inside.shape[0]), slice(left, left + inside.shape[1]))
                found[key][int(number) - 1][box] = inside
    for key, expected in masks.items():
        assert (found[key] == expected).all(), key


def palette_image(path: Path) -> np.ndarray:
    """As the DAVIS toolkit reads a result: a palette PNG, its values as they are; 255 would be void."""
    with Image.open(path) as image:
        assert image.mode == "P"
        assert image.getpalette() == voc_palette()[: len(image.getpalette() or [])]
        found = np.asarray(image)
    assert found.dtype == np.uint8
    assert found.max() < 255
    return found


def davis_run(tmp_path: Path, expressions: list[int], scores: dict[tuple[str, str], list[float]]) -> RunDirectory:
    """Object 0 is the disk; object 1 the square and the disk's lower half, so that the two overlap."""
    lower = CLIP.objects["1"] & (np.arange(CLIP.shape[1])[:, None] >= CLIP.shape[1] // 3)
    objects = [CLIP.objects["1"], CLIP.objects["2"] | lower]
    answers: dict[tuple[str, str], np.ndarray | str | None] = {
        ("goat", str(number)): objects[number // 4] for number in expressions
    }
    assert (objects[0] & objects[1]).any()
    fixtures.write_frames(tmp_path / "goat", CLIP)
    return write_run(str(tmp_path / "run"), answers, {"goat": str(tmp_path / "goat")}, scores)


def test_davis_merges_objects_and_the_surer_one_wins(tmp_path: Path) -> None:
    scores = {("goat", str(number)): [5.0, 1.0, 3.0] if number < 4 else [1.0, 5.0, 3.0] for number in range(8)}
    run = davis_run(tmp_path, list(range(8)), scores)
    summary = export(run.uri, "davis-official", str(tmp_path / "out"))
    assert summary.notes == []
    lower = CLIP.objects["1"] & (np.arange(CLIP.shape[1])[:, None] >= CLIP.shape[1] // 3)
    first, second = CLIP.objects["1"], CLIP.objects["2"] | lower
    for annotator in range(4):
        folder = tmp_path / "out" / f"anno_{annotator}" / "goat"
        assert sorted(path.name for path in folder.iterdir()) == ["00000.png", "00001.png", "00002.png"]
        for index, winner in enumerate([1, 2, 1]):  # a tie goes to the lower index
            expected = np.where(first[index], 1, 0) + np.where(second[index], 2, 0)
            expected[first[index] & second[index]] = winner
            assert (palette_image(folder / f"{index:05d}.png") == expected).all()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"anno_0", "anno_1", "anno_2", "anno_3", "export.json"}


def test_davis_objects_without_an_answer_are_absent_and_noted(tmp_path: Path) -> None:
    run = davis_run(tmp_path, [0, 1, 2, 3, 4, 5, 7], {})
    summary = export(run.uri, "davis-official", str(tmp_path / "out"))
    assert summary.notes == ["goat: no answer for 6; those objects are absent"]
    found = palette_image(tmp_path / "out" / "anno_2" / "goat" / "00001.png")
    assert (found == CLIP.objects["1"][1]).all()


def test_davis_leaves_out_videos_of_other_data_sets(tmp_path: Path, run: RunDirectory) -> None:
    summary = export(run.uri, "davis-official", str(tmp_path / "out"))
    assert [note.partition(" ")[0] for note in summary.notes] == ["two"]
    assert not (tmp_path / "out" / "anno_0" / "two").exists()
    assert (tmp_path / "out" / "anno_0" / "TAO/one" / "00005.png").exists()


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_the_same_run_gives_the_same_bytes(name: str, tmp_path: Path, run: RunDirectory) -> None:
    digests = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        export(run.uri, name, str(folder))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        digests.append([(path.relative_to(folder), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])
    assert digests[0] == digests[1]
    assert not [path for path, _ in digests[0] if path.suffix == ".partial"]


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_no_id_leads_outside_the_output(name: str, tmp_path: Path) -> None:
    small = np.zeros((1, 8, 8), bool)
    small[0, 2:5, 3:6] = True
    # a manifest has no empty ids
    answers = {(video, key): small for video in EVIL for key in EVIL if video and key}
    answers |= {("x", "0"): small}
    uris = dict.fromkeys((video for video, _ in answers), "/no/such/video.mp4")
    (tmp_path / "inside").mkdir()
    run = write_run(str(tmp_path / "run"), {**answers}, uris)
    before = {path for path in tmp_path.rglob("*") if "run" not in path.parts}
    summary = export(run.uri, name, str(tmp_path / "inside" / "out"))
    after = {path for path in tmp_path.rglob("*") if "run" not in path.parts}
    assert all(path.is_relative_to(tmp_path / "inside" / "out") for path in after - before)
    for path in (tmp_path / "inside" / "out").rglob("*.zip"):
        entries = zipfile.ZipFile(path).namelist()
        assert len(set(entries)) == len(entries) == len(answers)
        assert not [entry for entry in entries if ".." in entry.split("/") or entry.startswith("/") or "\\" in entry]
    if name == "png-tree":
        written = [path for path in after if path.suffix == ".png" and path.is_file()]
        assert len(written) == len(answers)
        assert summary.renamed["video ../../out"] == "%2E%2E/%2E%2E/out"


texts = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(EVIL)


@settings(max_examples=300, deadline=None)
@given(texts, texts)
def test_different_ids_have_different_safe_paths(one: str, other: str) -> None:
    for text in (one, other):
        part, path = part_of(text), path_of(text)
        assert part not in ("", ".", "..")
        assert not {"/", "\\", "\0"} & set(part)
        assert len(part.encode()) <= 255
        assert not {"", ".", ".."} & set(path.split("/"))
        assert "\\" not in path
        assert "\0" not in path
    if one != other:
        assert part_of(one) != part_of(other)
        assert path_of(one) != path_of(other)


def test_harmless_ids_stay_as_they_are() -> None:
    for text in ("0", "blackswan", "TAO/val/clip one", "a.b-c_d", "球"):
        assert path_of(text) == text


@settings(max_examples=200, deadline=None)
@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.booleans()))
def test_cvat_runs_go_along_the_rows_and_begin_with_zeros(mask: np.ndarray) -> None:
    runs = row_runs(mask)
    assert (np.repeat(np.arange(len(runs)) % 2, runs).reshape(mask.shape) == mask).all()
    assert all(run > 0 for run in runs[1:])


def test_frames_are_named_as_the_decoder_numbers_them(tmp_path: Path) -> None:
    for name in ("frame_10.jpg", "frame_2.PNG", "frame_1.jpg", ".frame_3.jpg", "notes.txt", "frame_4.gif"):
        (tmp_path / name).write_bytes(b"")
    assert source_files(str(tmp_path), 3) == ["frame_1.jpg", "frame_2.PNG", "frame_10.jpg"]
    assert source_files(str(tmp_path), 4) is None
    assert source_files(str(tmp_path / "none"), 3) is None


@pytest.mark.parametrize("name", ["coco-rle", "ytvis-json"])
def test_pictures_are_named_as_they_exist_and_frames_of_videos_by_a_stated_pattern(name: str, tmp_path: Path) -> None:
    folder, file = tmp_path / "50% a:b", tmp_path / "clip.mp4"
    folder.mkdir()
    file.write_bytes(b"any")
    pictures = ["x%2E_1.JPEG", "x%2E_2.png", "x%2E_3.jpg"]
    for picture in pictures:
        (folder / picture).write_bytes(b"")
    answers = {("50% a:b", "0"): CLIP.objects["1"], ("clip", "0"): CLIP.objects["1"]}
    run = write_run(str(tmp_path / "run"), {**answers}, {"50% a:b": str(folder), "clip": str(file)})
    summary = export(run.uri, name, str(tmp_path / "out"))
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    if name == "coco-rle":
        found = [image["file_name"] for image in content["images"]]
    else:
        found = [picture for video in content["videos"] for picture in video["file_names"]]
    assert found == [*(f"50% a:b/{picture}" for picture in pictures), *(f"clip/0000{index}.jpg" for index in range(3))]
    assert all((tmp_path / picture).exists() for picture in found[:3])
    assert "VIDEO_ID/00000.jpg" in content["info"]["file_names"]
    assert [note for note in summary.notes if note.startswith("the frames of 1 videos are named VIDEO_ID/00000.jpg")]


def test_the_stated_command_writes_the_stated_pictures(tmp_path: Path) -> None:
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("needs the program ffmpeg")
    video = h264(tmp_path / "clip.mp4", frames=7)
    (tmp_path / "clip").mkdir()
    words = EXTRACT.replace("VIDEO_ID", str(tmp_path / "clip")).replace("VIDEO", str(video)).split()
    subprocess.run([ffmpeg, "-loglevel", "error", *words[1:]], check=True)
    written = sorted((tmp_path / "clip").iterdir())
    assert [path.name for path in written] == [f"0000{index}.jpg" for index in range(7)]
    assert [read_code(np.asarray(Image.open(path))) for path in written] == list(range(7))


def test_frames_that_cannot_be_listed_any_more_are_numbered_and_noted(tmp_path: Path) -> None:
    run = write_run(str(tmp_path / "run"), {("v", "0"): CLIP.objects["1"]}, {"v": str(tmp_path / "gone")})
    summary = export(run.uri, "png-tree", str(tmp_path / "out"))
    assert (tmp_path / "out" / "v" / "0" / "00002.png").exists()
    assert "named by number" in summary.notes[0]


def test_a_run_in_a_bucket_exports_as_a_local_one(tmp_path: Path, videos: dict[str, str]) -> None:
    answers = {("TAO/one", "0"): CLIP.objects["1"]}
    bucket = f"memory://export-{tmp_path.name}/run"
    try:
        for uri, folder in ((bucket, "far"), (str(tmp_path / "run"), "near")):
            write_run(uri, {**answers}, videos)
            export(uri, "mevis-zip", str(tmp_path / folder))
        assert (tmp_path / "far" / "mevis.zip").read_bytes() == (tmp_path / "near" / "mevis.zip").read_bytes()
    finally:
        for name in Folder(bucket).list():
            Folder(bucket).remove(name)


def test_a_compacted_run_exports_the_same(tmp_path: Path, run: RunDirectory) -> None:
    export(run.uri, "mevis-zip", str(tmp_path / "before"))
    merged = run.compact(run.read_manifest()["unit_id"].to_pylist(), to_the_end=True)
    assert merged["masks"][0] > 1
    export(run.uri, "mevis-zip", str(tmp_path / "after"))
    assert (tmp_path / "before" / "mevis.zip").read_bytes() == (tmp_path / "after" / "mevis.zip").read_bytes()


def test_more_units_than_are_read_at_once_come_out_once_each(tmp_path: Path) -> None:
    count = 2 * UNITS_AT_ONCE + 3
    answers: dict[tuple[str, str], Any] = {("v", f"{number:03d}"): CLIP.objects["1"] for number in range(2 * count)}
    run = write_run(str(tmp_path / "run"), answers, {"v": "/no/such/video.mp4"})
    assert run.read_manifest().num_rows == count
    summary = export(run.uri, "mevis-zip", str(tmp_path / "out"))
    assert (summary.videos, summary.written, summary.frames) == (1, {"ok": 2 * count}, 6 * count)
    entries = zipfile.ZipFile(tmp_path / "out" / "mevis.zip").namelist()
    assert len(set(entries)) == len(entries) == 6 * count


def test_the_command_says_what_it_did_and_exits_2_for_an_unfinished_run(
    tmp_path: Path, run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def vrshq(*given: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vrshq", "export", *given])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out + err

    code, text = vrshq(run.uri, "--format", "coco-rle", "--output", str(tmp_path / "out"))
    assert code == 2
    assert "2 videos, 6 instructions (1 empty, 1 error, 4 ok), 20 masks" in text
    assert "3 instructions left out, 2 of them not finished by the run" in text
    code, text = vrshq(run.uri, "--format", "coco-rle", "--output", str(tmp_path / "out"))
    assert (code, text.count("\n")) == (1, 1)
    assert "is not empty; give a new folder" in text
    code, text = vrshq(run.uri, "--format", "none", "--output", str(tmp_path / "new"))
    assert code == 1
    assert "expected one of png-tree, mevis-zip" in text
    whole = write_run(str(tmp_path / "whole"), {("v", "0"): CLIP.objects["1"]}, {"v": "/no/such/video.mp4"})
    assert vrshq(whole.uri, "--format", "png-tree", "--output", str(tmp_path / "new"))[0] == 0


def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path: Path, run: RunDirectory) -> None:
    with pytest.raises(ExportError, match="no format 'gif'; expected one of png-tree"):
        export(run.uri, "gif", str(tmp_path / "out"))
    with pytest.raises(ExportError, match="local folder"):
        export(run.uri, "png-tree", "s3://bucket/out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(ExportError, match="not empty"):
        export(run.uri, "png-tree", str(tmp_path / "full"))
    with pytest.raises(StorageError):
        export(str(tmp_path / "no-run"), "png-tree", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_nan_scores_and_presence_do_not_spoil_the_json(tmp_path: Path, videos: dict[str, str]) -> None:
    nans: dict[Any, Any] = {("two", "0"): [float("nan")] * 4}
    run = write_run(str(tmp_path / "run"), {("two", "0"): OTHER.objects["1"]}, videos, nans)
    for name in ("coco-rle", "fiftyone", "davis-official", "ytvis-json"):
        export(run.uri, name, str(tmp_path / name))
    annotations = json.loads((tmp_path / "coco-rle" / "annotations.json").read_text())["annotations"]
    assert annotations
    assert not any("score" in annotation for annotation in annotations)
