"""Promises of `vrshq ablate --study`: its variants, the oracle's bound, the costs, and a table that survives a kill."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from vrshq.operators.synth import SynthConfig
from vrshq.pipelines.cli.main import app
from vrshq.pipelines.cli.scores_display import columns_that_fit
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.evaluate.ablate import ablate, read_variants
from vrshq.pipelines.evaluate.ablation import BEST, sections
from vrshq.pipelines.evaluate.studies import STUDIES, Variant
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import load_settings
from vrshq.pipelines.synth.run import synth
from vrshq.pipelines.synth.settings import Where

SPLIT = "test"
CONFIG = SynthConfig(frames=(6, 8), short_sides=(64,), expressions=1)
CHOSEN = ["first", "middle", "oracle: largest true area", "oracle: best candidate"]
FRAMES = [1, 3, 6, 9, 12, 24, 48]
NAMES = {
    "parts": [
        "base",
        "fusion.alpha=0",
        "keyframe.method=clip+similarity",
        "fusion.alpha=0--keyframe.method=clip+similarity",
    ],
    "alpha": [
        "base",
        *(f"fusion.alpha={alpha}" for alpha in ("0", "0.05", "0.2", "0.25", "0.5")),
        "fusion.temperature=0.1",
        "fusion.temperature=0.05",
        "fusion.weighting=adaptive",
        "fusion.weighting=adaptive--fusion.temperature=0.05",
    ],
    "keyframe": [
        "base",
        *(f"keyframe.method={name}" for name in ("clip", "similarity", "object_score", "clip+similarity")),
        *(f"keyframe.method={name}" for name in ("clip+object_score", "clip+similarity+object_score", "tks_z")),
        *(f"keyframe.method={name}" for name in ("motion", "tks_z+motion", "first", "middle")),
        *(f"keyframe.method=random--keyframe.seed={seed}" for seed in (0, 1, 2)),
        *(f"keyframe.method={name}" for name in ("oracle_area", "oracle_candidate")),
    ],
    "frames": ["base", *(f"sampling.sampler=true_n--sampling.max_image_token={count}" for count in FRAMES)],
    "presampling": [
        "base",
        *(f"sampling.sampler=random--sampling.seed={seed}" for seed in (0, 1, 2)),
        *(f"sampling.sampler={name}" for name in ("spread", "true_n", "segment")),
    ],
    "image": [
        "base",
        "sampling.sampler=true_n--sampling.max_image_token=1--fusion.alpha=0",
        "sampling.sampler=true_n--sampling.max_image_token=1",
        "fusion.alpha=0",
    ],
}


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_has_its_variants_each_with_its_settings_and_nothing_else_changed(study: str) -> None:
    variants = read_variants([], None, ["masks.presence=0.25"], study=study)
    assert [variant.name for variant in variants] == NAMES[study]
    for variant in variants[1:]:
        assert variant.settings == load_settings(None, ["masks.presence=0.25", *variant.name.split("--")])
        assert variant.label


def test_the_trial_that_is_the_base_already_is_its_label_and_not_run_twice() -> None:
    variants = read_variants(["fusion.alpha=0.3"], None, [], study="alpha")
    assert [variants[0].shown, variants[-1].shown] == ["base (alpha 0.1)", "fusion.alpha=0.3"]
    other = read_variants([], None, ["fusion.alpha=0.5"], study="alpha")
    assert [one.shown for one in other[:4]] == ["base (alpha 0.5)", "alpha 0", "alpha 0.05", "alpha 0.1"]


def test_an_unknown_study_is_refused_in_one_line_with_the_known_ones() -> None:
    line = ["ablate", "revos", "--root", "nowhere", "--output", "out", "--study", "best"]
    known = re.escape(f"--study best: no such study; expected one of {', '.join(STUDIES)}, presence")
    with pytest.raises(SettingsError, match=f"^{known}$"):
        CliRunner().invoke(app, line, catch_exceptions=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos; an instruction of the second one has no text and fails before the tokens."""
    folder = tmp_path_factory.mktemp("studies") / "set"
    synth(str(folder), videos=2, seed=9, split=SPLIT, form="jpeg", config=CONFIG, where=Where(use_ray=False))
    path = folder / f"meta_expressions_{SPLIT}_.json"
    metadata = json.loads(path.read_text())
    metadata["videos"]["test_000001"]["expressions"]["0"]["exp"] = ""
    path.write_text(json.dumps(metadata))
    return folder


def variants() -> list[Variant]:
    found = read_variants(["fusion.weighting=adaptive"], None, [], study="keyframe")
    return [one for one in found if one.label in ["", *CHOSEN] or one.name == "base"]


@pytest.fixture(scope="module")
def out(root: Path) -> Path:
    """The output of a study of keyframes with some of its variants."""
    output = root.parent / "out"
    ablate("revos", str(root), str(output), variants(), study="keyframe", split=SPLIT, use_ray=False)
    return output


def result_of(output: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((output / "ablation.json").read_text())
    return result


def without_seconds(output: Path) -> dict[str, Any]:
    result = result_of(output)
    for run in result["runs"]:
        del run["folder"]
        run["cost"] = {name: value for name, value in run["cost"].items() if not name.startswith("seconds")}
    return result


def keyframe_j(folder: str) -> dict[tuple[str, str], float]:
    """J of each expression with a target on its keyframe; 0 where the target is not on it."""
    columns = ["video_id", "expression_id", "kind", "frame_distance", "frame_J", "frame_shown"]
    return {
        (row["video_id"], row["expression_id"]): row["frame_J"][place] * row["frame_shown"][place]
        for row in pq.read_table(f"{folder}/scores.parquet", columns=columns).to_pylist()
        if row["kind"] != "no-target" and row["frame_distance"]
        for place in [row["frame_distance"].index(0)]
    }


def test_the_oracles_are_at_least_as_good_as_every_other_keyframe(out: Path) -> None:
    on_keyframe = {run["label"]: keyframe_j(run["folder"]) for run in result_of(out)["runs"]}
    best = on_keyframe["oracle: best candidate"]
    assert len(best) == 5  # three each, but for the one that failed
    assert all(best[key] >= value for values in on_keyframe.values() for key, value in values.items())
    assert sum(best.values()) > sum(on_keyframe["base, as published"].values())
    runs = {run["label"]: run["scores"] for run in result_of(out)["runs"]}
    bound = result_of(out)["bound"]
    assert all(bound["scores"]["JF"] >= scores["JF"] - 1e-9 for scores in runs.values())
    assert bound["scores"]["JF"] > runs["base, as published"]["JF"]
    difference = bound["scores"]["JF"] - runs["base, as published"]["JF"]
    assert bound["differences"]["overall"]["JF"] == pytest.approx(difference)
    assert bound["lost"] == 0


def test_an_oracle_answers_units_with_a_failed_instruction_too(out: Path) -> None:
    for run in result_of(out)["runs"]:
        problems = json.loads((Path(run["folder"]) / "scores.json").read_text())["problems"]
        assert {kind: found["count"] for kind, found in problems.items()} == {"missing-expression": 1}


def test_costs_are_the_counted_calls_and_what_was_taken_over_counts(out: Path) -> None:
    runs = {run["label"]: run["cost"] for run in result_of(out)["runs"]}
    counted = json.loads((out / "base" / "stats.json").read_text())["commands"][0]
    base = runs["base, as published"]
    assert base["encoder_frames"] == base["clip_frames"] == counted["counts"]["encoder_calls"] > 0
    assert base["seconds"] == pytest.approx(sum(counted["seconds_by_stage"].values()), abs=0.01)
    for cost in runs.values():
        assert [cost[name] for name in ("clip_frames", "encoder_frames", "tower_frames")] == [
            base[name] for name in ("clip_frames", "encoder_frames", "tower_frames")
        ]
        assert cost["seconds_by_stage"]["tokens"] == base["seconds_by_stage"]["tokens"] > 0
    assert runs["fusion.weighting=adaptive"]["candidates"] == 2 * base["candidates"] > 0


def test_a_study_that_was_killed_and_goes_on_has_the_same_table(root: Path, out: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(out / "base", output / "base")
    begun: list[str] = []

    def killed(name: str, _: int) -> None:
        begun.append(name)
        if len(begun) == 3:
            raise KeyboardInterrupt

    some = [one for one in variants() if one.label != "oracle: largest true area"]
    arguments = ("revos", str(root), str(output), some)
    with pytest.raises(KeyboardInterrupt):
        ablate(*arguments, study="keyframe", split=SPLIT, use_ray=False, on_run=killed)
    assert not (output / "ablation.json").exists()
    ablate(*arguments, study="keyframe", split=SPLIT, use_ray=False)
    want = without_seconds(out)
    want["runs"] = [run for run in want["runs"] if run["label"] != "oracle: largest true area"]
    got = without_seconds(output)
    assert got["runs"] == want["runs"]


def test_the_table_says_what_an_interval_shows_and_stands_beside_the_paper(out: Path) -> None:
    result = copy.deepcopy(result_of(out))
    first, middle, area = result["runs"][1:4]
    for run, ends in ((first, [-1.0, 0.0]), (middle, [0.1, 2.0]), (area, [-3.0, -0.1])):
        run["intervals"]["overall"]["JF"] = ends
    table = sections(result)[0]
    column = {name: place for place, name in enumerate(table.head)}
    readings = {row[0]: row[column["reading"]] for row in table.rows}
    assert [readings[run["label"]] for run in (first, middle, area)] == ["no difference shown", "better", "worse"]
    assert table.rows[-1][0] == BEST
    assert readings["base, as published"] == ""
    published = {row[0]: row[column["published J&F, referring | reasoning"]] for row in table.rows}
    assert published["base, as published"] == "62.1 | 56.1"
    assert published["first"] == ""
    assert {row[column["image-encoder calls"]] for row in table.rows[:-1]} == {
        str(result["runs"][0]["cost"]["encoder_frames"])
    }


def test_a_variant_that_the_model_cannot_take_has_no_answer_and_the_others_their_scores(
    root: Path, out: Path, tmp_path: Path
) -> None:
    shutil.copytree(out / "base", tmp_path / "base")
    base, *_ = variants()
    # by CLIP alone, which a sampler without CLIP does not have: every instruction fails
    failing = Variant("clip", load_settings(None, ["sampling.sampler=first", "keyframe.method=clip"]))
    done = ablate("revos", str(root), str(tmp_path), [base, failing], study="frames", split=SPLIT, use_ray=False)
    assert done.result is not None
    with_scores, without = done.result["runs"]
    assert with_scores["scores"]["JF"] == result_of(out)["runs"][0]["scores"]["JF"]
    assert without["scores"]["JF"] is None
    assert {without["cost"][name] for name in ("clip_frames", "tower_frames", "encoder_frames", "candidates")} == {0}
    table = sections(done.result)[0]
    assert table.rows[1][:7] == ["clip", "", "", "", "", "", "no answer"]
    assert [line for line in table.lines if line.startswith("clip: ") and "sampled without CLIP" in line]


def test_on_a_narrow_terminal_the_table_comes_in_parts_with_whole_cells(out: Path) -> None:
    table = sections(result_of(out))[0]
    others = list(range(1, len(table.head)))
    assert columns_that_fit(table, 400) == [[0, *others]]
    parts = columns_that_fit(table, 80)
    assert len(parts) > 1
    assert [place for part in parts for place in part[1:]] == others
    assert {part[0] for part in parts} == {0}
    for part in parts:
        cells = [max(len(row[place]) for row in table.rows) for place in part[1:]]
        assert sum(cells) + 3 * len(part) + 1 < 80


def test_the_parts_are_said_to_be_another_experiment_than_the_papers(out: Path) -> None:
    result = copy.deepcopy(result_of(out)) | {"study": "parts", "bound": None}
    trained = {"table": "4", "setting": "no TDA", "trained": True, "source": "", "note": ""}
    trained |= {"referring": {"JF": 58.8}, "reasoning": {"JF": 54.1}}
    result["runs"][1]["published"] = trained
    table = sections(result)[0]
    assert "58.8 | 54.1 *" in table.rows[1]
    assert "-3.3 | -2.0" in table.rows[1]
    assert [line for line in table.lines if "trained a model for each" in line and "another experiment" in line]


def test_a_labelling_refuses_an_oracle_in_one_line(root: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.jsonl"
    table.write_text('{"video_uri": "JPEGImages/test_000000", "instruction_id": "0", "text": "the disc"}\n')
    settings = load_settings(None, ["keyframe.method=oracle_area"])
    with pytest.raises(SettingsError, match="oracle_area: it looks at the ground truth; expected") as caught:
        label(str(table), str(tmp_path / "run"), settings, videos=str(root), use_ray=False)
    assert "\n" not in str(caught.value)
