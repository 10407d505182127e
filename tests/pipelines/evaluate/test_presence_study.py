"""Promises of `vrshq ablate --study presence`: AUROC of every signal by kind, and what each threshold takes and gives."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.label_runs import vrshq
from vrshq import open_run
from vrshq.operators.synth import SynthConfig, make_video
from vrshq.pipelines.evaluate.presence_frames import Frames, frame_sections
from vrshq.pipelines.evaluate.presence_study import Judged, sections
from vrshq.pipelines.synth.run import synth
from vrshq.pipelines.synth.settings import Where


def made() -> Judged:
    """Two absent and four present expressions; the third present one has no mask, and half of the frames show no target."""
    target = np.array([False, False, True, True, True, True])
    whole = np.array([100.0, 100.0, 80.0, 60.0, 0.0, 70.0])
    columns = {
        "video_id": np.array(list("aabbcc"), object),
        "group": np.array([None, None, *["referring"] * 4], object),
        **{f"{name}_fixed": whole for name in ("J", "F", "A", "R")},
    }
    score = np.array([-2.0, 1.5, 3.0, 1.0, -1.0, 2.0])
    return Judged(
        target=target,
        masked=np.array([False, True, True, True, False, True]),
        asks=np.array(["motion", "attribute", "motion", "motion", "attribute", "attribute"]),
        signals={"presence head": np.array([0.1, 0.3, 0.9, 0.8, 0.2, 0.7]), "object score": score},
        columns=columns,
        empty=np.full(6, 50.0),
    )


def test_a_threshold_takes_masks_and_each_number_says_what_that_costs() -> None:
    found = made()
    kept = found.at("presence head", -np.inf)
    assert kept == pytest.approx(
        {
            "absent with a mask": 50,
            "absent, attribute": 100,
            "absent, motion": 0,
            "present without": 25,
            "J&F": (80 + 60 + 50 + 70) / 4,  # no mask is right on the frames without the target
            "N-acc": 50,
            "T-acc": 75,
            "Final": (65 + 50 + 75) / 3,
        }
    )
    gated = found.at("object score", 1.5)
    assert (gated["N-acc"], gated["T-acc"]) == (100, 50)
    assert gated["J&F"] == pytest.approx((80 + 50 + 50 + 70) / 4)


def test_the_tables_hold_auroc_by_kind_thresholds_and_the_reliability_figure() -> None:
    told, head, score, calibration = sections(made(), own=0.25)
    assert told.head == ["signal", "all", "attribute", "motion"]
    # of 8 pairs the head has one wrong, the score two
    assert told.rows == [["presence head", "87.50", "50.00", "100.00"], ["object score", "75.00", "50.00", "100.00"]]
    assert "no special token" in told.lines[0]
    assert [row[0] for row in head.rows] == ["none", "the model's own"]
    assert (head.title, score.title) == ("Thresholds of the presence head", "Thresholds of the object score")
    assert calibration.figure is not None


def test_a_frame_without_the_target_counts_against_the_object_score_that_says_it_is_there() -> None:
    frames = Frames(
        target=np.array([True] * 5 + [False] * 2),
        shown=np.array([True, True, True, False, False, False, False]),
        score=np.array([4.0, 1.0, -2.0, 1.0, -3.0, 5.0, 0.0]),
        prompted=np.array([3.0, 2.0, 1.0, 0.0, np.nan, -1.0, -2.0]),
        masked=np.array([True, True, False, True, False, True, True]),
        asks=np.array(["motion", "motion", "place", "motion", "place", "place", "place"]),
    )
    found, told = frame_sections(frames)
    # of 6 pairs one is tied and one is wrong
    assert found.rows == [
        ["all", "3", "2", "75.00", "50.00", "33.33"],
        ["motion", "2", "1", "75.00", "100.00", "0.00"],
        ["place", "1", "1", "100.00", "0.00", "100.00"],
    ]
    assert [row[0] for row in told.rows] == [
        "score of the tracked mask",
        "score of the frame's own prompt",
        "mean of both",
    ]
    # with the expression without a target, 12 pairs: 2 are tied or wrong for 1, 1 for 4, 3 for -2, 4 for 5
    right = 1 + 1 + 0 + 1 + (0.5 + 1 + 0 + 1) + (0 + 1 + 0 + 0)
    assert [row[1] for row in told.rows] == [f"{100 * right / 12:.2f}", "100.00", "66.67"]
    assert [row[3] for row in told.rows] == ["75.00", "100.00", "66.67"]
    sigmoid = 1 / (1 + np.exp(-frames.prompted[np.isfinite(frames.prompted)]))
    shown = frames.shown[np.isfinite(frames.prompted)]
    bins = np.minimum((sigmoid * 10).astype(int), 9)
    error = sum(abs(sigmoid[bins == one].sum() - shown[bins == one].sum()) for one in set(bins)) / len(sigmoid)
    assert told.rows[1][2] == f"{error:.4f}"
    assert told.figure is not None
    assert frame_sections(replace(frames, shown=frames.target)) == []


def by_frame(output: Path) -> list[str]:
    """The first row of the table by frame, without the name and AUROC."""
    [found] = [one for one in json.loads((output / "presence.json").read_text()) if one["title"] == "Presence by frame"]
    row = list(found["rows"][0].values())
    return [*row[1:3], *row[4:]]


def counted_by_hand(run: Path, config: SynthConfig) -> list[str]:
    """The same from the videos, which are made again, and the masks."""
    counts = Counter[tuple[bool, bool]]()
    for number in range(2):
        video = make_video(33, number, "test", config)
        for one in video.expressions:
            if one.object_ids:
                truth = video.masks[list(one.object_ids)].sum(axis=(0, 2, 3)) > 0
                found = open_run(str(run)).masks(video.video_id, one.expression_id).array().sum(axis=(1, 2)) > 0
                counts.update(zip(truth.tolist(), found.tolist(), strict=True))
    shown, hidden = (counts[there, False] + counts[there, True] for there in (True, False))
    return [
        str(shown),
        str(hidden),
        f"{100 * counts[False, True] / hidden:.2f}",
        f"{100 * counts[True, False] / shown:.2f}",
    ]


def test_the_command_evaluates_once_prints_the_tables_and_refuses_sets_without_absent_targets(tmp_path: Path) -> None:
    config = SynthConfig(frames=(4, 5), short_sides=(64,), aspects=(1.0,), expressions=1, objects=(2, 3))
    where = Where(use_ray=False)
    synth(str(tmp_path / "set"), videos=2, seed=33, split="test", form="jpeg", config=config, where=where)
    command = ("ablate", "revos", "--root", str(tmp_path / "set"), "--split", "test", "--output", str(tmp_path / "out"))
    done = vrshq(*command, "--study", "presence", "--model", "untrained-tiny", "--no-ray")
    assert done.returncode == 0, done.stderr
    assert all(text in done.stdout for text in ("What tells presence", "Thresholds of the object score", "Final"))
    assert (tmp_path / "out/presence.html").exists()
    assert by_frame(tmp_path / "out") == counted_by_hand(tmp_path / "out/unthresholded", config)
    both = vrshq(*command, "--study", "presence", "--vary", "fusion.alpha=0", "--no-ray")
    assert (both.returncode, "expected no --vary" in both.stderr) == (1, True)
