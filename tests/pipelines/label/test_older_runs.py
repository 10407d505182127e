"""Run directories of earlier versions of the tables are read like those of today."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.clips import h264
from tests.support.label_runs import instruction, write_table
from vrshq.cluster.storage.run_directory import ConfigurationDiffers, RunDirectory
from vrshq.operators.masks.trust import NAMES as TRUST_NAMES
from vrshq.pipelines.evaluate.predictions import RunPredictions
from vrshq.pipelines.export.run import export
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.opened import open_run
from vrshq.pipelines.label.tables.schema import MASKS
from vrshq.pipelines.report.run import write_report

# What version 3 added to version 2.
ADDED = {"object_id", "answer", "num_objects", *TRUST_NAMES}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A run of today, and the same run as version 2 wrote it, in merged files."""
    folder = tmp_path_factory.mktemp("older")
    h264(folder / "clip.mp4", frames=4)
    table = write_table(folder / "t.jsonl", [instruction("clip.mp4", number, "the block") for number in range(2)])
    today, older = folder / "today" / "run", folder / "older" / "run"
    label(table, str(today), Settings(model="untrained-tiny"), use_ray=False)
    shutil.copytree(today, older)
    for file in [*older.glob("masks/*.parquet"), *older.glob("tracks/*.parquet")]:
        stored = pq.read_table(file)
        kept = [name for name in stored.column_names if name not in ADDED]
        pq.write_table(stored.select(kept), file)
    return str(today), str(older)


def test_masks_of_version_2_are_those_of_object_0(runs: tuple[str, str]) -> None:
    today, older = (RunDirectory(uri).read("masks", MASKS) for uri in runs)
    assert older["object_id"].to_pylist() == [0] * 8
    assert older.equals(today)
    for uri in runs:
        assert open_run(uri).masks("clip.mp4", "1").objects == [0]


def test_report_and_exports_of_a_run_of_version_2_are_those_of_today(runs: tuple[str, str], tmp_path: Path) -> None:
    pages = set()
    for name, uri in zip(("today", "older"), runs, strict=True):
        write_report(uri, str(tmp_path / name))
        pages.add((tmp_path / name / "report.html").read_text().replace(uri, "RUN"))
        export(uri, "coco-rle", str(tmp_path / f"{name}-coco"))
    assert len(pages) == 1
    first, second = ((tmp_path / f"{name}-coco" / "annotations.json").read_bytes() for name in ("today", "older"))
    assert first == second


def test_predictions_of_a_run_of_version_2_are_scored(runs: tuple[str, str]) -> None:
    rows = [RunPredictions(uri, None, "first").tracks["clip.mp4"] for uri in runs]
    assert rows[0] == rows[1]


def test_a_run_begun_before_a_setting_existed_goes_on_with_that_setting_at_its_default(
    runs: tuple[str, str], tmp_path: Path
) -> None:
    output = shutil.copytree(runs[0], tmp_path / "run")
    begun = json.loads((output / "run.json").read_text())
    for gone in ("compile", "split"):
        del begun["identity"]["settings"][gone]
    del begun["identity"]["settings"]["tracking"]["refresh"]
    (output / "run.json").write_text(json.dumps(begun))
    for part in (output / "tracks").iterdir():
        part.unlink()
    table, settings = str(Path(runs[0]).parents[1] / "t.jsonl"), Settings(model="untrained-tiny")
    with pytest.raises(ConfigurationDiffers, match=r"settings\.tracking\.refresh: \(not set\) -> \"lost\""):
        label(
            table,
            str(output),
            Settings.model_validate(settings.model_dump() | {"tracking": {"refresh": "lost"}}),
            use_ray=False,
        )
    label(table, str(output), settings, use_ray=False)
    assert json.loads((output / "run.json").read_text()) == begun
    today, older = (RunDirectory(str(uri)).read("masks", MASKS) for uri in (runs[0], output))
    assert older.equals(today)
    assert open_run(str(output)).tracks().num_rows == 2
