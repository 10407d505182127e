"""Promise: a span of a video has the masks of a video that consists of its frames, under the video's own frame numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support import clips
from tests.support import dataset_fixtures as fixtures
from tests.support.label_runs import content, decoded, instruction, vrshq, write_table
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.export.run import export
from vrshq.pipelines.label.asked.growth import OtherInstructions
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings, load_settings
from vrshq.pipelines.report.run import write_report

FRAMES = 12
PART = [3, 5, 7, 9]  # start 3, end 11, every 2
EVERY = load_settings(None, ["decode.every=2"], model="untrained-tiny")
WHOLE = Settings(model="untrained-tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video as a folder of frames, the part of it as a video of its own, and the video as a file."""
    folder = tmp_path_factory.mktemp("parts")
    for name, numbers in (("whole", range(FRAMES)), ("part", PART)):
        (folder / name).mkdir()
        for place, number in enumerate(numbers):
            Image.fromarray(clips.code_frame(number)).save(folder / name / f"{place:05d}.png")
    clips.h264(folder / "file.mp4", frames=FRAMES)
    return folder


def run_over(folder: Path, output: Path, rows: list[dict[str, Any]], settings: Settings = WHOLE) -> str:
    table = write_table(output.with_suffix(".jsonl"), rows)
    label(table, str(output), settings, videos=str(folder), use_ray=False)
    return str(output)


@pytest.fixture(scope="module")
def part_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two instructions on the part, one on another part of the same video, and one on the file."""
    rows = [
        instruction("whole", 0, "the bright block", start=3, end=11),
        instruction("whole", 1, "every block", start=3, end=11),
        instruction("whole", 2, "the bright block", start=8, end=None),
        instruction("file.mp4", 0, "the bright block", start=None, end=5),
    ]
    return run_over(folder, tmp_path_factory.mktemp("run") / "run", rows, EVERY)


def test_a_span_has_the_masks_of_a_video_of_its_frames_under_the_videos_own_numbers(
    folder: Path, part_run: str, tmp_path: Path
) -> None:
    rows = [instruction("part", number, text) for number, text in enumerate(("the bright block", "every block"))]
    own = content(run_over(folder, tmp_path / "own", rows))
    found = content(part_run)
    masks = [row for row in found["masks"] if row["video_id"] == "whole" and row["instruction_id"] in "01"]
    assert [row["frame_index"] for row in masks] == PART * 2
    for got, want in zip(masks, own["masks"], strict=True):
        assert got == want | {"video_id": "whole", "frame_index": PART[want["frame_index"]]}
    tracks = [row for row in found["tracks"] if row["video_id"] == "whole" and row["instruction_id"] in "01"]
    for got, want in zip(tracks, own["tracks"], strict=True):
        assert (got["num_frames"], got["start"], got["end"], got["every"]) == (FRAMES, 3, 11, 2)
        assert got["keyframe_index"] == PART[want["keyframe_index"]]
        assert got["sampled_frames"] == [PART[frame] for frame in want["sampled_frames"]]
        for name in ("clip_probs", "similarities", "object_scores", "presence", "status"):
            assert got[name] == want[name]
    tokens = [row for row in found["tokens"] if row["video_id"] == "whole" and row["instruction_id"] in "01"]
    assert [row["seg"] for row in tokens] == [row["seg"] for row in own["tokens"]]


def test_instructions_of_one_span_share_a_unit_and_other_spans_have_their_own(part_run: str) -> None:
    manifest = RunDirectory(part_run).read_manifest().to_pylist()
    assert [(row["video_id"], row["instruction_ids"], row["start"], row["end"]) for row in manifest] == [
        ("file.mp4", ["0"], None, 5),
        ("whole", ["0", "1"], 3, 11),
        ("whole", ["2"], 8, None),
    ]
    rows = content(part_run)["masks"]
    frames = {
        key: [row["frame_index"] for row in rows if (row["video_id"], row["instruction_id"]) == key]
        for key in {(row["video_id"], row["instruction_id"]) for row in rows}
    }
    assert frames["whole", "2"] == [8, 10]
    assert frames["file.mp4", "0"] == [0, 2, 4]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"start": -1}, "row 1: start is -1; expected the number of a frame, from 0"),
        ({"end": 2.5}, "line 1: end is the number 2.5; expected the number of a frame, from 0"),
        ({"start": "soon"}, "row 1: start is soon; expected the number of a frame, from 0"),
        ({"start": 4, "end": 4}, "row 1: start 4 is not below end 4, the frame after the last"),
    ],
)
def test_a_span_that_cannot_be_meant_refuses_the_table_in_one_line(
    part: dict[str, Any], words: str, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "table.jsonl", [instruction("a.mp4", 0, "it", **part)])
    result = vrshq("label", table, "--output", str(tmp_path / "run"), "--model", "untrained-tiny")
    assert (result.returncode, result.stdout) == (1, "")
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_span_behind_the_end_is_an_error_row_and_an_end_behind_it_is_the_end(folder: Path, tmp_path: Path) -> None:
    rows = [instruction("whole", 0, "it", start=FRAMES), instruction("whole", 1, "it", start=10, end=99)]
    found = content(run_over(folder, tmp_path / "run", rows))
    late, clipped = found["tracks"]
    assert late["error_type"] == "InputError"
    assert late["error_message"].endswith("has frames 0 to 11, none of them in the span asked for (start 12)")
    assert (clipped["start"], clipped["end"]) == (10, 12)
    assert [row["frame_index"] for row in found["masks"]] == [10, 11]


def test_a_csv_table_has_spans_too(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("video_uri,instruction_id,text,start,end\nwhole,0,it, 2 ,4\nwhole,1,it,,1\n")
    label(str(tmp_path / "t.csv"), str(tmp_path / "run"), WHOLE, videos=str(folder), use_ray=False)
    rows = content(str(tmp_path / "run"))["masks"]
    assert [(row["instruction_id"], row["frame_index"]) for row in rows] == [("0", 2), ("0", 3), ("1", 0)]


def test_a_changed_span_is_listed_when_a_run_should_grow(part_run: str, folder: Path, tmp_path: Path) -> None:
    rows = [
        instruction("whole", 0, "the bright block", start=3, end=10),
        instruction("whole", 1, "every block", start=3, end=11),
        instruction("whole", 2, "the bright block", start=8),
        instruction("file.mp4", 0, "the bright block", end=5),
    ]
    table = write_table(tmp_path / "table.jsonl", rows)
    with pytest.raises(OtherInstructions, match=r"1 changed: 'whole' '0' .span '3 to 11' -> '3 to 10'."):
        label(table, part_run, EVERY, videos=str(folder), use_ray=False, grow=True)


def test_exports_have_the_labelled_frames_alone(part_run: str, tmp_path: Path) -> None:
    export(part_run, "png-tree", str(tmp_path / "png"))
    names = sorted(str(path.relative_to(tmp_path / "png")) for path in (tmp_path / "png").rglob("*.png"))
    assert names == [
        *(f"file.mp4/0/{frame:05d}.png" for frame in (0, 2, 4)),
        *(f"whole/{number}/{frame:05d}.png" for number in "01" for frame in PART),
        *(f"whole/2/{frame:05d}.png" for frame in (8, 10)),
    ]
    export(part_run, "coco-rle", str(tmp_path / "coco"))
    images = json.loads((tmp_path / "coco/annotations.json").read_text())["images"]
    shown = [(image["file_name"], image["frame_index"]) for image in images if image["video_id"] == "whole"]
    assert shown == [(f"whole/{frame:05d}.png", frame) for frame in (3, 5, 7, 8, 9, 10)]
    export(part_run, "ytvis-json", str(tmp_path / "ytvis"))
    content = json.loads((tmp_path / "ytvis/annotations.json").read_text())
    assert [video["length"] for video in content["videos"]] == [3, 6]
    for name in ("cvat", "fiftyone", "revos-json"):
        export(part_run, name, str(tmp_path / name))
    expressions = json.loads((tmp_path / "revos-json/meta_expressions_train_.json").read_text())["videos"]
    assert expressions["whole"]["frames"] == [f"{frame:05d}" for frame in (3, 5, 7, 8, 9, 10)]


def test_a_report_shows_the_labelled_frames_alone(part_run: str) -> None:
    write_report(part_run)
    page = Path(part_run, "report.html").read_text()
    for words in ("frames 3 to 9, every 2 frames", "frames 8 to 10, every 2 frames", "frames 0 to 4, every 2 frames"):
        assert words in page


def test_scores_count_the_labelled_frames_alone(tmp_path: Path) -> None:
    truth = fixtures.write_revos(tmp_path / "ReVOS")
    evaluate("revos", str(tmp_path / "ReVOS"), str(tmp_path / "run"), EVERY, use_ray=False)
    rows = pq.read_table(tmp_path / "run/scores.parquet").to_pylist()
    scores = {(row["video_id"], row["expression_id"]): row for row in rows}
    masks: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for row in content(str(tmp_path / "run"))["masks"]:
        masks.setdefault((row["video_id"], row["instruction_id"]), {})[row["frame_index"]] = decoded(row).astype(bool)
    for key, true in truth.items():
        asked = range(0, len(true), 2)
        assert list(masks[key]) == list(asked)
        both = [(true[frame].astype(bool), masks[key][frame]) for frame in asked]
        wanted = [(one & two).sum() / (one | two).sum() if (one | two).any() else 1.0 for one, two in both]
        assert scores[key]["frames"] == len(asked)
        assert scores[key]["frame_J"] == pytest.approx(wanted)
        assert scores[key]["J_fixed"] == pytest.approx(100 * np.mean(wanted))
