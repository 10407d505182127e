"""`vrshq evaluate --only accepted`: the means are those of the chosen answers, whose scores do not change."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from tests.support.dataset_fixtures import write_png_tree
from tests.support.label_runs import vrshq
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.synth import SynthConfig
from vrshq.pipelines.label.tables.reviews import Reviews
from vrshq.pipelines.synth.run import synth
from vrshq.pipelines.synth.settings import Where


def scores(output: Path) -> dict[tuple[str, str], float]:
    rows = pq.read_table(output / "scores.parquet").to_pylist()
    return {(row["video_id"], row["expression_id"]): row["JF"] for row in rows}


def test_judged_answers_alone_count_and_their_scores_stay(tmp_path: Path) -> None:
    root, run = tmp_path / "set", tmp_path / "run"
    config = SynthConfig(frames=(6, 6), short_sides=(64,), expressions=2)
    synth(str(root), videos=2, seed=1, split="valid", form="mp4", config=config, where=Where(use_ray=False))
    common = ["evaluate", "revos", "--root", str(root), "--no-ray"]
    whole = vrshq(*common, "--output", str(run), "--model", "untrained-tiny")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    before = scores(run)
    assert len(before) >= 3
    again = [*common, "--predictions", str(run)]
    refused = vrshq(*again, "--output", str(tmp_path / "none"), "--only", "accepted")
    assert refused.returncode == 1
    assert "nobody has judged this run" in refused.stderr

    reviews = Reviews(RunDirectory(str(run)))
    accepted, rejected = sorted(before)[:2]
    reviews.add("a" * 32, accepted, "ann", "accept")
    reviews.add("b" * 32, rejected, "ann", "reject")
    assert vrshq(*again, "--output", str(tmp_path / "only"), "--only", "accepted").returncode == 0
    assert scores(tmp_path / "only") == {accepted: before[accepted]}
    assert json.loads((tmp_path / "only" / "scores.json").read_text())["judged"] == "--only accepted"
    assert vrshq(*again, "--output", str(tmp_path / "rest"), "--not", "rejected").returncode == 0
    assert scores(tmp_path / "rest") == {key: score for key, score in before.items() if key != rejected}
    nothing = vrshq(*again, "--output", str(tmp_path / "zero"), "--only", "unsure")
    assert nothing.returncode == 1
    assert "none of the" in nothing.stderr


def test_predictions_that_are_no_run_cannot_be_chosen_by_judgements(tmp_path: Path) -> None:
    write_png_tree(tmp_path / "set")
    options = ["--root", str(tmp_path / "set"), "--output", str(tmp_path / "out"), "--no-ray", "--only", "accepted"]
    done = vrshq("evaluate", "png-tree", *options, "--predictions", str(tmp_path / "set"))
    assert done.returncode == 1
    assert "is no run directory" in done.stderr
