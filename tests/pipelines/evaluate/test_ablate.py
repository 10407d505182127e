"""Promises of `vrshq ablate`: a run from the base's tokens equals a fresh run, and the page compares all runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.synth import SynthConfig
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.evaluate.ablate import (
    Variant,
    ablate,
    read_variants,
    same_tokens,
    take_over,
    units_with_tokens,
)
from vrshq.pipelines.evaluate.ablation import BASE, sections
from vrshq.pipelines.evaluate.datasets import open_benchmark
from vrshq.pipelines.evaluate.datasets.base import DatasetError
from vrshq.pipelines.evaluate.instructions import write_instructions
from vrshq.pipelines.evaluate.markdown import markdown
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import load_settings
from vrshq.pipelines.label.tables.schema import ERRORS, MASKS, TOKENS, TRACKS
from vrshq.pipelines.synth.run import synth
from vrshq.pipelines.synth.settings import Where

CONFIG = SynthConfig(frames=(5, 6), short_sides=(64,), expressions=1)
# Every second frame, so that the frames of the tokens are not the first ones of the video.
CHOSEN = ["decode.every=2"]
CHANGED = [*CHOSEN, "keyframe.method=first", "fusion.alpha=0.5", "masks.hole_area=0"]
SPLIT = "test"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of three videos. The second one has an expression without text, which fails before the tokens."""
    folder = tmp_path_factory.mktemp("ablate") / "set"
    synth(str(folder), videos=3, seed=5, split=SPLIT, form="jpeg", config=CONFIG, where=Where(use_ray=False))
    path = folder / f"meta_expressions_{SPLIT}_.json"
    metadata = json.loads(path.read_text())
    metadata["videos"]["test_000001"]["expressions"]["0"]["exp"] = ""
    path.write_text(json.dumps(metadata))
    return folder


@pytest.fixture(scope="module")
def base(root: Path) -> Path:
    output = root.parent / BASE
    evaluate("revos", str(root), str(output), load_settings(None, CHOSEN), split=SPLIT, use_ray=False)
    return output


@pytest.fixture(scope="module")
def fresh(root: Path) -> Path:
    """A run with the changed settings that did not use the base's tokens."""
    output = root.parent / "fresh"
    evaluate("revos", str(root), str(output), load_settings(None, CHANGED), split=SPLIT, use_ray=False)
    return output


def tables(run: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of a run in the order of their keys, without times."""
    found = {}
    for name, schema in (("masks", MASKS), ("tracks", TRACKS), ("tokens", TOKENS), ("errors", ERRORS)):
        rows: pa.Table = RunDirectory(str(run)).read(name, schema)
        keys = [key for key in ("video_id", "instruction_id", "object_id", "frame_index") if key in schema.names]
        rows = rows.drop_columns([key for key in ("seconds", "at") if key in schema.names])
        found[name] = rows.sort_by([(key, "ascending") for key in keys]).to_pylist()
    return found


def instructions(root: Path, folder: Path) -> str:
    return write_instructions(open_benchmark("revos", str(root), split=SPLIT), folder / "instructions.parquet")


@pytest.mark.parametrize("use_ray", [False, pytest.param(True, marks=[pytest.mark.ray, pytest.mark.long])])
def test_a_run_from_the_tokens_of_another_has_the_tables_and_scores_of_a_fresh_one(
    root: Path, base: Path, fresh: Path, tmp_path: Path, use_ray: bool
) -> None:
    run = tmp_path / "run"
    variants = [Variant(BASE, load_settings(None, CHOSEN)), Variant("run", load_settings(None, CHANGED))]
    shutil.copytree(base, tmp_path / BASE)
    taken: dict[str, int] = {}
    ablate("revos", str(root), str(tmp_path), variants, split=SPLIT, use_ray=use_ray, on_run=taken.__setitem__)
    assert taken == {BASE: 0, "run": 2}  # the video with the failed instruction was run in full
    got, want = tables(run), tables(fresh)
    assert got["masks"]
    assert [row["error_type"] for row in got["errors"]] == ["InputError"]
    assert got == want
    assert (run / "scores.parquet").read_bytes() == (fresh / "scores.parquet").read_bytes()
    assert got["tokens"] == tables(base)["tokens"]
    assert got["masks"] != tables(base)["masks"]
    seconds = RunDirectory(str(run)).read("tracks", TRACKS, ["video_id", "seconds"]).to_pylist()
    made = {row["video_id"]: row["seconds"] for row in seconds}
    for video_id, stages in made.items():
        assert (stages["tokens"] is None) == (stages["presample"] is None) == (video_id != "test_000001")
        assert stages["propagate"] is not None


def test_a_changed_setting_of_the_tokens_prevents_their_reuse(root: Path, base: Path, tmp_path: Path) -> None:
    table = instructions(root, tmp_path)
    for changed in ("sampling.max_image_token=3", "sampling.seed=1", "dtype=bfloat16", "max_instructions_per_unit=1"):
        settings = load_settings(None, [*CHOSEN, changed])
        assert take_over(table, str(base), str(tmp_path / "run"), settings, videos=str(root), use_ray=False) == 0
        assert not (tmp_path / "run").exists()


def test_a_run_that_samples_other_frames_by_the_bases_clip_has_the_tables_of_a_fresh_one(
    root: Path, base: Path, tmp_path: Path
) -> None:
    settings = load_settings(None, [*CHOSEN, "sampling.sampler=true_n", "sampling.max_image_token=2"])
    taken, fresh = tmp_path / "taken", tmp_path / "fresh"
    table = instructions(root, tmp_path)
    assert take_over(table, str(base), str(taken), settings, videos=str(root), use_ray=False, also_clip=True) == 2
    label(table, str(fresh), settings, videos=str(root), use_ray=False)
    got, want = tables(taken), tables(fresh)
    for name in ("masks", "tracks", "tokens"):
        rows = [row for row in want[name] if row["video_id"] != "test_000001"]  # its instruction failed in the base
        assert len(rows) > 0
        assert got[name] == rows
    assert got["tracks"][0]["sampled_frames"] != tables(base)["tracks"][0]["sampled_frames"]


def test_only_units_with_the_tokens_of_all_instructions_are_reused(base: Path) -> None:
    run = RunDirectory(str(base))
    manifest = run.read_manifest()
    ready = units_with_tokens(run, manifest)
    ids = dict(zip(manifest["unit_id"].to_pylist(), manifest["video_id"].to_pylist(), strict=True))
    assert {ids[unit] for unit in ready} == {"test_000000", "test_000002"}


def test_tokens_of_another_model_table_or_dtype_are_not_the_same() -> None:
    identity = {"model": {"fingerprint": "a"}, "manifest_sha256": "b", "settings": {"fusion": 1, "dtype": "float32"}}
    assert same_tokens(identity, identity | {"settings": {"fusion": 2, "dtype": "float32"}})
    assert not same_tokens(identity, identity | {"settings": {"fusion": 1, "dtype": "bfloat16"}})
    assert not same_tokens(identity, identity | {"model": {"fingerprint": "c"}})
    assert not same_tokens(identity, identity | {"manifest_sha256": "c"})


def test_the_command_runs_each_value_once_and_again_does_nothing_twice(root: Path, base: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(base, output / BASE)
    line = ["ablate", "revos", "--root", str(root), "--split", SPLIT, "--output", str(output), "--no-ray"]
    line += [word for text in CHOSEN for word in ("--set", text)]
    vary = ["keyframe.method=tks,first", "fusion.alpha=0.1"]
    line += [word for text in vary for word in ("--vary", text)]
    command = [sys.executable, "-c", "from vrshq.pipelines.cli.main import main; main()", *line]
    first = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert first.returncode == 0, first.stderr
    assert re.findall("^run (.*)", first.stdout, re.MULTILINE) == [
        "base",
        "keyframe.method=first, 2 units from what the base has",
    ]
    result = json.loads((output / "ablation.json").read_text())
    assert [run["name"] for run in result["runs"]] == ["base", "keyframe.method=first"]
    for run in result["runs"]:
        scores = json.loads((Path(run["folder"]) / "scores.json").read_text())
        assert run["scores"]["JF"] == scores["fixed"]["overall"]["JF"]
        assert run["JF_by_kind"].keys() == scores["breakdowns"]["asks"].keys()
        difference = scores["fixed"]["overall"]["JF"] - result["runs"][0]["scores"]["JF"]
        assert run["differences"]["overall"]["JF"] == pytest.approx(difference)
    assert result["runs"][1]["scores"]["keyframe_J"] != result["runs"][0]["scores"]["keyframe_J"]
    written = {name: (output / name).read_bytes() for name in ("ablation.json", "ablation.md", "ablation.html")}
    taken: dict[str, int] = {}
    variants = read_variants(vary, None, CHOSEN)
    ablate("revos", str(root), str(output), variants, split=SPLIT, use_ray=False, on_run=taken.__setitem__)
    assert taken == {"base": 0, "keyframe.method=first": 0}
    assert {name: (output / name).read_bytes() for name in written} == written
    text = markdown("ablation", sections(result))
    assert "Settings of the base: keyframe.method=tks." in text
    assert written["ablation.html"].count(b"<svg") == 1


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (["keyframe.method"], "expected key=value,value"),
        (["keyframe.method=best"], "setting keyframe.method"),
        (["keyframe.methods=first"], "no such setting"),
        (["model=a,b"], "cannot be varied"),
        (["resources.threads=1,2"], "cannot be varied"),
        (["sampling.sampler=../../x"], "names a folder"),
        (["keyframe.method=tks", "fusion.alpha=0.1"], "nothing differs from the base"),
        ([], "nothing differs from the base"),
    ],
)
def test_a_setting_that_cannot_be_varied_is_refused_in_one_line(vary: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        read_variants(vary, None, [])
    assert "\n" not in str(caught.value)


def test_values_are_read_as_settings_on_top_of_the_base() -> None:
    found = read_variants(["fusion.alpha=0, 0.3"], None, ["keyframe.method=clip", "fusion.alpha=0.3"], model="m")
    assert [variant.name for variant in found] == ["base", "fusion.alpha=0"]
    assert [variant.settings.fusion.alpha for variant in found] == [0.3, 0]
    assert {variant.settings.keyframe.method for variant in found} == {"clip"}
    assert {variant.settings.model for variant in found} == {"m"}


def test_a_split_without_truth_is_refused_before_anything_runs(root: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    shutil.copy(root / f"meta_expressions_{SPLIT}_.json", tmp_path / "set")
    with pytest.raises(DatasetError, match="no ground truth"):
        ablate(
            "revos",
            str(tmp_path / "set"),
            str(tmp_path / "out"),
            [Variant(BASE, load_settings(None, CHOSEN))],
            split=SPLIT,
        )
    assert not (tmp_path / "out").exists()


def test_tokens_of_videos_in_pieces_are_not_reused(root: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / BASE)
    described = json.loads((tmp_path / BASE / "run.json").read_text())
    described["identity"]["settings"]["split"]["frames"] = 200
    (tmp_path / BASE / "run.json").write_text(json.dumps(described))
    settings = load_settings(None, [*CHANGED, "split.frames=200"])
    table, run = instructions(root, tmp_path), str(tmp_path / "run")
    assert take_over(table, str(tmp_path / BASE), run, settings, videos=str(root), use_ray=False) == 0


def test_an_oracle_for_videos_in_pieces_is_refused_before_anything_runs(root: Path, tmp_path: Path) -> None:
    settings = load_settings(None, [*CHOSEN, "split.frames=200", "keyframe.method=oracle_area"])
    with pytest.raises(SettingsError, match=r"split\.frames 200: oracle_area chooses the keyframe of a whole video"):
        ablate("revos", str(root), str(tmp_path / "out"), [Variant(BASE, settings)], split=SPLIT, use_ray=False)
    assert not (tmp_path / "out").exists()
