"""The published numbers: the paper's ablations with their values, and the row that matches a variant's settings."""

from __future__ import annotations

import csv
from importlib.resources import files

import pytest

from vrshq.pipelines.evaluate.published import ablation_rows, matching, published_rows
from vrshq.pipelines.evaluate.studies import STUDIES
from vrshq.pipelines.label.settings import load_settings

FULL = {"referring": (59.8, 64.5, 62.1), "reasoning": (53.5, 58.7, 56.1)}
# (table, settings) -> J, F and J&F of referring and of reasoning, as the paper prints them
ROWS = {
    ("4", "fusion.alpha=0"): (56.5, 61.1, 58.8, 51.5, 56.7, 54.1),
    ("4", "keyframe.method=clip+similarity"): (57.8, 62.4, 60.1, 50.9, 56.2, 53.5),
    ("4", "fusion.alpha=0 keyframe.method=clip+similarity"): (54.5, 59.1, 56.8, 48.6, 53.9, 51.2),
    ("5", "fusion.alpha=0"): (56.5, 61.1, 58.8, 51.5, 56.7, 54.1),
    ("5", "fusion.alpha=0.25"): (58.9, 63.8, 61.3, 52.3, 57.8, 55.0),
    ("5", "fusion.alpha=0.5"): (58.2, 63.0, 60.6, 51.4, 56.6, 54.0),
    ("6", "keyframe.method=clip+similarity+object_score"): (59.7, 64.2, 61.9, 52.5, 57.8, 55.2),
    ("6", "keyframe.method=clip+similarity"): (57.8, 62.4, 60.1, 50.9, 56.2, 53.6),
    ("6", "keyframe.method=clip+object_score"): (59.6, 64.1, 61.8, 52.5, 57.7, 55.1),
    ("7", "sampling.sampler=true_n sampling.max_image_token=1"): (58.4, 62.7, 60.6, 49.8, 55.1, 52.5),
    ("7", "sampling.sampler=true_n sampling.max_image_token=3"): (58.6, 63.0, 60.8, 51.0, 56.2, 53.6),
    ("7", "sampling.sampler=true_n sampling.max_image_token=6"): (58.6, 63.3, 60.9, 51.5, 57.0, 54.3),
    ("7", "sampling.sampler=true_n sampling.max_image_token=9"): (58.9, 63.7, 61.3, 52.5, 57.8, 55.1),
    ("7", "sampling.sampler=true_n sampling.max_image_token=12"): (59.3, 64.0, 61.7, 52.5, 57.8, 55.1),
    ("9", "sampling.sampler=random"): (59.0, 63.6, 61.3, 53.2, 58.4, 55.8),
    ("9", "sampling.sampler=spread"): (59.3, 63.9, 61.6, 53.3, 58.4, 55.8),
}


@pytest.mark.parametrize(("table", "settings"), ROWS)
def test_a_variant_finds_its_published_row_with_the_papers_values(table: str, settings: str) -> None:
    row = matching(load_settings(None, settings.split(" ")), table)
    assert row is not None
    got = [row[group][name] for group in ("referring", "reasoning") for name in ("J", "F", "JF")]
    assert tuple(got) == ROWS[table, settings]
    assert row["source"].endswith(f"table {table}")
    assert row["trained"] == (table in "45")  # tables 6, 7 and 9 are of one model


@pytest.mark.parametrize("table", ["4", "5", "6", "7", "8", "9"])
def test_the_published_settings_are_the_full_method_in_every_table(table: str) -> None:
    spelled = ["sampling.sampler=grid", "sampling.max_image_token=12", "keyframe.seed=5", "masks.presence=0.3"]
    for assignments in ([], spelled):
        row = matching(load_settings(None, assignments), table)
        assert row is not None
        assert {group: tuple(row[group].values()) for group in FULL} == FULL
        assert not row["trained"]


def test_settings_that_the_paper_does_not_have_match_no_row() -> None:
    for assignment in ("fusion.alpha=0.2", "fusion.temperature=0.5", "keyframe.method=tks_z", "sampling.clip_every=2"):
        assert matching(load_settings(None, [assignment])) is None


def test_decoders_and_token_schemes_of_table_8_stand_there_with_their_values() -> None:
    rows = [row for row in ablation_rows() if row["table"] == "8"]
    values = {(row["setting"], row["group"]): float(row["JF"]) for row in rows}
    assert values["SAM, single-frame training and inference", "referring"] == 50.3
    assert values["SAM2, single-frame training, multi-frame inference", "reasoning"] == 49.5
    assert {row["trained"] for row in rows if row["settings"] == "none"} == {"yes"}
    assert len(rows) == 10


def test_rows_of_ablations_are_not_among_the_systems_and_corrections_are() -> None:
    assert [row["table"] for row in published_rows("revos") if row["table"]] == []
    of_13b = {
        name: [
            float(row[key]) for row in published_rows(name) if row["system"] == "VRS-HQ-13B" for key in ("J", "F", "JF")
        ]
        for name in ("ref-youtube-vos", "ref-davis17")
    }
    assert of_13b == {"ref-youtube-vos": [69.0, 73.1, 71.0], "ref-davis17": [71.0, 77.9, 74.4]}


def test_every_row_has_every_cell_a_source_and_a_mean_of_its_own_numbers() -> None:
    text = files("vrshq.pipelines.evaluate").joinpath("published.csv").read_text(encoding="utf-8")
    cells = list(csv.reader(text.splitlines()))
    assert {len(row) for row in cells} == {len(cells[0])}
    for row in ablation_rows():
        assert row["source"]
        assert (row["benchmark"], row["system"]) == ("revos", "VRS-HQ-7B")
        assert float(row["JF"]) == pytest.approx((float(row["J"]) + float(row["F"])) / 2, abs=0.11)  # each is rounded


@pytest.mark.parametrize("name", ["parts", "alpha", "keyframe", "frames", "presampling"])
def test_a_study_runs_every_row_of_its_table(name: str) -> None:
    study = STUDIES[name]
    trials = {" ".join(text for text in chosen if ".seed=" not in text) for _, chosen in study.trials}
    rows = {row["settings"] for row in ablation_rows() if row["table"] == study.table}
    assert rows - {"default"} <= trials
    assert len(rows) >= 3
