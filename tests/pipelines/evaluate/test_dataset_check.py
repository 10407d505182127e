"""Promises of the validator: it finds, counts and locates every problem, and no problem ends it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from tests.pipelines.evaluate.test_datasets import LAYOUTS, edit
from tests.support import dataset_fixtures as fixtures
from vrshq.operators.synth import SynthConfig
from vrshq.pipelines.evaluate.datasets import Report, check_benchmark
from vrshq.pipelines.evaluate.datasets.base import DatasetError
from vrshq.pipelines.evaluate.datasets.problems import CODES
from vrshq.pipelines.synth.run import synth
from vrshq.pipelines.synth.settings import Where

METADATA = "meta_expressions_valid_.json"


def found(report: Report) -> dict[str, int]:
    return {problem.code: problem.count for problem in report.problems}


def printed(report: Report) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(report)
    return console.export_text()


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_sound_data_set_has_no_error_and_no_warning(name: str, tmp_path: Path) -> None:
    writer, split = LAYOUTS[name]
    truth = writer(tmp_path)
    report = check_benchmark(name, str(tmp_path), split=split)
    assert report.consistent, printed(report)
    assert report.expressions == len(truth)
    assert report.videos == len({video_id for video_id, _ in truth})


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_sound_data_set_is_sound_behind_links_too(name: str, tmp_path: Path) -> None:
    writer, split = LAYOUTS[name]
    truth = writer(tmp_path / "real")
    for folder in sorted(
        (tmp_path / "real").rglob("*"), reverse=True
    ):  # each folder lies elsewhere, those inside first
        if folder.is_dir() and not folder.is_symlink():
            elsewhere = tmp_path / "far" / folder.relative_to(tmp_path / "real").as_posix().replace("/", "~")
            elsewhere.parent.mkdir(exist_ok=True)
            folder.rename(elsewhere)
            folder.symlink_to(elsewhere)
            (elsewhere / "up").symlink_to(tmp_path / "real")
    (tmp_path / "root").symlink_to("real")
    report = check_benchmark(name, str(tmp_path / "root"), split=split)
    assert report.consistent, printed(report)
    assert (report.expressions, report.videos) == (len(truth), len({video_id for video_id, _ in truth}))


def test_notes_are_not_faults(tmp_path: Path) -> None:
    fixtures.write_revos(tmp_path)
    report = check_benchmark("revos", str(tmp_path))
    # one id has a slash; the square of two videos is not in their first frame
    assert found(report) == {"id-slash": 1, "mask-null": 2}
    assert "2 videos, 6 expressions" in printed(report)
    assert "0 errors, 0 warnings, 3 notes" in printed(report)


def break_in_many_ways(root: Path) -> dict[str, int]:
    """Writes a broken ReVOS data set of three videos; returns the expected count of each problem."""
    clips = {"TAO/a": fixtures.make_clip(1), "b": fixtures.make_clip(2), "c": fixtures.make_clip(3)}
    fixtures.write_revos(root, videos=clips)
    frames = root / "JPEGImages"
    (frames / "b" / "00001.jpg").unlink()
    (frames / "b" / "00003.jpg").unlink()
    whole = (frames / "c" / "00002.jpg").read_bytes()
    (frames / "c" / "00002.jpg").write_bytes(whole[: len(whole) // 2])
    (frames / "TAO/a" / "00000.jpg").write_text("no image")
    Image.new("RGB", (64, 40)).save(frames / "TAO/a" / "00003.jpg")
    Image.new("RGB", (64, 48)).save(frames / "c" / "00009.png")
    fixtures.write_frames(frames / "nobody's", fixtures.make_clip(4))

    def metadata(content: dict[str, Any]) -> None:
        first, second, third = content["videos"].values()
        first["frames"][1:3] = reversed(first["frames"][1:3])
        second["height"] = 480
        third["expressions"]["0"]["anno_id"] = [999]
        third["expressions"]["1"]["anno_id"] = third["expressions"]["1"]["obj_id"] = []
        third["expressions"]["2"] |= {"obj_id": [1], "anno_id": [21]}
        third["expressions"]["3"] = first["expressions"]["0"] | {"exp": third["expressions"]["0"]["exp"]}
        third["expressions"]["4"] = {"exp": " ", "type_id": 0, "obj_id": [1, 2], "anno_id": [21]}
        content["videos"]["../outside"] = second
        content["videos"]["void"] = {"frames": [], "expressions": {}}
        content["videos"]["text"] = "no entry"

    edit(root / METADATA, metadata)

    def masks(content: dict[str, Any]) -> None:
        content["1"].append(content["1"][0])
        content["2"].pop()
        content["11"][0]["size"] = [40, 64]
        content["11"][1]["counts"] += "0"
        content["12"][1:] = [fixtures.rle(clips["b"].frames[0, :40, :, 0] > 300)] * 3
        content["21"] = [None] * 4

    edit(root / "mask_dict.json", masks)

    def foreground(content: dict[str, Any]) -> None:
        del content["b"]
        content["c"]["masks_rle"].pop()

    edit(root / "mask_dict_foreground.json", foreground)
    text = (root / METADATA).read_text()
    (root / METADATA).write_text(text.replace('"vid_id": 0', '"vid_id": 0, "vid_id": 0'))
    return {
        "bad-entry": 1,
        "unsafe-id": 1,
        "key-twice": 1,
        "frames-none": 1,
        "frames-order": 1,
        "frame-missing": 2,
        "frame-unreadable": 2,
        "frame-size": 1,
        "annotation-unknown": 1,
        "mask-list-short": 1,
        "mask-unreadable": 2,
        "mask-size": 1,
        "foreground-unusable": 3,  # the video "void" has none, too
        "video-size": 1,
        "frames-unlisted": 1,
        "text-empty": 1,
        "expressions-none": 1,
        "ids-empty": 1,
        "ids-unexpected": 1,
        "ids-length": 1,
        "mask-list-long": 1,
        "never-visible": 2,
        "folder-unlisted": 1,
        "id-slash": 1,
        "text-twice": 1,
        "mask-null": 6,
    }


def test_everything_that_is_broken_is_found_named_and_counted(tmp_path: Path) -> None:
    expected = break_in_many_ways(tmp_path)
    report = check_benchmark("revos", str(tmp_path))
    assert found(report) == expected
    assert len([problem for problem in report.problems if problem.severity == "error"]) >= 10
    examples = {problem.code: " | ".join(problem.examples) for problem in report.problems}
    assert "JPEGImages/b/00001.jpg" in examples["frame-missing"]
    assert "c/00002.jpg" in examples["frame-unreadable"]
    assert "TAO/a/00000.jpg: neither a JPEG nor a PNG image" in examples["frame-unreadable"]
    assert "00003.jpg: 64x40, the first is 64x48" in examples["frame-size"]
    assert "annotation 999" in examples["annotation-unknown"]
    assert "annotation 2 has 3 masks for 4 frames" in examples["mask-list-short"]
    assert "annotation 11, frame 0: mask 0 of 40 x 64: " in examples["mask-unreadable"]
    assert "../outside" in examples["unsafe-id"]
    assert "says 64x480, is 64x48" in examples["video-size"]
    assert "c, expression 1" in examples["ids-empty"]
    table = printed(report)
    for code in expected:
        assert code in table
    severities = [problem.severity for problem in report.problems]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


def test_examples_stop_at_five_and_counts_do_not(tmp_path: Path) -> None:
    fixtures.write_revos(tmp_path)
    for path in (tmp_path / "JPEGImages").rglob("*.jpg"):
        path.unlink()
    [missing] = [problem for problem in check_benchmark("revos", str(tmp_path)).problems if problem.severity == "error"]
    assert (missing.code, missing.count, len(missing.examples)) == ("frame-missing", 9, 5)


def test_a_shared_annotation_is_noted_once(tmp_path: Path) -> None:
    fixtures.write_revos(tmp_path)
    edit(tmp_path / "mask_dict.json", lambda content: content["1"].append(None))
    assert found(check_benchmark("revos", str(tmp_path)))["mask-list-long"] == 1  # expressions 0 and 1 name it


@pytest.mark.parametrize(
    ("name", "damage", "code"),
    [
        ("revos", lambda root: (root / METADATA).unlink(), "cannot-open"),
        ("revos", lambda root: (root / METADATA).write_text("{"), "cannot-open"),
        ("revos", lambda root: (root / "mask_dict.json").unlink(), "masks-missing"),
        ("revos", lambda root: (root / "mask_dict.json").write_text("[]"), "masks-missing"),
        ("revos", lambda root: (root / "mask_dict_foreground.json").unlink(), "foreground-missing"),
        ("ref-davis17", lambda root: (root / "valid/mask_dict.pkl").write_bytes(b"cos\nsystem\n."), "masks-missing"),
        ("ref-davis17-official", lambda root: (root / "valid/Annotations/goat/00001.png").unlink(), "mask-missing"),
        (
            "ref-davis17-official",
            lambda root: (root / "valid/Annotations/goat/00001.png").write_text(""),
            "mask-unreadable",
        ),
        ("reasonvos", lambda root: (root / "Annotations/MOSE_clip_a_2/00001.png").write_text("x"), "mask-unreadable"),
        (
            "ref-youtube-vos",
            lambda root: (root / "meta_expressions/test/meta_expressions.json").unlink(),
            "test-list-missing",
        ),
    ],
)
def test_files_that_are_missing_or_broken_are_a_report(
    name: str, damage: Callable[[Path], Any], code: str, tmp_path: Path
) -> None:
    writer, _ = LAYOUTS[name]
    writer(tmp_path)
    damage(tmp_path)
    report = check_benchmark(name, str(tmp_path))
    assert found(report).get(code) == 1, printed(report)
    # no memory address, which would differ between two runs
    assert " object at 0x" not in printed(report)
    assert not report.consistent


def test_a_frame_that_is_listed_twice_is_an_error(tmp_path: Path) -> None:
    fixtures.write_mevis(tmp_path, "valid")

    def twice(content: Any) -> None:
        content["videos"]["0ab4afe7fb46"]["frames"].insert(1, "00000")

    edit(tmp_path / "valid" / "meta_expressions.json", twice)
    assert found(check_benchmark("mevis", str(tmp_path), split="valid")) == {"frame-twice": 1}


def test_overlaps_are_counted_by_frame(tmp_path: Path) -> None:
    clip = fixtures.make_clip(1)
    both = fixtures.Clip(clip.frames, {"1": clip.objects["1"], "2": clip.objects["1"] | clip.objects["2"]})
    fixtures.write_revos(tmp_path, videos={"a": both})
    assert found(check_benchmark("revos", str(tmp_path)))["mask-overlap"] == 4


def test_text_of_the_data_is_not_markup(tmp_path: Path) -> None:
    fixtures.write_revos(tmp_path, videos={"[red]a[/blue]": fixtures.make_clip(1)})
    edit(tmp_path / "mask_dict.json", lambda content: content.pop("1"))
    assert "[red]a[/blue], expression 0: annotation 1" in printed(check_benchmark("revos", str(tmp_path)))


def test_examples_can_be_shown_whatever_the_data_says(tmp_path: Path) -> None:
    fixtures.write_revos(tmp_path)

    def odd(content: Any) -> None:
        expressions = content["videos"]["MOSE_b"]["expressions"]
        expressions["\x1b[31m\n\ud800"] = expressions.pop("0")
        expressions["\x1b[31m\n"] = expressions.pop("1") | {"exp": ""}

    edit(tmp_path / METADATA, odd)
    report = check_benchmark("revos", str(tmp_path))
    assert {"bad-entry", "text-empty"} <= found(report).keys()
    assert not {"\x1b", "\ud800"} & set(printed(report))
    assert "expression \ufffd[31m\ufffd" in printed(report)


def test_a_self_referring_pickle_is_no_mask(tmp_path: Path) -> None:
    fixtures.write_ref_davis(tmp_path)
    endless: list[Any] = []
    endless.append(endless)
    (tmp_path / "valid" / "mask_dict.pkl").write_bytes(pickle.dumps({"0": endless * 5}))
    report = check_benchmark("ref-davis17", str(tmp_path))
    assert found(report)["mask-unreadable"] == 5
    assert found(report)["annotation-unknown"] == 15


def test_an_unknown_name_or_split_is_an_error_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no data set"):
        check_benchmark("none", str(tmp_path))
    with pytest.raises(DatasetError, match="no split"):
        check_benchmark("revos", str(tmp_path), split="none")


def test_every_code_has_a_meaning() -> None:
    assert all(severity in ("error", "warning", "note") and meaning for severity, meaning in CODES.values())
    assert json.dumps(list(CODES))  # the codes are plain strings


def move_frames(root: Path, by: int) -> str:
    """Renames the frames of the first video of a synthetic set, as if its film had been cut `by` frames later."""
    folder = sorted((root / "JPEGImages").iterdir())[0]
    pictures = [path.read_bytes() for path in sorted(folder.iterdir())]
    for index, path in enumerate(sorted(folder.iterdir())):
        path.write_bytes(pictures[min(max(index + by, 0), len(pictures) - 1)])
    return folder.name


@pytest.mark.parametrize("by", [-2, 1, 3])
def test_masks_that_fit_other_frames_better_are_a_warning_with_the_shift(by: int, tmp_path: Path) -> None:
    config = SynthConfig(frames=(20, 24), short_sides=(128,), objects=(2, 3), expressions=3)
    synth(str(tmp_path), videos=3, seed=3, split="valid", form="jpeg", config=config, where=Where(use_ray=False))
    report = check_benchmark("revos", str(tmp_path), split="valid")
    assert "mask-shift" not in found(report), printed(report)
    video = move_frames(tmp_path, by)
    report = check_benchmark("revos", str(tmp_path), split="valid")
    assert found(report)["mask-shift"] == 1
    assert not report.consistent
    where = f"{abs(by)} {'later' if by < 0 else 'earlier'}"
    assert f"{video}: masks fit the frames {where}" in printed(report)
