"""Promise: a run that grows has the rows of a fresh run on the whole table, whatever stops it, and changes no finished unit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.end_to_end.conftest import SETTINGS
from tests.support.label_runs import content, instruction, vrshq, write_table
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.asked.growth import OtherInstructions
from vrshq.pipelines.label.planning.plan import Plan, make_plan
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.watcher import Watcher

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows(small_corpus: Path) -> Rows:
    """The corpus's seven instructions."""
    return [json.loads(line) for line in (small_corpus / "instructions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def few(rows: Rows) -> Rows:
    """Three of the rows: two of the first video (not its first one), one of the second, none of the third."""
    return [rows[1], rows[2], rows[3]]


def units_of(run: str) -> list[tuple[str, list[str]]]:
    manifest = RunDirectory(run).read_manifest()
    return list(zip(manifest["unit_id"].to_pylist(), manifest["instruction_ids"].to_pylist(), strict=True))


def parts_of(run: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for name in ("masks", "tracks") for path in Path(run, name).glob("*.parquet")}


def dry(table: str, run: str, **more: Any) -> Plan:
    return make_plan(table, run, SETTINGS, videos="/videos", **more)


def refusal(table: str, run: str, **more: Any) -> str:
    with pytest.raises(OtherInstructions) as caught:
        dry(table, run, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def begun(few: Rows, tmp_path: Path) -> str:
    """A run directory over the few rows that has a manifest and no finished unit."""
    plan = dry(write_table(tmp_path / "few.jsonl", few), str(tmp_path / "begun"))
    plan.run.open(plan.identity, {})
    plan.run.write_manifest(plan.manifest)
    return plan.run.uri


class Stop(Exception):  # noqa: N818 - stands for a kill
    pass


class Stopping(Watcher):
    """Ends the command after so many finished units."""

    def __init__(self, units: int) -> None:
        self.left = units

    def planned(self, plan: Plan) -> None:  # noqa: ARG002
        self._stop()

    def unit_finished(self, receipt: dict[str, Any]) -> None:  # noqa: ARG002
        self.left -= 1
        self._stop()

    def _stop(self) -> None:
        if self.left == 0:
            raise Stop


@pytest.fixture(scope="module")
def grown(small_corpus: Path, few: Rows, rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run over the few rows that has grown to all of them, undisturbed."""
    folder = tmp_path_factory.mktemp("grown")
    tables = [write_table(folder / "few.jsonl", few), write_table(folder / "whole.jsonl", rows)]
    for table in tables:
        label(table, str(folder / "run"), SETTINGS, videos=str(small_corpus), use_ray=False, grow=True)
    return str(folder / "run")


def rounded(tables: dict[str, Rows]) -> dict[str, Rows]:
    """The rows without the last digits of measured numbers: sums over batches of other units differ in their last bits."""

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(one) for one in value]
        return round(value, 4) if isinstance(value, float) else value

    return {name: [{key: short(value) for key, value in row.items()} for row in rows] for name, rows in tables.items()}


def test_a_grown_run_has_the_rows_of_a_fresh_one(grown: str, loop_run: str) -> None:
    assert rounded(content(grown)) == rounded(content(loop_run))
    assert [row["rle"] for row in content(grown)["masks"]] == [row["rle"] for row in content(loop_run)["masks"]]
    assert [ids for _, ids in units_of(grown)] == [["1", "2"], ["0"], ["0"], ["0", "1"], ["1"]]


@pytest.mark.parametrize("units", [0, 1])
def test_a_run_killed_while_it_grows_goes_on_to_identical_tables_and_keeps_its_units(
    units: int, small_corpus: Path, grown: str, few: Rows, rows: Rows, tmp_path: Path
) -> None:
    run, videos = str(tmp_path / "run"), str(small_corpus)
    small, whole = write_table(tmp_path / "few.jsonl", few), write_table(tmp_path / "whole.jsonl", rows)
    label(small, run, SETTINGS, videos=videos, use_ray=False)
    before, parts = units_of(run), parts_of(run)
    with pytest.raises(OtherInstructions, match="add --grow"):
        label(whole, run, SETTINGS, videos=videos, use_ray=False)
    assert (units_of(run), parts_of(run)) == (before, parts)
    with pytest.raises(Stop):
        label(whole, run, SETTINGS, videos=videos, use_ray=False, watcher=Stopping(units), grow=True)
    # the manifest has grown already: the same line goes on with or without --grow
    summary = label(whole, run, SETTINGS, videos=videos, use_ray=False, grow=units == 0)
    assert summary.counts["units"] == 3 - units
    assert units_of(run) == units_of(grown)
    assert units_of(run)[: len(before)] == before
    assert parts.items() <= parts_of(run).items()
    assert content(run) == content(grown)
    again = label(whole, run, SETTINGS, videos=videos, use_ray=False, grow=True)
    assert (again.counts["units"], again.already_finished) == (0, 5)
    with pytest.raises(OtherInstructions, match="4 vanished"):
        label(small, run, SETTINGS, videos=videos, use_ray=False, grow=True)


def test_without_grow_the_refusal_names_it_and_counts(begun: str, rows: Rows, tmp_path: Path) -> None:
    whole = write_table(tmp_path / "whole.jsonl", rows)
    assert "a run over 3 of this table's 7 instructions; add --grow to label the 4 new ones" in refusal(whole, begun)
    result = vrshq(
        "plan", whole, "--output", begun, "--model", "untrained-tiny", "--set", "max_instructions_per_unit=2"
    )
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "add --grow" in result.stderr


def test_changed_and_vanished_rows_are_listed_and_refused(begun: str, few: Rows, rows: Rows, tmp_path: Path) -> None:
    changed = [few[0] | {"text": "another\ntext"}, few[1] | {"rank": 99}, rows[0]]
    message = refusal(write_table(tmp_path / "changed.jsonl", changed), begun, grow=True)
    assert (
        "2 changed: 'one.mp4' '1' (text 'Which block is bright?' -> 'another\\ntext'); 'one.mp4' '2' (carried "
        in message
    )
    assert "1 vanished: 'two.avi' '0'. Give the rows as they were" in message
    many = [instruction("v.mp4", number, "x") for number in range(30)]
    plan = dry(write_table(tmp_path / "many.jsonl", many), str(tmp_path / "many"))
    plan.run.write_manifest(plan.manifest)
    message = refusal(write_table(tmp_path / "one.jsonl", many[:1]), plan.run.uri, grow=True)
    assert "29 vanished: 'v.mp4' '1'; " in message
    assert "; and 19 more." in message


def test_growing_again_keeps_every_unit_and_the_order_of_rows_does_not_matter(
    begun: str, few: Rows, rows: Rows, tmp_path: Path
) -> None:
    seen = units_of(begun)
    for count in (5, 7):
        more = [row for row in rows[:count] if row not in few]
        plan = dry(write_table(tmp_path / "more.jsonl", more[::-1] + few), begun, grow=True)
        assert plan.added.num_rows > 0
        plan.run.write_manifest(plan.manifest)
        assert units_of(begun)[: len(seen)] == seen
        seen = units_of(begun)
    found = sorted(name for _, names in seen for name in names)
    assert found == sorted(row["instruction_id"] for row in rows)
    assert len({unit for unit, _ in seen}) == len(seen)


def test_a_corpus_that_moved_goes_on_with_its_new_place(begun: str, few: Rows, rows: Rows, tmp_path: Path) -> None:
    for some, grow in ((few, False), (rows, True)):
        plan = make_plan(write_table(tmp_path / "t.jsonl", some), begun, SETTINGS, videos="/moved", grow=grow)
        assert {Path(uri).parent for uri in plan.manifest["video_uri"].to_pylist()} == {Path("/moved")}


def test_a_fresh_run_may_be_asked_to_grow(rows: Rows, tmp_path: Path) -> None:
    whole = write_table(tmp_path / "whole.jsonl", rows)
    plain, growing = dry(whole, str(tmp_path / "a")), dry(whole, str(tmp_path / "a"), grow=True)
    assert plain.manifest.equals(growing.manifest)
    assert plain.identity == growing.identity
    assert growing.added.num_rows == 0


def test_a_column_whose_type_changes_with_the_new_rows_is_refused(begun: str, rows: Rows, tmp_path: Path) -> None:
    """Parts of one table with several types are a table that no tool can read."""
    stored = pa.schema([("video_id", pa.string()), ("rank", pa.string()), ("source", pa.string())])
    Path(begun, "tracks").mkdir()
    pq.write_table(stored.empty_table(), Path(begun, "tracks", "part-0a.parquet"))
    whole = write_table(tmp_path / "whole.jsonl", rows)
    assert "has column 'rank' as string, this table as int64" in refusal(whole, begun, grow=True)


def test_a_run_that_changed_since_it_was_planned_is_left_alone(
    begun: str, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = dry(write_table(tmp_path / "five.jsonl", rows[:5]), begun, grow=True)
    other = dry(write_table(tmp_path / "whole.jsonl", rows), begun, grow=True)
    other.run.write_manifest(other.manifest)
    monkeypatch.setattr("vrshq.pipelines.label.run.check_plan", lambda *_, **__: plan)
    with pytest.raises(ValueError, match="another command has changed"):
        label("", begun, SETTINGS, use_ray=False)
    assert len(units_of(begun)) == other.manifest.num_rows
