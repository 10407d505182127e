"""A labelling run of SAM 3 by text: masklets as objects in tables and exports, beside a run of the tiny VRS-HQ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Sam3VideoConfig

from tests.support.array_video import ArrayVideo
from tests.support.label_runs import content, decoded, instruction, write_table
from tests.support.sam3_tiny import TEXTS, Weights, write_bundle
from vrshq.operators.models.family import Request, TrackConfig
from vrshq.operators.models.sam3.family import tracker
from vrshq.operators.models.sam3.layout import layout
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.export.formats import FORMATS
from vrshq.pipelines.export.run import export
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings, Tracking
from vrshq.pipelines.models.known import known_models

FRAMES = 10
WEIGHTS = Weights(9, 10.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_bundle(tmp_path_factory.mktemp("model") / "sam3", WEIGHTS)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two videos, one of them with three phrases and two texts that cannot be asked."""
    folder = tmp_path_factory.mktemp("sam3")
    for name, seed in (("a", 1), ("b", 2)):
        (folder / name).mkdir()
        for number, frame in enumerate(ArrayVideo(FRAMES, seed=seed).array):
            Image.fromarray(frame).save(folder / name / f"{number:05d}.png")
    rows = [instruction("a", number, text) for number, text in enumerate(TEXTS)]
    rows += [instruction("a", "blank", " "), instruction("a", "long", "red car " * 20)]
    return write_table(folder / "table.jsonl", [*rows, instruction("b", "0", TEXTS[1])])


@pytest.fixture(scope="module")
def run(table: str, model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The for-loop's run."""
    output = str(tmp_path_factory.mktemp("loop") / "run")
    label(table, output, Settings(model=model), use_ray=False)
    return output


def expected(model: str, seed: int, text: str) -> dict[tuple[int, int], tuple[np.ndarray, float]]:
    """The tracker alone: (object, frame) -> (mask, score)."""
    own = tracker(TrackConfig(model=model))
    opened = own.open(ArrayVideo(FRAMES, seed=seed))
    steps = own.track(opened, {0: Request(text, [0], [])})
    return {(one.number, one.frame): (one.low_res.numpy(), one.score) for step in steps for one in step}


def test_sam3_tables_hold_masklets_as_objects(run: str, model: str) -> None:
    tables = content(run)
    tracks = {(row["video_id"], row["instruction_id"]): row for row in tables["tracks"]}
    assert max(row["num_objects"] or 0 for row in tracks.values()) > 1
    for (video, number), seed, text in (
        *((("a", str(number)), 1, text) for number, text in enumerate(TEXTS)),
        (("b", "0"), 2, TEXTS[1]),
    ):
        found, track = expected(model, seed, text), tracks[video, number]
        objects = {one for one, _ in found}
        assert track["num_objects"] == len(objects)
        assert track["status"] == ("ok" if objects else "empty")
        assert (track["answer"], track["keyframe_index"], track["similarities"]) == (None, None, [])
        rows = [row for row in tables["masks"] if (row["video_id"], row["instruction_id"]) == (video, number)]
        assert {(row["object_id"], row["frame_index"]) for row in rows} >= found.keys()
        assert len(rows) == max(1, len(objects)) * FRAMES
        for row in rows:
            mask, score = found.get((row["object_id"], row["frame_index"]), (np.zeros((40, 64), bool), 0.0))
            assert np.array_equal(decoded(row).astype(bool), mask)
            assert row["object_score"] == pytest.approx(score, abs=1e-5)
        firsts = [found[one, min(frame for number, frame in found if number == one)][1] for one in sorted(objects)]
        assert track["object_scores"] == pytest.approx(firsts, abs=1e-5)
        if objects:
            assert track["presence"] == pytest.approx(1 / (1 + np.exp(-max(firsts))), abs=1e-5)
        else:
            assert track["presence"] is None


def test_sam3_refuses_what_it_cannot_read_as_rows(run: str) -> None:
    errors = {row["instruction_id"]: row["message"] for row in content(run)["errors"]}
    assert errors.keys() == {"blank", "long"}
    assert "expected a noun phrase" in errors["blank"]
    assert "SAM 3 takes 32" in errors["long"]


def test_sam3_units_of_any_size_give_the_same_tables(run: str, table: str, model: str, tmp_path: Path) -> None:
    label(table, str(tmp_path / "run"), Settings(model=model, max_instructions_per_unit=1), use_ray=False)
    once, again = content(run), content(str(tmp_path / "run"))
    for name in ("masks", "tracks", "tokens"):
        assert once[name] == again[name]


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"overlay-mp4"}))
def test_sam3_runs_can_be_exported(form: str, run: str, table: str, tmp_path: Path) -> None:
    summary = export(run, form, str(tmp_path / form), videos=str(Path(table).parent))
    assert summary


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tracking": {"start": "keyframe"}}, "tracking.start keyframe: expected text for a model of the family sam3"),
        ({"tracking": {"directions": "both"}}, "tracking.directions both: expected forward for a model of the family"),
        ({"sampling": {"sampler": "grid"}}, "sampling.sampler grid: it needs a CLIP"),
    ],
)
def test_sam3_refuses_settings_that_it_has_no_use_for(
    settings: dict[str, Any], said: str, table: str, model: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=said):
        label(table, str(tmp_path / "run"), Settings(model=model, **settings), use_ray=False)


def test_other_models_do_not_begin_with_the_text(table: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"tracking\.start text: expected keyframe or frames for a .* vrs-hq"):
        label(table, str(tmp_path / "run"), Settings(model="tiny", tracking=Tracking(start="text")), use_ray=False)


def test_the_known_model_has_the_sizes_of_the_network() -> None:
    known = known_models()["sam3"]
    assert known.parameters == sum(torch.Size(shape).numel() for shape in layout(Sam3VideoConfig()).values())
    assert known.memory == {"bfloat16": 2 * known.parameters, "float32": 4 * known.parameters}


def test_sam3_run_says_its_family_in_run_json(run: str) -> None:
    settings = json.loads(Path(run, "run.json").read_text())
    assert '"start": "text"' in json.dumps(settings)
