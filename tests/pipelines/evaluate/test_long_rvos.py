"""Promises of the Long-RVOS and MeViS v2 readers and of their protocols, on data sets in the published layouts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.pipelines.evaluate.test_datasets import edit
from tests.pipelines.evaluate.test_evaluate import rows, save, scored, write_pngs
from tests.support import dataset_fixtures as fixtures
from tests.support.label_runs import vrshq
from vrshq.pipelines.evaluate.datasets import DatasetError, check_benchmark, open_benchmark
from vrshq.pipelines.evaluate.markdown import markdown
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.evaluate.score_sections import sections
from vrshq.pipelines.label.settings import Settings

FIRST, SECOND = "17aeae3bea", "0b2d4f"


@pytest.fixture
def long_rvos(tmp_path: Path) -> tuple[Path, fixtures.Truth]:
    root = tmp_path / "long_rvos"
    return root, fixtures.write_long_rvos(root)


def scores_of(root: Path, predictions: Path, output: Path, dataset: str = "long-rvos") -> dict[str, Any]:
    return scored(evaluate(dataset, str(root), str(output), predictions=str(predictions), use_ray=False))


def over_time(truth: np.ndarray, guess: np.ndarray) -> tuple[float, float]:
    """The paper's tIoU and vIoU in percent, from masks (frames, height, width) bool."""
    shown, found = truth.any((1, 2)), guess.any((1, 2))
    either = (shown | found).sum()
    overlap = [(a & b).sum() / (a | b).sum() for a, b in zip(truth[shown & found], guess[shown & found], strict=True)]
    return 100 * (shown & found).sum() / either, 100 * sum(overlap) / either


def test_types_are_kinds_and_a_frame_without_an_image_does_not_show_the_object(
    long_rvos: tuple[Path, fixtures.Truth],
) -> None:
    root, truth = long_rvos
    benchmark = open_benchmark("long-rvos", str(root))
    video = benchmark.videos[0]
    assert [expression.kind for expression in video.expressions] == ["static", "dynamic", "hybrid"]
    assert [expression.object_ids for expression in video.expressions] == [("1",), ("2",), ("2",)]
    assert (video.uri, video.frames[1]) == (f"valid/JPEGImages/{FIRST}", "00005")
    masks = benchmark.masks(video, video.expressions[1])
    assert [bool(frame) for frame in masks] == truth[FIRST, "1"].any((1, 2)).tolist() == [False, True, True, True, True]


def test_each_type_has_its_tiou_and_viou_and_the_mean_is_over_all_expressions(
    long_rvos: tuple[Path, fixtures.Truth], tmp_path: Path
) -> None:
    root, truth = long_rvos
    guesses = {key: np.roll(masks, 2, 2) for key, masks in truth.items()}
    guesses[FIRST, "0"][3:] = False
    guesses[SECOND, "1"][0] = truth[SECOND, "0"][0]  # a mask where nothing is to be seen
    expected = {key: over_time(truth[key], guess) for key, guess in guesses.items()}
    edit(root / "valid" / "meta_expressions.json", lambda meta: meta["videos"][SECOND]["expressions"].pop("2"))
    scores = scores_of(root, write_pngs(tmp_path / "pred", root, "long-rvos", guesses), tmp_path / "out")
    found = rows(tmp_path / "out")
    for key, (tiou, viou) in expected.items():
        if key != (SECOND, "2"):
            assert (found[key]["tIoU"], found[key]["vIoU"]) == (pytest.approx(tiou), pytest.approx(viou))
    kinds = scores["breakdowns"]["kind"]
    assert {kind: one["expressions"] for kind, one in kinds.items()} == {"dynamic": 2, "hybrid": 1, "static": 2}
    assert kinds["static"]["tIoU"] == pytest.approx(
        np.mean([expected[key][0] for key in ((FIRST, "0"), (SECOND, "0"))])
    )
    assert kinds["dynamic"]["vIoU"] == pytest.approx(
        np.mean([expected[key][1] for key in ((FIRST, "1"), (SECOND, "1"))])
    )
    assert expected[SECOND, "1"][0] == 80.0
    # not the mean of the means of the three types
    assert scores["published"]["overall"]["J"] == pytest.approx(np.mean([row["J"] for row in found.values()]))
    page = markdown("", sections(scores))
    assert "| kind | expressions | J | F | J&F | tIoU | vIoU |".replace("&", r"\&") in page
    assert "ReferMo" in page
    assert "73.6" in page


def test_frames_without_a_predicted_mask_count_as_the_public_evaluation_counts_them(
    long_rvos: tuple[Path, fixtures.Truth], tmp_path: Path
) -> None:
    root, truth = long_rvos
    predictions = write_pngs(tmp_path / "pred", root, "long-rvos", truth)
    (predictions / FIRST / "0" / "00010.png").unlink()  # an empty mask
    (predictions / FIRST / "1" / "00000.png").unlink()  # the evaluation's process ends: left out of the mean
    shutil.rmtree(predictions / SECOND)  # zero for each of its three expressions
    scores = scores_of(root, predictions, tmp_path / "out")
    found = rows(tmp_path / "out")
    assert (found[FIRST, "0"]["status"], found[FIRST, "0"]["J"]) == ("ok", 80.0)
    assert found[FIRST, "0"]["detail"] == "1 frames without a mask count as empty"
    assert found[FIRST, "1"]["status"] == "missing-frames"
    assert scores["published"]["overall"]["J"] == pytest.approx((80 + 100 + 3 * 0) / 5)
    assert scores["fixed"]["overall"]["J"] == pytest.approx((80 + 100 + 4 * 0) / 6)
    assert scores["problems"]["missing-video"]["cost"] == "score 0"
    assert scores["problems"]["missing-frames"]["cost"].startswith("left out of the published mean")


def without_annotations(root: Path) -> None:
    shutil.rmtree(root / "valid" / "Annotations" / FIRST / "1")


def misnamed(root: Path) -> None:
    for path in (root / "valid" / "Annotations" / FIRST / "1").iterdir():
        path.rename(path.with_name(f"frame_{path.name}"))


def of_another_size(root: Path) -> None:
    for path in (root / "valid" / "Annotations" / FIRST / "1").iterdir():
        Image.new("L", (32, 24), 255).save(path)


@pytest.mark.parametrize(
    ("fault", "status", "detail", "code"),
    [
        (without_annotations, "no-truth", f"Annotations/{FIRST}/1 has no image of any of the 5 frames", "mask-missing"),
        (misnamed, "no-truth", "expected a PNG, named like its frame", "mask-missing"),
        (of_another_size, "wrong-size", "predicted 48x64, truth 24x32", "mask-size"),
    ],
)
def test_faulty_annotations_cost_their_expression_alone_and_the_check_finds_them(
    fault: Callable[[Path], None],
    status: str,
    detail: str,
    code: str,
    long_rvos: tuple[Path, fixtures.Truth],
    tmp_path: Path,
) -> None:
    root, truth = long_rvos
    predictions = write_pngs(tmp_path / "pred", root, "long-rvos", truth)
    fault(root)
    scores_of(root, predictions, tmp_path / "out")
    found = rows(tmp_path / "out")
    assert {key for key, row in found.items() if row["status"] != "ok"} == {(FIRST, "0")}
    assert found[FIRST, "0"]["status"] == status
    assert detail in found[FIRST, "0"]["detail"]
    assert {problem.code: problem.count for problem in check_benchmark("long-rvos", str(root)).problems}[code] == 1


def test_a_missing_frame_folder_is_one_error_of_its_video_and_names_the_folder(
    long_rvos: tuple[Path, fixtures.Truth], tmp_path: Path
) -> None:
    root, _ = long_rvos
    shutil.rmtree(root / "valid" / "JPEGImages" / FIRST)
    evaluate("long-rvos", str(root), str(tmp_path / "out"), Settings(model="untrained-tiny"), use_ray=False)
    found = rows(tmp_path / "out")
    details = {row["detail"] for key, row in found.items() if key[0] == FIRST}
    assert len(details) == 1
    assert f"valid/JPEGImages/{FIRST}" in str(details)
    assert {row["status"] for key, row in found.items() if key[0] == SECOND} == {"ok"}
    problems = {problem.code: problem for problem in check_benchmark("long-rvos", str(root)).problems}
    assert problems["frame-missing"].count == 5
    assert f"valid/JPEGImages/{FIRST}/00000.jpg" in problems["frame-missing"].examples[0]


def test_an_unknown_type_is_a_warning_and_in_no_mean(long_rvos: tuple[Path, fixtures.Truth], tmp_path: Path) -> None:
    root, truth = long_rvos
    edit(root / "valid" / "meta_expressions.json", lambda meta: meta["videos"][FIRST]["expressions"]["0"].pop("type"))
    predictions = write_pngs(tmp_path / "pred", root, "long-rvos", truth)
    assert scores_of(root, predictions, tmp_path / "out")["in_published_mean"] == 5
    problem = next(one for one in check_benchmark("long-rvos", str(root)).problems if one.code == "type-unknown")
    assert "expected static, dynamic or static+dynamic" in problem.examples[0]


@pytest.mark.parametrize(
    ("dataset", "metadata", "write"),
    [
        ("long-rvos", "valid/meta_expressions.json", fixtures.write_long_rvos),
        ("mevis-v2", "valid_u/meta_expressions_v2.json", lambda root: fixtures.write_mevis(root, version=2)),
    ],
)
def test_broken_metadata_is_refused_in_one_line_with_the_name_of_the_file(
    dataset: str, metadata: str, write: Callable[[Path], fixtures.Truth], tmp_path: Path
) -> None:
    write(tmp_path)
    text = (tmp_path / metadata).read_text()
    for broken, why in ((text[: len(text) // 2], "is not JSON"), ("[]", 'has no object "videos"')):
        (tmp_path / metadata).write_text(broken)
        with pytest.raises(DatasetError, match=f"{metadata} {why}") as caught:
            open_benchmark(dataset, str(tmp_path))
        assert "\n" not in str(caught.value)
    done = vrshq("evaluate", dataset, "--root", str(tmp_path), "--output", str(tmp_path / "out"), "--predictions", "x")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    (tmp_path / metadata).unlink()
    with pytest.raises(DatasetError, match="expected the data set's file"):
        open_benchmark(dataset, str(tmp_path))


def test_mevis_v2_takes_its_own_texts_and_marks_those_without_a_target(tmp_path: Path) -> None:
    fixtures.write_mevis(tmp_path, version=2)
    fixtures.write_mevis(tmp_path, version=1)  # both versions are there, as after unpacking both
    kinds = [expression.kind for expression in open_benchmark("mevis-v2", str(tmp_path)).videos[0].expressions]
    assert kinds == [None, None, "no-target"]
    fixtures.write_mevis(tmp_path, "valid", version=2)
    (tmp_path / "valid" / "meta_expressions_v2.json").rename(tmp_path / "valid" / "meta_expressions_v2_release.json")
    hidden = open_benchmark("mevisv2", str(tmp_path), split="valid")
    assert not hidden.has_masks
    assert [expression.kind for expression in hidden.videos[0].expressions] == [None, None, None]
    # a copy whose texts lie under the name of v1
    (tmp_path / "valid_u" / "meta_expressions_v2.json").replace(tmp_path / "valid_u" / "meta_expressions.json")
    assert open_benchmark("mevis-v2", str(tmp_path)).videos[0].expressions[2].kind == "no-target"


def test_mevis_v2_has_n_acc_t_acc_and_final_beside_j_and_f(tmp_path: Path) -> None:
    root = tmp_path / "MeViS"
    truth = fixtures.write_mevis(root, version=2)
    predictions = write_pngs(tmp_path / "pred", root, "mevis-v2", truth)
    videos = [video.video_id for video in open_benchmark("mevis-v2", str(root)).videos]
    save(np.ones((48, 64), bool), predictions / videos[0] / "2" / "00001.png")  # a mask for the bird that is not there
    for number in range(3):
        save(np.zeros((48, 64), bool), predictions / videos[0] / "0" / f"{number:05d}.png")
    scores = scores_of(root, predictions, tmp_path / "out", "mevis-v2")
    assert (scores["no_target"]["n_acc"], scores["no_target"]["t_acc"]) == (0.5, 0.75)
    assert scores["published"]["overall"]["JF"] == 75.0
    assert scores["no_target"]["final"] == pytest.approx((0.75 + 0.5 + 0.75) / 3)
    table = markdown("", sections(scores)).partition("## Presence of a target")[2]
    assert (
        table.index("by the protocol, % | 75.00") < table.index("N-acc") < table.index("T-acc") < table.index("| 66.67")
    )


def test_other_names_of_a_data_set_score_it(tmp_path: Path) -> None:
    root = tmp_path / "davis"
    truth = fixtures.write_ref_davis(root)
    predictions = write_pngs(tmp_path / "pred", root, "davis", truth)
    scores = scores_of(root, predictions, tmp_path / "out", "davis")
    assert (scores["dataset"], scores["published"]["overall"]["J"]) == ("ref-davis17", 100.0)
