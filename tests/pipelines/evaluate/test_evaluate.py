"""Promises of `vrshq evaluate` and `vrshq compare`, on data sets on disk and predictions in every layout."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support import dataset_fixtures as fixtures
from tests.support.parity import KIT
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.evaluate.compare import CompareError, compare, sections
from vrshq.pipelines.evaluate.datasets import benchmark_names, open_benchmark
from vrshq.pipelines.evaluate.datasets.base import DatasetError, Folders
from vrshq.pipelines.evaluate.evaluation import Evaluation
from vrshq.pipelines.evaluate.markdown import markdown
from vrshq.pipelines.evaluate.page import page
from vrshq.pipelines.evaluate.predictions import PredictionsError, open_predictions
from vrshq.pipelines.evaluate.protocols import PROTOCOLS
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.evaluate.score_sections import headline
from vrshq.pipelines.evaluate.scores import SCORES, has_motion_word
from vrshq.pipelines.label.settings import Settings

MINI = KIT / "metrics" / "mini_dataset"
needs_mini = pytest.mark.skipif(not MINI.exists(), reason=f"no golden data set at {MINI} (set VRSHQ_PARITY_DIR)")

Truth = fixtures.Truth


def save(mask: np.ndarray, path: Path, value: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * value).save(path)


def write_pngs(folder: Path, root: Path, dataset: str, truth: Truth, value: int = 255, **options: Any) -> Path:
    """Writes the truth as predictions: VIDEO/EXPRESSION/FRAME.png."""
    for video in open_benchmark(dataset, str(root), **options).videos:
        for expression in video.expressions:
            masks = truth[video.video_id, expression.expression_id]
            for name, mask in zip(video.frames, masks, strict=True):
                save(mask, folder / video.video_id / expression.expression_id / f"{name}.png", value)
    return folder


def rows(output: Path | str) -> dict[tuple[str, str], dict[str, Any]]:
    table = pq.read_table(Path(output) / "scores.parquet")
    assert table.schema.equals(SCORES)
    return {(row["video_id"], row["expression_id"]): row for row in table.to_pylist()}


def scored(done: Evaluation) -> dict[str, Any]:
    assert done.scores is not None
    return done.scores


def vrshq(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from vrshq.pipelines.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def revos(tmp_path: Path) -> tuple[Path, Truth]:
    root = tmp_path / "ReVOS"
    return root, fixtures.write_revos(root)


@needs_mini
def test_the_golden_data_set_gives_the_published_numbers_to_the_last_bit(tmp_path: Path) -> None:
    done = evaluate(
        "revos",
        str(MINI),
        str(tmp_path),
        predictions=str(MINI / "pred"),
        folders=Folders(metadata="meta_expressions.json"),
        use_ray=False,
    )
    found = rows(tmp_path)
    with (MINI / "expected_per_expression.csv").open() as file:
        expected = list(csv.DictReader(file))
    assert len(expected) == len(found)
    for want in expected:
        got = found[want["video_name"], want["exp_id"]]
        assert {name: got[name] for name in ("J", "F", "JF", "A", "R")} == {
            name: float(want[name]) for name in ("J", "F", "JF", "A", "R")
        }
    summary = json.loads((MINI / "expected_summary.json").read_text())
    names = {"referring": "referring", "reason": "reasoning", "overall": "overall"}
    assert scored(done)["published"] == {names[group]: means for group, means in summary.items()}
    assert scored(done)["problems"]["missing-video"]["count"] == 5
    # the page shows A and R on 0/1 masks, too
    assert scored(done)["fixed"]["overall"]["R"] > scored(done)["published"]["overall"]["R"]


def test_every_data_set_has_a_protocol() -> None:
    assert set(benchmark_names()) == set(PROTOCOLS)


@pytest.mark.parametrize("value", [1, 255])
def test_perfect_masks_score_100_and_only_the_published_a_and_r_suffer_from_255(
    revos: tuple[Path, Truth], tmp_path: Path, value: int
) -> None:
    root, truth = revos
    predictions = write_pngs(tmp_path / "pred" / "Annotations", root, "revos", truth, value).parent
    scores = scored(evaluate("revos", str(root), str(tmp_path / "out"), predictions=str(predictions), use_ray=False))
    assert scores["published"]["overall"]["J"] == scores["published"]["overall"]["F"] == 100.0
    assert scores["fixed"]["overall"] == {"J": 100.0, "F": 100.0, "JF": 100.0, "A": 100.0, "R": 100.0}
    assert (scores["published"]["overall"]["A"] < 100.0) == (value == 255)
    assert scores["published"]["overall"]["R"] == 100.0
    assert [scores["no_target"][name] for name in ("jf", "n_acc", "t_acc", "final")] == [1.0] * 4
    line = "J&F 100.00, N-acc 100.00, T-acc 100.00, and their mean, Final: 100.00 (MeViS v2)."
    assert line in headline(scores).lines
    assert scores["over_frames"] == {"gIoU": 100.0, "cIoU": 100.0, "tIoU": 100.0, "vIoU": 100.0}
    assert scores["problems"] == {}


def test_predictions_and_data_behind_links_score_as_if_they_were_there(
    revos: tuple[Path, Truth], tmp_path: Path
) -> None:
    root, truth = revos
    far = write_pngs(tmp_path / "far", root, "revos", truth)
    (tmp_path / "frames").mkdir()
    (root / "JPEGImages").rename(tmp_path / "frames" / "all")
    (root / "JPEGImages").symlink_to(tmp_path / "frames" / "all")
    tree = tmp_path / "pred" / "Annotations"
    for video in open_benchmark("revos", str(root)).videos:
        (tree / video.video_id).mkdir(parents=True)
        (tree / video.video_id / "round").symlink_to(tree)
        for expression in video.expressions:
            place = f"{video.video_id}/{expression.expression_id}"
            (tree / place).symlink_to(far / place)
    done = evaluate("revos", str(root), str(tmp_path / "out"), predictions=str(tmp_path / "pred"), use_ray=False)
    assert scored(done)["published"]["overall"]["J"] == 100.0
    assert scored(done)["problems"] == {}


def test_an_expression_whose_truth_raises_anything_costs_only_itself(
    revos: tuple[Path, Truth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, truth = revos
    predictions = write_pngs(tmp_path / "pred", root, "revos", truth)
    kind = type(open_benchmark("revos", str(root)))
    read = kind.masks

    def masks(self: Any, video: Any, expression: Any) -> Any:
        if (video.video_id, expression.expression_id) == ("TAO/clip one", "0"):
            raise TypeError("odd entry")
        return read(self, video, expression)

    monkeypatch.setattr(kind, "masks", masks)
    evaluate("revos", str(root), str(tmp_path / "out"), predictions=str(predictions), use_ray=False)
    found = rows(tmp_path / "out")
    assert found["TAO/clip one", "0"]["status"] == "no-truth"
    assert found["TAO/clip one", "0"]["detail"] == "TypeError: odd entry"
    assert [row["J"] for key, row in found.items() if key != ("TAO/clip one", "0")] == [100.0] * (len(found) - 1)


def test_a_results_json_scores_as_the_same_masks_in_png_files(revos: tuple[Path, Truth], tmp_path: Path) -> None:
    root, truth = revos
    shifted = {key: np.roll(masks, 2, 2) for key, masks in truth.items()}
    write_pngs(tmp_path / "pred", root, "revos", shifted)
    results: dict[str, Any] = {}
    for (video, expression), masks in shifted.items():
        results.setdefault(video, {})[expression] = {"prediction_masks": [fixtures.rle(mask) for mask in masks]}
    (tmp_path / "results.json").write_text(json.dumps(results))
    found = []
    for name in ("pred", "results.json"):
        evaluate("revos", str(root), str(tmp_path / f"of {name}"), predictions=str(tmp_path / name), use_ray=False)
        found.append(rows(tmp_path / f"of {name}"))
    assert found[0] == found[1]
    assert 0 < found[0]["TAO/clip one", "0"]["J"] < 100


def break_one_of_each(predictions: Path) -> dict[tuple[str, str], str]:
    """Removes and damages prediction files; returns the expected status of each expression."""
    first, second = predictions / "TAO/clip one", predictions / "MOSE_b"
    for file in (first / "0").iterdir():
        file.unlink()
    (first / "0").rmdir()
    (first / "1" / "00002.png").unlink()
    save(np.ones((7, 9)), second / "0" / "00000.png")
    (second / "1" / "00001.png").write_bytes(b"no image")
    return {
        ("TAO/clip one", "0"): "missing-expression",
        ("TAO/clip one", "1"): "missing-frames",
        ("TAO/clip one", "2"): "ok",
        ("MOSE_b", "0"): "wrong-size",
        ("MOSE_b", "1"): "missing-frames",
        ("MOSE_b", "2"): "ok",
    }


def test_revos_scores_what_is_missing_0_and_lists_every_case(revos: tuple[Path, Truth], tmp_path: Path) -> None:
    root, truth = revos
    predictions = write_pngs(tmp_path / "pred", root, "revos", truth)
    want = break_one_of_each(predictions)
    done = evaluate("revos", str(root), str(tmp_path / "out"), predictions=str(predictions), use_ray=False)
    found = rows(tmp_path / "out")
    assert {key: row["status"] for key, row in found.items()} == want
    assert all(
        (row["J"], row["F"], row["A"], row["R"]) == (0, 0, 0, 0) for row in found.values() if row["status"] != "ok"
    )
    assert found["TAO/clip one", "1"]["missing_frames"] == 1
    scores = scored(done)
    assert scores["published"]["overall"]["J"] == 0.0
    assert scores["in_published_mean"] == 4
    assert {kind: one["count"] for kind, one in scores["problems"].items()} == {
        "missing-expression": 1,
        "missing-frames": 2,
        "wrong-size": 1,
    }
    assert "7x9" in scores["problems"]["wrong-size"]["expressions"][0]["detail"]
    assert "00001.png cannot be read" in json.dumps(scores["problems"]["missing-frames"])
    assert "score 0" in (tmp_path / "out" / "scores.md").read_text()


def test_mevis_leaves_out_what_is_missing_and_the_fixed_mean_counts_it_as_0(tmp_path: Path) -> None:
    root = tmp_path / "MeViS"
    truth = fixtures.write_mevis(root)
    predictions = write_pngs(tmp_path / "pred", root, "mevis", truth)
    video = next(iter(truth))[0]
    (predictions / video / "0" / "00000.png").unlink()
    scores = scored(evaluate("mevis", str(root), str(tmp_path / "out"), predictions=str(predictions), use_ray=False))
    assert scores["published"]["overall"]["J"] == 100.0
    assert scores["fixed"]["overall"]["J"] == pytest.approx(100 * (len(truth) - 1) / len(truth))
    assert scores["problems"]["missing-frames"]["count"] == 1
    assert scores["in_published_mean"] == len(truth) - 1
    assert "A" in scores["published"]["overall"]
    assert scores["published"]["overall"]["R"] is None  # the data set has no foreground masks


def test_a_missing_video_is_told_from_a_missing_expression(revos: tuple[Path, Truth], tmp_path: Path) -> None:
    root, truth = revos
    some = {key: masks for key, masks in truth.items() if key[0] == "MOSE_b"}
    for (video, expression), masks in some.items():
        for number, mask in enumerate(masks):
            save(mask, tmp_path / "pred" / video / expression / f"{number:05d}.png")
    evaluate("revos", str(root), str(tmp_path / "out"), predictions=str(tmp_path / "pred"), use_ray=False)
    found = rows(tmp_path / "out")
    assert {row["status"] for key, row in found.items() if key[0] != "MOSE_b"} == {"missing-video"}
    assert {row["status"] for key, row in found.items() if key[0] == "MOSE_b"} == {"ok"}


def test_reasonvos_counts_the_last_text_of_an_object_as_published(tmp_path: Path) -> None:
    root = tmp_path / "ReasonVOS"
    truth = fixtures.write_reasonvos(root)
    wrong = {key: np.zeros_like(masks) if key[1] == "0" else masks for key, masks in truth.items()}
    predictions = write_pngs(tmp_path / "pred", root, "reasonvos", wrong)
    scores = scored(
        evaluate("reasonvos", str(root), str(tmp_path / "out"), predictions=str(predictions), use_ray=False)
    )
    # texts "0" and "1" are about one object, and the masks of "1" are right
    assert scores["published"]["overall"]["J"] == 100.0
    assert scores["overwritten_expressions"] == 2
    assert scores["fixed"]["overall"]["J"] == pytest.approx(200 / 3)


def write_palettes(folder: Path, truth: Truth, wrong: int | None = None) -> Path:
    """Writes the truth in the official DAVIS layout. The images of annotator `wrong` are empty."""
    for video in {key[0] for key in truth}:
        for annotator in range(4):
            objects = [truth[video, str(4 * place + annotator)] for place in range(2)]
            for number in range(len(objects[0])):
                ids = np.zeros(objects[0][number].shape, np.uint8)
                for value, masks in enumerate(objects, start=1):
                    ids[masks[number]] = 0 if annotator == wrong else value
                save_palette(ids, folder / f"anno_{annotator}" / video / f"{number:05d}.png")
    return folder


def save_palette(ids: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(path)


def test_the_official_davis_number_is_the_mean_of_four_annotators_without_first_and_last_frame(tmp_path: Path) -> None:
    root = tmp_path / "davis"
    truth = fixtures.write_ref_davis(root)
    predictions = write_palettes(tmp_path / "pred", truth, wrong=2)
    for annotator, video in ((0, "goat"), (1, "bike-packing")):
        for end in ("00000", "00004"):  # the first and the last frame do not count
            save_palette(np.zeros((48, 64), np.uint8), predictions / f"anno_{annotator}" / video / f"{end}.png")
    done = evaluate(
        "ref-davis17-official", str(root), str(tmp_path / "out"), predictions=str(predictions), use_ray=False
    )
    published = scored(done)["published"]
    assert [published[f"annotator {number}"]["J"] for number in range(4)] == [100.0, 100.0, 0.0, 100.0]
    assert published["overall"]["J"] == published["overall"]["F"] == 75.0


def test_official_davis_gives_a_pixel_to_one_object_when_masks_overlap(tmp_path: Path) -> None:
    root = tmp_path / "davis"
    truth = fixtures.write_ref_davis(root)
    # object 2 is predicted as both objects. Without scores, the first object keeps its pixels, as with argmax.
    both = {
        key: masks | truth[key[0], str(int(key[1]) - 4)] if int(key[1]) >= 4 else masks for key, masks in truth.items()
    }
    predictions = write_pngs(tmp_path / "pred", root, "ref-davis17-official", both)
    found = {}
    for dataset in ("ref-davis17", "ref-davis17-official"):
        output = tmp_path / dataset
        found[dataset] = scored(evaluate(dataset, str(root), str(output), predictions=str(predictions), use_ray=False))[
            "published"
        ]["overall"]["J"]
    assert found["ref-davis17"] < 100.0
    assert found["ref-davis17-official"] == 100.0


@pytest.mark.ray
@pytest.mark.usefixtures("shared_ray")
def test_scores_on_ray_are_those_of_this_process(revos: tuple[Path, Truth], tmp_path: Path) -> None:
    root, truth = revos
    predictions = write_pngs(
        tmp_path / "pred", root, "revos", {key: np.roll(mask, 1, 1) for key, mask in truth.items()}
    )
    for name, use_ray in (("loop", False), ("ray", True)):
        evaluate("revos", str(root), str(tmp_path / name), predictions=str(predictions), use_ray=use_ray)
    for file in ("scores.parquet", "scores.json", "scores.md", "scores.html"):
        assert (tmp_path / "loop" / file).read_bytes() == (tmp_path / "ray" / file).read_bytes()


def evaluate_tiny(root: Path, output: Path) -> list[str]:
    line = ["evaluate", "revos", "--root", str(root), "--output", str(output), "--model", "untrained-tiny", "--no-ray"]
    return [*line, "--set", "max_instructions_per_unit=1"]


def test_an_evaluation_killed_while_it_labels_ends_with_the_scores_of_an_undisturbed_one(
    revos: tuple[Path, Truth], tmp_path: Path
) -> None:
    root, _ = revos
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    done = vrshq(*evaluate_tiny(root, calm))
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-c", "from vrshq.pipelines.cli.main import main; main()", *evaluate_tiny(root, killed)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and len(list((killed / "tracks").glob("*.parquet"))) < 2:
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    finished = len(RunDirectory(str(killed)).finished_units())
    assert 2 <= finished < 6, "the process was to be killed in the middle of labelling"
    assert not (killed / "scores.json").exists()
    again = vrshq(*evaluate_tiny(root, killed))
    assert again.returncode == 0, again.stderr
    assert f"{6 - finished} done now, {finished} before, of 6" in again.stdout
    assert (calm / "scores.parquet").read_bytes() == (killed / "scores.parquet").read_bytes()
    scores = [json.loads((run / "scores.json").read_text()) for run in (calm, killed)]
    for one in scores:
        one["predictions"] = one["reproduce"]["command"] = ""
    assert scores[0] == scores[1]
    assert scores[0]["problems"] == {}
    assert scores[0]["expressions"] == 6
    assert all(0 < row["presence"] < 1 for row in rows(calm).values())
    # the run has the same scores as given predictions
    evaluate("revos", str(root), str(tmp_path / "again"), predictions=str(calm), use_ray=False)
    assert rows(tmp_path / "again") == rows(calm)


def test_a_run_over_more_frames_than_the_metadata_lists_is_matched_by_their_names(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    fixtures.write_png_tree(root)
    metadata = json.loads((root / "meta_expressions.json").read_text())
    frames = metadata["videos"]["set/one"]["frames"]
    metadata["videos"]["set/one"]["frames"] = [frames[2], frames[0]]  # fewer frames, in another order
    full, part = tmp_path / "full", tmp_path / "part"
    settings = Settings(model="untrained-tiny")
    evaluate("png-tree", str(root), str(full), settings, use_ray=False)
    whole = open_predictions(str(full), str(root)).of(open_benchmark("png-tree", str(root)).videos[0])
    (root / "meta_expressions.json").write_text(json.dumps(metadata))
    evaluate("png-tree", str(root), str(part), settings, use_ray=False)
    some = open_predictions(str(part), str(root)).of(open_benchmark("png-tree", str(root)).videos[0])
    assert whole is not None
    assert some is not None
    assert whole.keys() == some.keys() == {"a", "b", "none"}
    for key, prediction in some.items():
        assert list(prediction.masks) == [whole[key].masks[2], whole[key].masks[0]]
    # without the root, there are no names to match by
    lost = open_predictions(str(part)).of(open_benchmark("png-tree", str(root)).videos[0])
    assert lost is not None
    assert "4 frames, the metadata 2" in str(lost["a"].problem)


def test_a_failed_instruction_is_missing_with_the_reason_in_its_row(revos: tuple[Path, Truth], tmp_path: Path) -> None:
    root, _ = revos
    for file in (root / "JPEGImages" / "MOSE_b").iterdir():
        file.write_bytes(b"not an image")
    done = evaluate("revos", str(root), str(tmp_path / "run"), Settings(model="untrained-tiny"), use_ray=False)
    assert done.labelled is not None
    assert done.labelled.counts["errors"] == 3
    missing = [row for key, row in rows(tmp_path / "run").items() if key[0] == "MOSE_b"]
    assert {row["status"] for row in missing} == {"missing-video"}
    assert all("MOSE_b/00000.jpg" in row["detail"] for row in missing)


def test_texts_and_ids_of_the_data_are_never_markup(tmp_path: Path) -> None:
    evil = "</td><script>alert(1)</script>|`[x](javascript:alert(1))\n## heading"
    clips = {"<img src=x onerror=alert(2)>": fixtures.make_clip(1)}
    root = tmp_path / "ReVOS"
    fixtures.write_revos(root, videos=clips)
    path = root / "meta_expressions_valid_.json"
    metadata = json.loads(path.read_text())
    for video in metadata["videos"].values():
        for expression in video["expressions"].values():
            expression["exp"] = evil
    path.write_text(json.dumps(metadata))
    video, *_ = open_benchmark("revos", str(root)).videos
    first = video.expressions[0].expression_id
    shape = fixtures.make_clip(1).shape
    answer = {"prediction_masks": [fixtures.rle(np.ones(shape[1:], bool)) for _ in range(shape[0])]}
    (tmp_path / "one.json").write_text(json.dumps({video.video_id: {first: answer}}))
    outputs = []
    for name in ("<b>one</b>", "two"):
        evaluate("revos", str(root), str(tmp_path / name), predictions=str(tmp_path / "one.json"), use_ray=False)
        outputs.append(str(tmp_path / name))
    shown = page("comparison", sections(compare(*outputs)))
    shown += (tmp_path / "two" / "scores.html").read_text()
    assert "<script" not in shown
    assert "<img" not in shown
    assert "<b>one" not in shown
    assert "&lt;img src=x" in shown
    text = (tmp_path / "two" / "scores.md").read_text() + markdown("comparison", sections(compare(*outputs)))
    assert re.search(r"(?<!\\)<(img|script|b>)", text) is None
    assert "\n## heading" not in text


def test_comparing_gives_paired_differences_and_names_what_changed(revos: tuple[Path, Truth], tmp_path: Path) -> None:
    root, truth = revos
    for name, shift in (("better", 0), ("worse", 3)):
        moved = {key: np.roll(masks, shift if key[1] == "0" else 0, 2) for key, masks in truth.items()}
        write_pngs(tmp_path / name, root, "revos", moved)
        evaluate("revos", str(root), str(tmp_path / f"{name} scores"), predictions=str(tmp_path / name), use_ray=False)
    first, second = str(tmp_path / "worse scores"), str(tmp_path / "better scores")
    result = compare(first, second)
    found = rows(first)
    gain = np.mean([100 - row["J_fixed"] for key, row in found.items() if key[1] == "0"])
    assert result["differences"]["referring"]["J"] == pytest.approx(gain)
    assert result["differences"]["reasoning"]["J"] == 0.0
    low, high = result["intervals"]["referring"]["J"]
    assert low <= gain <= high
    assert (result["gained"], result["lost"], result["equal"]) == (2, 0, 4)
    assert [one["expression_id"] for one in result["most_gained"]] == ["0", "0"]
    assert result["most_gained"][0]["difference"] >= result["most_gained"][1]["difference"] > 0
    back = compare(second, first)
    assert back["differences"]["overall"]["JF"] == pytest.approx(-result["differences"]["overall"]["JF"])
    assert compare(first, first)["intervals"]["overall"]["JF"] == [0.0, 0.0]
    with pytest.raises(CompareError, match=r"has no scores.parquet"):
        compare(first, str(tmp_path / "better"))


def test_wrong_paths_are_refused_in_one_line(revos: tuple[Path, Truth], tmp_path: Path) -> None:
    root, _ = revos
    with pytest.raises(PredictionsError, match="nothing is there"):
        evaluate("revos", str(root), str(tmp_path / "out"), predictions=str(tmp_path / "nowhere"), use_ray=False)
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(PredictionsError, match="expected an object of videos, got list"):
        open_predictions(str(tmp_path / "list.json"))
    fixtures.write_mevis(tmp_path / "MeViS", "valid")
    with pytest.raises(DatasetError, match="no ground truth"):
        evaluate("mevis", str(tmp_path / "MeViS"), str(tmp_path / "out"), predictions=str(tmp_path), split="valid")


def test_the_command_checks_scores_and_compares(revos: tuple[Path, Truth], tmp_path: Path) -> None:
    root, truth = revos
    predictions = write_pngs(tmp_path / "pred", root, "revos", truth)
    line = ["evaluate", "revos", "--root", str(root)]
    checked = vrshq(*line, "--check")
    assert checked.returncode == 0, checked.stdout
    out = str(tmp_path / "out")
    done = vrshq(*line, "--predictions", str(predictions), "--output", out, "--no-ray")
    assert done.returncode == 0, done.stderr
    assert "100.00" in done.stdout
    compared = vrshq("compare", out, out, "--output", str(tmp_path / "compared"))
    assert compared.returncode == 0, compared.stderr
    assert {path.name for path in (tmp_path / "compared").iterdir()} == {
        "comparison.json",
        "comparison.md",
        "comparison.html",
    }
    (root / "JPEGImages" / "MOSE_b" / "00001.jpg").unlink()
    broken = vrshq(*line, "--check")
    assert broken.returncode == 1
    assert "frame-missing" in broken.stdout
    for wrong in ([], ["--output", out, "--model", "untrained-tiny", "--predictions", out]):
        refused = vrshq(*line, *wrong)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
        assert "--output" in refused.stderr


@pytest.mark.parametrize(
    ("text", "moving"),
    [
        ("the panda walking away", True),
        ("The bird that FLIES left to right", True),
        ("dog running faster", True),
        ("the red car", False),
        ("a passenger in the slide show", True),  # the rule is a list of words, so the meaning does not count
        ("which animal is not hungry?", False),
        ("", False),
    ],
)
def test_motion_words(text: str, moving: bool) -> None:
    assert has_motion_word(text) == moving
