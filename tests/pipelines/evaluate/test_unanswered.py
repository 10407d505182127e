"""No scores come from nothing, and missing answers show in the exit code; sets of video files are evaluated as folders are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support.label_runs import vrshq
from vrshq.operators.synth import SynthConfig
from vrshq.pipelines.evaluate.datasets import check_benchmark, open_benchmark
from vrshq.pipelines.evaluate.datasets.base import DatasetError, Folders
from vrshq.pipelines.synth.run import synth
from vrshq.pipelines.synth.settings import Where
from vrshq.pipelines.train.sets import VideoSet
from vrshq.pipelines.train.settings import FileData

CONFIG = SynthConfig(frames=(6, 6), short_sides=(64,), expressions=1)
FIRST, SECOND = "valid_000000", "valid_000001"


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of the split valid, as MP4 files alone."""
    folder = tmp_path_factory.mktemp("synth") / "mp4"
    where = Where(use_ray=False)
    synth(str(folder), videos=2, seed=1, split="valid", form="mp4", config=CONFIG, where=where)
    return folder


def evaluate(root: Path, output: Path, *more: str) -> CompletedProcess[str]:
    model = () if "--predictions" in more else ("--model", "untrained-tiny")
    return vrshq("evaluate", "revos", "--root", str(root), "--output", str(output), *model, "--no-ray", *more)


def expressions(root: Path, video: str) -> list[str]:
    [found] = [one for one in open_benchmark("revos", str(root)).videos if one.video_id == video]
    return [expression.expression_id for expression in found.expressions]


def test_failed_labelling_gives_code_3_and_the_reason_then_retried_errors_give_scores(
    mp4: Path, tmp_path: Path
) -> None:
    """First all videos are missing, then one of two, then none."""
    root, output = tmp_path / "set", tmp_path / "run"
    shutil.copytree(mp4, root)
    for name in (FIRST, SECOND):
        (root / "videos" / f"{name}.mp4").write_bytes(b"")
    count = sum(len(expressions(root, name)) for name in (FIRST, SECOND))
    nothing = evaluate(root, output)
    assert nothing.returncode == 3, nothing.stderr
    assert f"no scores: {count} of {count} expressions have no answer that can be scored" in nothing.stdout
    assert (
        f"the commonest: {count} x missing-video: InputError: {root}/videos/{FIRST}.mp4 has zero bytes"
        in nothing.stdout
    )
    assert "J&F" not in nothing.stdout
    assert not list(output.glob("scores*"))

    shutil.copy(mp4 / "videos" / f"{FIRST}.mp4", root / "videos")
    half = evaluate(root, output, "--retry-errors")
    lost = len(expressions(root, SECOND))
    assert half.returncode == 3
    assert f"{lost} of {count} expressions have no answer that can be scored; the commonest: {lost} x" in half.stdout
    assert "more than --max-error-rate 0.05 allows" in half.stdout
    assert json.loads((output / "scores.json").read_text())["problems"]["missing-video"]["count"] == lost
    assert evaluate(root, output, "--max-error-rate", "0.9").returncode == 0

    shutil.copy(mp4 / "videos" / f"{SECOND}.mp4", root / "videos")
    whole = evaluate(root, output, "--retry-errors")
    assert whole.returncode == 0, whole.stdout
    scores = json.loads((output / "scores.json").read_text())
    assert scores["problems"] == {}
    assert scores["fixed"]["overall"]["J"] > 0


def test_predictions_of_other_videos_give_no_scores_and_code_3(mp4: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"another video": {"0": {"prediction_masks": []}}}')
    done = evaluate(mp4, tmp_path / "out", "--predictions", str(other))
    assert done.returncode == 3
    assert "missing-video: nothing is predicted for this video" in done.stdout
    assert f"({FIRST}, 0; {FIRST}, 1; " in done.stdout
    assert not (tmp_path / "out").exists()


def test_a_set_of_video_files_passes_the_check_and_damage_is_found(mp4: Path, tmp_path: Path) -> None:
    assert check_benchmark("revos", str(mp4)).consistent
    assert check_benchmark("revos", str(mp4), folders=Folders(frames="videos")).consistent
    root = tmp_path / "set"
    shutil.copytree(mp4, root)
    (root / "videos" / f"{FIRST}.mp4").write_bytes(b"no video")
    (root / "videos" / f"{SECOND}.mp4").unlink()
    [problem] = [one for one in check_benchmark("revos", str(root)).problems if one.severity == "error"]
    assert (problem.code, problem.count) == ("video-file", 2)
    assert f"videos/{FIRST}.mp4" in problem.examples[0]
    assert f"videos/{SECOND}.mp4" in problem.examples[1]


def test_frames_go_before_video_files_where_a_set_has_both(mp4: Path, tmp_path: Path) -> None:
    shutil.copytree(mp4, tmp_path / "set")
    (tmp_path / "set" / "JPEGImages" / FIRST).mkdir(parents=True)
    (tmp_path / "set" / "JPEGImages" / FIRST / "00000.jpg").write_bytes(b"")
    benchmark = open_benchmark("revos", str(tmp_path / "set"))
    assert [video.uri for video in benchmark.videos] == [f"JPEGImages/{FIRST}", f"JPEGImages/{SECOND}"]


def test_a_missing_split_names_those_that_exist(mp4: Path) -> None:
    with pytest.raises(DatasetError, match=r"has no split train .*; it has valid: give --split valid"):
        open_benchmark("revos", str(mp4), split="train")


def test_training_refuses_a_set_of_video_files(mp4: Path) -> None:
    with pytest.raises(DatasetError, match="--format jpeg or both"):
        VideoSet("revos", FileData(reader="revos", root=str(mp4), split="valid"))


def test_evaluate_wants_a_model_or_predictions_by_name(mp4: Path, tmp_path: Path) -> None:
    line = ["evaluate", "revos", "--root", str(mp4), "--output", str(tmp_path / "run"), "--no-ray"]
    refused = vrshq(*line)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "one of --model and --predictions" in refused.stderr
    assert not (tmp_path / "run").exists()
