"""A compaction spread over actors gives the files of one in this process, and only the lease's holder removes."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vrshq.cluster.ray import merges
from vrshq.cluster.ray.merges import InActors, where_it_pays
from vrshq.cluster.storage import merging
from vrshq.cluster.storage.errors import StorageError
from vrshq.cluster.storage.lease import LeaseLostError
from vrshq.cluster.storage.run_directory import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]

ROWS = pa.schema([("unit", pa.string()), ("number", pa.int64())])
UNITS = [f"{number:04x}" for number in range(12)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """Three groups of four units in each of three tables."""
    made = RunDirectory(str(tmp_path / "run"))
    for unit in UNITS:
        table = pa.table({"unit": [unit] * 3, "number": range(3)}, schema=ROWS)
        made.commit_unit(unit, dict.fromkeys(("masks", "tracks", "tokens"), table))
    monkeypatch.setattr(merging, "MOST_PARTS", 4)
    monkeypatch.setattr(merges, "_FEW_PARTS", 0)
    return made


def files(run: RunDirectory) -> dict[str, bytes]:
    return {name: run.folder.read_bytes(name) for name in run.folder.list()}


def test_actors_write_the_files_of_one_process(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    other = RunDirectory(f"{run.uri}-2")
    for name, content in files(run).items():
        other.folder.write_bytes(name, content)
    other.compact(UNITS, to_the_end=True)
    with monkeypatch.context() as patch:
        patch.setattr(merging, "merge", None)  # of this process: the actors have their own
        assert run.compact(UNITS, to_the_end=True, spread=where_it_pays) == dict.fromkeys(
            ("masks", "tracks", "tokens"), (12, 3)
        )
    assert files(run) == files(other)
    assert len(files(run)) == 3 * 3 * 2
    assert run.read("masks", ROWS)["unit"].to_pylist() == [unit for unit in UNITS for _ in range(3)]


def test_an_actor_whose_driver_has_lost_the_lease_leaves_parts_that_the_next_compaction_merges(
    run: RunDirectory,
) -> None:
    before = run.read("tracks", ROWS).sort_by([("unit", "ascending"), ("number", "ascending")])
    parts = set(run.folder.list())

    def merged() -> list[str]:
        return [name for table in ("masks", "tracks", "tokens") for name in run.folder.list(table) if "merged" in name]

    def check() -> None:
        if merged():
            raise LeaseLostError("another command has it")

    with pytest.raises(LeaseLostError):
        run.compact(UNITS, to_the_end=True, spread=InActors(2, num_cpus=0), check=check)
    assert parts <= set(run.folder.list())
    assert merged()
    assert run.read("tracks", ROWS).sort_by([("unit", "ascending"), ("number", "ascending")]) == before
    run.compact(UNITS, to_the_end=True, spread=InActors(2, num_cpus=0))
    assert len(run.folder.list()) == 3 * 3 * 2
    assert run.read("tracks", ROWS) == before


def test_a_group_that_cannot_be_merged_is_named_and_the_others_are(run: RunDirectory) -> None:
    broken = Path(run.uri, f"tokens/part-{UNITS[5]}.parquet")
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-9])
    with pytest.raises(StorageError, match=r"1 of 9 files could not be merged \(pool merge: .*Parquet"):
        run.compact(UNITS, to_the_end=True, spread=InActors(2, num_cpus=0))
    assert [len(os.listdir(Path(run.uri, table))) for table in ("masks", "tracks", "tokens")] == [3, 3, 6]  # noqa: PTH208
    broken.write_bytes(whole)
    run.compact(UNITS, to_the_end=True)
    assert sum(pq.read_metadata(path).num_rows for path in Path(run.uri, "tokens").iterdir()) == 36
