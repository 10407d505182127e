"""Promises of the report of `vrshq evaluate`: break-downs by kind of question, tracking, calibration, figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco

from tests.support import dataset_fixtures as fixtures
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.synth import SynthConfig
from vrshq.pipelines.evaluate.breakdowns import calibration
from vrshq.pipelines.evaluate.compare import compare
from vrshq.pipelines.evaluate.datasets import Video, open_benchmark
from vrshq.pipelines.evaluate.figures import Bar, bar_figure
from vrshq.pipelines.evaluate.published import published_rows
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.evaluate.score_sections import sections
from vrshq.pipelines.evaluate.scores import keyframe_distances
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.schema import TRACKS
from vrshq.pipelines.synth.run import synth
from vrshq.pipelines.synth.settings import Where

# Small and short, so that labelling takes seconds, but long enough for frames 8 and more from a keyframe at either end.
CONFIG = SynthConfig(frames=(10, 12), short_sides=(64,), expressions=1)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("quality") / "set"
    synth(str(root), videos=2, seed=3, split="test", form="jpeg", config=CONFIG, where=Where(use_ray=False))
    return root


@pytest.fixture(scope="module")
def labelled(synthetic: Path) -> Path:
    """The folder of an evaluation, with its run. From the first frame as keyframe, some frames are 8 and more away."""
    output = synthetic.parent / "labelled"
    settings = Settings.model_validate({"keyframe": {"method": "first"}})
    evaluate("revos", str(synthetic), str(output), settings, split="test", use_ray=False)
    return output


def read(output: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return json.loads((output / "scores.json").read_text()), pq.read_table(output / "scores.parquet").to_pylist()


def write_truth(root: Path, folder: Path, split: str) -> Path:
    """Writes the truth of a data set as predictions: VIDEO/EXPRESSION/FRAME.png."""
    benchmark = open_benchmark("revos", str(root), split=split)
    for video in benchmark.videos:
        for expression in video.expressions:
            for name, codes in zip(video.frames, benchmark.masks(video, expression), strict=True):
                mask = (
                    coco.decode(coco.merge(codes))
                    if codes
                    else np.zeros((video.height or 0, video.width or 0), np.uint8)
                )
                path = folder / video.video_id / expression.expression_id / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask * 255).save(path)
    return folder


def test_expressions_are_broken_down_by_the_words_of_the_data_set(synthetic: Path, tmp_path: Path) -> None:
    predictions = write_truth(synthetic, tmp_path / "pred", "test")
    evaluate("revos", str(synthetic), str(tmp_path / "out"), predictions=str(predictions), split="test", use_ray=False)
    scores, rows = read(tmp_path / "out")
    listed = json.loads((synthetic / "meta_expressions_test_.json").read_text())["videos"]
    entries = [entry for video in listed.values() for entry in video["expressions"].values()]
    assert [(row["asks"], row["subtype"]) for row in rows] == [(entry["asks"], entry["subtype"]) for entry in entries]
    for name, key in (("asks", "{asks}"), ("subtype", "{asks}: {subtype}")):
        for found, absent in ((scores["breakdowns"], False), (scores["no_target_breakdowns"], True)):
            names = [key.format(**entry) for entry in entries if (entry["kind"] == "absent") == absent]
            assert {value: part["expressions"] for value, part in found[name].items()} == {
                value: names.count(value) for value in names
            }
            assert all((part["J"], part["F"], part["JF"]) == (100, 100, 100) for part in found[name].values())
    assert scores["breakdowns"]["kind"].keys() == {"referring", "reasoning"}
    absent = scores["no_target_breakdowns"]["asks"].values()
    assert all((part["false_positive_rate"], part["presence"]) == (0, 0) for part in absent)
    assert scores["no_target"]["false_positive_rate"] == 0
    # predictions in files have neither keyframes nor presence
    assert scores["tracking"] is None
    assert scores["calibration"] is None


def test_expressions_about_motion_or_time_stand_apart_in_every_table(labelled: Path) -> None:
    scores, rows = read(labelled)
    answered = [row for row in rows if row["kind"] != "no-target"]
    moving = [row for row in answered if row["asks"] == "motion"]
    assert 0 < len(moving) < len(answered)
    assert [row["motion"] for row in rows] == [row["asks"] == "motion" for row in rows]
    apart = scores["motion"]
    assert apart["expressions"] == len(moving)
    assert apart["fixed"]["J"] == pytest.approx(np.mean([row["J_fixed"] for row in moving]))
    low, high = apart["fixed_intervals"]["JF"]
    assert low <= apart["fixed"]["JF"] <= high
    assert apart["over_frames"]["tIoU"] == pytest.approx(np.mean([row["tIoU"] for row in moving]))
    assert apart["tracking"]["expressions"] == len(moving)
    reasoning = [row["JF_fixed"] for row in moving if row["kind"] == "reasoning"]
    assert scores["breakdowns"]["kind"]["reasoning"]["motion_JF"] == pytest.approx(np.mean(reasoning))
    assert scores["breakdowns"]["kind"]["referring"]["motion_JF"] is None
    tables = {part.title: part for part in sections(scores)}
    shown = f"{apart['fixed']['JF']:.2f}"
    assert any(
        row[0].startswith("motion or time") and row[4] == shown for row in tables["As published, and fixed"].rows
    )
    for title in ("Over frames and time", "Presence of a target", "By distance from the keyframe", "By kind"):
        assert "motion or time" in tables[title].head[-1]
        assert all(len(row) == len(tables[title].head) for row in tables[title].rows)
    other = compare(str(labelled), str(labelled))
    assert (other["differences"]["motion or time"]["JF"], other["intervals"]["motion or time"]["JF"]) == (
        0.0,
        [0.0, 0.0],
    )


def test_tracking_is_measured_from_the_keyframe_that_tracks_names(labelled: Path) -> None:
    scores, rows = read(labelled)
    tracks = RunDirectory(str(labelled)).read("tracks", TRACKS, ["video_id", "instruction_id", "keyframe_index"])
    keyframes = {(one["video_id"], one["instruction_id"]): one["keyframe_index"] for one in tracks.to_pylist()}
    on_keyframe, shares = [], []
    for row in rows:
        keyframe = keyframes[row["video_id"], row["expression_id"]]
        assert row["frame_distance"] == [abs(frame - keyframe) for frame in range(row["frames"])]
        assert sum(row["frame_shown"]) == row["truth_frames"]
        assert 100 * np.mean(row["frame_J"]) == pytest.approx(row["J_fixed"], abs=1e-4)
        if row["kind"] != "no-target":
            shares.append(row["frame_shown"][keyframe])
            on_keyframe += [row["frame_J"][keyframe]] if row["frame_shown"][keyframe] else []
    tracking = scores["tracking"]
    assert tracking["expressions"] == len(shares)
    assert tracking["keyframes_with_object"] == pytest.approx(np.mean(shares))
    assert tracking["distances"]["0"]["J"] == pytest.approx(100 * np.mean(on_keyframe), rel=1e-6)
    assert list(tracking["distances"]) == ["0", "1-3", "4-7", "8-15", "16+"]
    assert tracking["far"]["8+"]["frames"] == tracking["distances"]["8-15"]["frames"] > 0


@pytest.mark.parametrize(
    ("names", "keyframe", "want"),
    [
        (["00000", "00005", "00010"], (1, 3), [1, 0, 1]),
        (["00010", "00000", "00005"], (2, 3), [0, 2, 1]),  # a run orders frames by their numbers, not as the metadata
        (["9", "10", "11"], (0, 3), [0, 1, 2]),
        (["00000", "00005"], (1, 3), None),  # another number of frames than were labelled
        (["00000", "00005"], None, None),
    ],
)
def test_distances_count_frames_of_the_labelled_video(
    names: list[str], keyframe: tuple[int, int] | None, want: list[int] | None
) -> None:
    assert keyframe_distances(Video("v", tuple(names), (), "v"), keyframe) == want


def answers(presence: list[float], target: list[bool], masked: list[bool]) -> dict[str, np.ndarray]:
    return {
        "status": np.array(["ok"] * len(presence), object),
        "kind": np.array(["referring" if one else "no-target" for one in target], object),
        "presence": np.array(presence),
        "frames": np.full(len(presence), 4),
        "empty_frames": np.array([2 if one else 4 for one in masked]),
    }


def test_calibration_counts_answered_expressions_and_finds_the_threshold() -> None:
    found = calibration(answers([0.9, 0.8, 0.6, 0.1], [True, True, False, False], [True, True, True, False]))
    assert found is not None
    assert found["expressions"] == sum(one["count"] for one in found["bins"]) == 4
    assert found["brier_score"] == pytest.approx((0.01 + 0.04 + 0.36 + 0.01) / 4)
    assert found["brier_score_of_base_rate"] == 0.25
    assert found["threshold"] == {"allowed": 0.05, "presence": 0.6, "no_target": 0.0, "target": 1.0}


@pytest.mark.parametrize(
    ("presence", "target"),
    [([0.9, 0.8], [True, True]), ([0.9, 0.8], [False, False]), ([1.0, 0.0], [True, False])],
)
def test_calibration_is_left_out_without_both_kinds_or_with_presences_of_0_and_1(
    presence: list[float], target: list[bool]
) -> None:
    assert calibration(answers(presence, target, [True, True])) is None


def test_the_report_shows_each_part_as_a_table_and_three_of_them_as_figures(labelled: Path) -> None:
    page, text = (labelled / "scores.html").read_text(), (labelled / "scores.md").read_text()
    for heading in (
        *("By kind of question", "By subtype", "By distance from the keyframe", "Calibration of presence"),
        *("No target, by kind of question", "No target, by subtype"),
    ):
        assert f"<h2>{heading}</h2>" in page
        assert f"## {heading}" in text
    captions = [part.partition("</figcaption>")[0] for part in page.split("<figcaption>")[1:]]
    assert captions == [
        *("J&amp;F, %", "J&amp;F, %"),  # by the kinds of ReVOS and by those of the data set
        "J by frames from the keyframe, %",
        "Share with a target, %, by presence",
    ]
    assert page.count("<svg") == len(captions)
    assert "<script" not in page
    assert "<svg" not in text
    scores, _ = read(labelled)
    assert f"{scores['tracking']['far']['8+']['relative']:.2f}" in text


def test_synthetic_sets_are_not_put_beside_published_numbers(labelled: Path, tmp_path: Path) -> None:
    system = published_rows("revos")[0]["system"]
    assert system not in (labelled / "scores.md").read_text()
    (video, expression), masks = next(iter(fixtures.write_revos(tmp_path / "ReVOS").items()))
    answer = {"prediction_masks": [fixtures.rle(mask) for mask in masks]}
    (tmp_path / "one.json").write_text(json.dumps({video: {expression: answer}}))
    evaluate(
        "revos", str(tmp_path / "ReVOS"), str(tmp_path / "out"), predictions=str(tmp_path / "one.json"), use_ray=False
    )
    assert system in (tmp_path / "out" / "scores.md").read_text()


def test_words_of_the_data_set_are_never_markup_in_tables_and_figures(tmp_path: Path) -> None:
    evil = "</text></svg><script>alert(1)</script>"
    root = tmp_path / "ReVOS"
    fixtures.write_revos(root)
    path = root / "meta_expressions_valid_.json"
    metadata = json.loads(path.read_text())
    for video in metadata["videos"].values():
        for expression in video["expressions"].values():
            expression |= {"asks": evil, "subtype": ["not", "a text"]}
    path.write_text(json.dumps(metadata))
    predictions = write_truth(root, tmp_path / "pred", "valid")
    evaluate("revos", str(root), str(tmp_path / "out"), predictions=str(predictions), use_ray=False)
    scores, _ = read(tmp_path / "out")
    assert list(scores["breakdowns"]["asks"]) == [evil]
    assert "subtype" not in scores["breakdowns"]
    page = (tmp_path / "out" / "scores.html").read_text()
    assert "<script" not in page
    assert page.count("</svg>") == page.count("<svg ")
    assert "&lt;script" in page


def test_a_bar_without_a_value_is_an_empty_place() -> None:
    figure = bar_figure("x", [Bar("a", "", 50.0, (40.0, 60.0)), Bar("b", "", None)])
    assert figure.count('class="plotted"') == figure.count('class="interval"') == 1
    assert 'height="100.0"' in figure
    assert ">b</text>" in figure
