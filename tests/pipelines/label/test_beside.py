"""While a run works, parts of finished units are merged, and readers and kills notice nothing of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support import clips
from tests.support.label_runs import content, instruction
from vrshq.cluster.ray import guard
from vrshq.cluster.storage import merging
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label import loop
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.schema import TRACKS
from vrshq.pipelines.label.watcher import Watcher

SETTINGS = Settings(model="untrained-tiny", max_instructions_per_unit=1)
KEPT = SETTINGS.model_copy(update={"resources": SETTINGS.resources.model_copy(update={"compact": False})})


def rows(folder: Path) -> list[dict[str, Any]]:
    """Eight units, of which the third has an error."""
    clips.h264(folder / "v.mp4", frames=3)
    return [instruction(str(folder / ("none.mp4" if number == 2 else "v.mp4")), number, "it") for number in range(8)]


class Looks(Watcher):
    """Waits after some units until the thread has merged so many files, and reads what the run holds."""

    def __init__(self, run: str, files: dict[int, int]) -> None:
        self.run, self.files, self.seen, self.units = run, files, 0, 0

    def unit_finished(self, receipt: dict[str, Any]) -> None:
        del receipt
        self.units += 1
        until = time.monotonic() + 30
        while self.merged() < self.files.get(self.units, 0) and time.monotonic() < until:
            time.sleep(0.01)
        read = RunDirectory(self.run).read("tracks", TRACKS, ["instruction_id"])["instruction_id"].to_pylist()
        assert len(read) == len(set(read)) >= self.units
        self.seen = self.merged()

    def merged(self) -> int:
        return len(list(Path(self.run, "tracks").glob("merged-*"))) if Path(self.run, "tracks").exists() else 0


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The table, and the content of its run without any merging."""
    folder = tmp_path_factory.mktemp("kept")
    table = rows(folder)
    label(table, str(folder / "run"), KEPT, use_ray=False)
    return table, content(str(folder / "run"))


@pytest.mark.ray
@pytest.mark.usefixtures("shared_ray")
def test_on_ray_actors_merge_parts_beside_those_that_make_them(
    tmp_path: Path, expected: tuple[list[dict[str, Any]], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "MOST_PARTS", 6)
    monkeypatch.setattr(merging, "merge", None)  # of this process: the actors have their own
    run = str(tmp_path / "run")
    looks = Looks(run, {7: 1})
    assert label(expected[0], run, SETTINGS, watcher=looks).incomplete == 0
    assert looks.seen == 1
    monkeypatch.undo()
    assert content(run) == expected[1]


def test_parts_of_finished_units_are_merged_while_the_run_works(
    tmp_path: Path, expected: tuple[list[dict[str, Any]], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "MOST_PARTS", 3)
    listed: Counter[str] = Counter()
    sizes = Folder.sizes

    def counted(self: Folder, prefix: str = "") -> dict[str, int]:
        listed[prefix] += 1
        return sizes(self, prefix)

    run = str(tmp_path / "run")
    looks = Looks(run, {4: 1, 7: 2})  # of which one unit each has an error
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "sizes", counted)
        summary = label(expected[0], run, SETTINGS, use_ray=False, watcher=looks)
    assert (summary.incomplete, looks.units, looks.seen) == (0, 8, 2)
    assert listed["masks"] == 1  # at the end
    assert content(run) == expected[1]
    assert [path.name[:12] for path in sorted(Path(run, "tracks").iterdir())][:2] == ["merged-00000", "merged-00001"]
    assert len(list(Path(run, "tracks").iterdir())) == 2 + 1 + 1  # one unit is left over, one has an error
    assert not list(Path(run, "ledger").rglob("*.plan"))


def test_units_of_one_call_share_parts_apart_from_those_with_errors(
    tmp_path: Path, expected: tuple[list[dict[str, Any]], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "MOST_PARTS", 3)
    monkeypatch.setattr(guard, "of_several", lambda: True)

    def calls(workers: Sequence[Any], units: pa.Table) -> Iterator[dict[str, Any]]:
        """Two calls of four units each, as an actor gets them."""
        (worker,) = workers
        for first in (0, 4):
            own = units.slice(first, 4)
            receipts = worker.end_call(own["unit_id"].to_pylist(), [worker(own.slice(row, 1)) for row in range(4)])
            assert len(list(Path(run, "tracks").glob("shared-*"))) in (1, 2)
            yield from pa.concat_tables(receipts).to_pylist()

    monkeypatch.setattr(loop, "one_by_one", calls)
    run = str(tmp_path / "run")
    looks = Looks(run, {5: 1})  # which is known when the receipts of the next call come
    assert label(expected[0], run, SETTINGS, use_ray=False, watcher=looks).counts["bytes"] > 0
    assert looks.seen == 1
    assert content(run) == expected[1]
    assert not any("shared" in path.name for path in Path(run).rglob("*.*"))


_KILLED = """
import json, os, sys
from vrshq.cluster.storage import merging
from vrshq.cluster.storage.folder import Folder
from tests.pipelines.label.test_beside import SETTINGS, Looks
from vrshq.pipelines.label.run import label

merging.MOST_PARTS = 3
write_file, files = Folder.write_file, []

def dies(self, name, path):  # when one table is merged, and the ledger of the next is there
    files.append(name)
    if len(files) == 2:
        os._exit(9)
    write_file(self, name, path)

Folder.write_file = dies
label(json.loads(sys.argv[1]), sys.argv[2], SETTINGS, use_ray=False, watcher=Looks(sys.argv[2], {4: 1, 7: 2}))
"""


def test_killed_while_it_merges_a_run_is_completed_by_the_same_line(
    tmp_path: Path, expected: tuple[list[dict[str, Any]], dict[str, Any]]
) -> None:
    run = str(tmp_path / "run")
    command = [sys.executable, "-c", _KILLED, json.dumps(expected[0]), run]
    died = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert died.returncode == 9, died.stderr
    assert 3 <= len(RunDirectory(run).finished_units()) < 8
    label(expected[0], run, SETTINGS, use_ray=False)
    assert content(run) == expected[1]
    assert not list(Path(run, "ledger").rglob("*.plan"))
