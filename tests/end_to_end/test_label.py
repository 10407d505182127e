"""`vrshq label` on real files without Ray: tables, bad input, running the same line again."""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.end_to_end.conftest import FRAMES, SETTINGS
from tests.support import clips
from tests.support.label_runs import TABLES, content, decoded, instruction, write_table
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.lease import LOCKS, InUseError, Lease, LeaseLostError
from vrshq.cluster.storage.run_directory import ConfigurationDiffers, RunDirectory
from vrshq.pipelines.label.error_policy import ErrorPolicy
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.schema import TRACKS
from vrshq.pipelines.label.watcher import Watcher


def test_every_instruction_has_one_track_and_a_mask_for_every_frame(small_corpus: Path, loop_run: str) -> None:
    tables = content(loop_run)
    assert len(tables["tracks"]) == 7
    assert {row["status"] for row in tables["tracks"]} <= {"ok", "empty"}
    frames = {(row["video_id"], row["instruction_id"], row["frame_index"]) for row in tables["masks"]}
    assert len(tables["masks"]) == len(frames) == 7 * FRAMES
    for row in tables["masks"]:
        mask = decoded(row)
        assert mask.shape == (96, 160)
        assert int(mask.sum()) == row["area"]
        x, y, width, height = row["bbox"]
        outside = mask.copy()
        outside[y : y + height, x : x + width] = 0
        assert not outside.any()
    track = tables["tracks"][0]
    assert track["keyframe_index"] in track["sampled_frames"]
    assert len(track["object_scores"]) == len(track["similarities"]) == len(track["sampled_frames"])
    assert len(track["clip_probs"]) == FRAMES
    assert abs(sum(track["clip_probs"]) - 1) < 1e-5
    assert 0 <= track["presence"] <= 1
    assert sorted(path.name for path in small_corpus.glob("*.partial")) == []


def test_tables_have_the_declared_types_and_carry_unknown_columns(loop_run: str) -> None:
    for name, schema in TABLES.items():
        for file in Path(loop_run, name).glob("*.parquet"):
            stored = pq.read_schema(file)
            assert stored.types[: len(schema)] == schema.types
            assert stored.names[: len(schema)] == schema.names
    rows = {(row["video_id"], row["instruction_id"]): row for row in content(loop_run)["tracks"]}
    assert rows["one.mp4", "1"]["source"] == "b"
    assert rows["two.avi", "0"]["rank"] is None
    assert rows["three", "1"]["rank"] == 7


def test_tokens_are_one_row_per_instruction_of_the_stated_width(loop_run: str) -> None:
    rows = content(loop_run)["tokens"]
    assert len(rows) == 7
    for row in rows:
        assert len(row["tak"]) == row["d"]
        assert len(row["seg"]) == row["d"] * len(row["sampled_frames"])


def test_duckdb_needs_no_code_of_ours(loop_run: str) -> None:
    query = f"""
        select t.instruction_id, t.text, count(*) as frames, avg(m.area / (m.height * m.width)) as share
        from '{loop_run}/tracks/*.parquet' t join '{loop_run}/masks/*.parquet' m using (video_id, instruction_id)
        where t.video_id = 'one.mp4' group by all order by 1
    """
    rows = duckdb.sql(query).fetchall()
    assert [(row[0], row[2]) for row in rows] == [("0", FRAMES), ("1", FRAMES), ("2", FRAMES)]


def test_split_pools_other_batches_and_a_shuffled_table_give_the_same_tables(
    small_corpus: Path, loop_run: str, tmp_path: Path
) -> None:
    rows = (small_corpus / "instructions.jsonl").read_text().splitlines(keepends=True)
    (small_corpus / "shuffled.jsonl").write_text("".join(np.random.default_rng(3).permutation(rows)))
    pools = [
        {"operators": ["presample"], "cpus": 0.25},
        {"operators": ["tokens", "fuse"], "cpus": 0.25},
        {"operators": ["keyframe"], "cpus": 0.25},
        {"operators": ["propagate"], "cpus": 0.25},
    ]
    resources = {
        "pools": pools,
        "frame_cache_mib": 0,
        "feature_cache_mib": 1,
        "encode_batch": 1,
        "instruction_batch": 1,
    }
    settings = Settings.model_validate({**SETTINGS.model_dump(), "resources": resources})
    output = str(tmp_path / "run")
    label(str(small_corpus / "shuffled.jsonl"), output, settings, use_ray=False)
    got, want = content(output), content(loop_run)
    for name in TABLES:
        assert len(got[name]) == len(want[name])
    # batches change sums in their last bits; every decision stays
    for one, other in zip(got["tracks"], want["tracks"], strict=True):
        for key in ("video_id", "instruction_id", "status", "keyframe_index", "sampled_frames", "num_frames"):
            assert one[key] == other[key]
        assert np.allclose(one["object_scores"], other["object_scores"], atol=5e-4)
    pairs = zip(got["masks"], want["masks"], strict=True)
    differing = sum(int((decoded(one) != decoded(other)).sum()) for one, other in pairs)
    assert differing <= 7 * FRAMES  # a pixel a mask at the most, of 15,360


def test_same_line_again_runs_nothing_and_changes_no_byte(small_corpus: Path, loop_run: str) -> None:
    before = {path: path.read_bytes() for path in Path(loop_run).rglob("*.parquet")}
    summary = label(str(small_corpus / "instructions.jsonl"), loop_run, SETTINGS, use_ray=False)
    assert summary.already_finished == 4
    assert summary.counts["units"] == 0
    assert {path: path.read_bytes() for path in Path(loop_run).rglob("*.parquet")} == before


def test_lost_parts_come_back_the_same_and_finished_units_are_not_touched(
    small_corpus: Path, loop_run: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    in_parts = Settings.model_validate({**SETTINGS.model_dump(), "resources": {"compact": False}})
    label(str(small_corpus / "instructions.jsonl"), str(run), in_parts, use_ray=False)
    finished = sorted(RunDirectory(str(run)).finished_units())
    for unit_id in finished[:2]:  # as if killed between the masks and the tracks of these units
        (run / "tracks" / f"part-{unit_id}.parquet").unlink()
    kept = [run / "tracks" / f"part-{unit_id}.parquet" for unit_id in finished[2:]]
    times = [path.stat().st_mtime_ns for path in kept]
    summary = label(str(small_corpus / "instructions.jsonl"), str(run), in_parts, use_ray=False)
    assert (summary.already_finished, summary.counts["units"]) == (2, 2)
    assert content(str(run)) == content(loop_run)
    assert [path.stat().st_mtime_ns for path in kept] == times


def test_another_configuration_is_refused_and_names_the_setting(small_corpus: Path, loop_run: str) -> None:
    other = Settings.model_validate({**SETTINGS.model_dump(), "fusion": {"alpha": 0.5}})
    with pytest.raises(ConfigurationDiffers, match=r"settings\.fusion\.alpha"):
        label(str(small_corpus / "instructions.jsonl"), loop_run, other, use_ray=False)


def test_more_workers_or_memory_is_no_other_configuration(small_corpus: Path, loop_run: str) -> None:
    other = Settings.model_validate({**SETTINGS.model_dump(), "resources": {"frame_cache_mib": 10, "attempts": 5}})
    assert label(str(small_corpus / "instructions.jsonl"), loop_run, other, use_ray=False).counts["units"] == 0


BAD = {
    "missing.mp4": None,
    "text.mp4": b"this is no video\n" * 100,
    "zero.mp4": b"",
}


@pytest.fixture(scope="module")
def poisoned(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good videos among everything that the issue of bad input names."""
    folder = tmp_path_factory.mktemp("poisoned")
    shutil.copy(small_corpus / "one.mp4", folder / "good.mp4")
    shutil.copytree(small_corpus / "three", folder / "broken_frame")
    (folder / "broken_frame" / "00003.png").write_bytes(b"no picture")
    (folder / "empty_folder").mkdir()
    for name, data in BAD.items():
        if data is not None:
            (folder / name).write_bytes(data)
    clips.h264(folder / "whole.mp4", frames=60)
    data = (folder / "whole.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(data[: len(data) * 2 // 3])
    (folder / "corrupt.mp4").write_bytes(
        data[: len(data) // 3] + os.urandom(len(data) // 3) + data[2 * len(data) // 3 :]
    )
    clips.write_audio(folder / "audio.mp4")
    clips.write_absurd_header(folder / "absurd.avi")
    rows = [
        instruction(name, 0, "the block")
        for name in (*BAD, "broken_frame", "empty_folder", "truncated.mp4", "corrupt.mp4", "audio.mp4", "absurd.avi")
    ]
    rows += [
        instruction("good.mp4", 0, "the block"),
        instruction("good.mp4", 1, ""),
        instruction("good.mp4", 2, " \t\n"),
        instruction("good.mp4", 3, "the block " * 1000),
        instruction("good.mp4", 4, "<script>alert(1)</script> ../../etc/passwd [SEG] <video> $(reboot)"),
    ]
    write_table(folder / "instructions.jsonl", rows)
    return folder


def test_bad_items_become_error_rows_and_nothing_else_is_lost(poisoned: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "run")
    label(str(poisoned / "instructions.jsonl"), output, Settings(model="untrained-tiny"), use_ray=False)
    tables = content(output)
    status = {(row["video_id"], row["instruction_id"]): row["status"] for row in tables["tracks"]}
    failed = {key for key, value in status.items() if value == "error"}
    good = {("good.mp4", "0"), ("good.mp4", "4")}
    assert len(status) == len(tables["tracks"]) == 14
    assert failed >= set(status) - good - {("good.mp4", "3")}
    assert not failed & good
    errors = {(row["video_id"], row["instruction_id"]): row for row in tables["errors"]}
    assert set(errors) == failed
    for (video, _), row in errors.items():
        assert row["error_type"] == "InputError", row
        assert "\n" not in row["message"]
        assert video in row["message"] or video == "good.mp4", row
    assert {(row["video_id"], row["instruction_id"]) for row in tables["masks"]} == set(status) - failed
    for file in Path(output, "tracks").glob("*.parquet"):
        assert pq.read_schema(file).equals(TRACKS)


def test_good_units_among_bad_ones_get_the_masks_they_get_alone(poisoned: Path, tmp_path: Path) -> None:
    alone = write_table(tmp_path / "alone.jsonl", [instruction("good.mp4", 0, "the block")])
    mixed = write_table(
        tmp_path / "mixed.jsonl", [instruction("good.mp4", 0, "the block"), instruction("text.mp4", 0, "the block")]
    )
    for table in (alone, mixed):
        label(table, table + ".run", Settings(model="untrained-tiny"), videos=str(poisoned), use_ray=False)
    assert content(alone + ".run")["masks"] == content(mixed + ".run")["masks"] != []


def test_retry_errors_runs_only_what_failed_and_clears_its_error_rows(small_corpus: Path, tmp_path: Path) -> None:
    rows = [instruction("good.mp4", 0, "the block"), instruction("late.mp4", 0, "the block")]
    table = write_table(tmp_path / "table.jsonl", rows)
    shutil.copy(small_corpus / "one.mp4", tmp_path / "good.mp4")
    output = str(tmp_path / "run")
    first = label(table, output, SETTINGS, use_ray=False)
    assert (first.counts["errors"], first.error_rate()) == (1, 0.5)
    shutil.copy(small_corpus / "one.mp4", tmp_path / "late.mp4")
    assert label(table, output, SETTINGS, use_ray=False).counts["units"] == 0
    again = label(table, output, SETTINGS, use_ray=False, errors=ErrorPolicy(retry=True))
    assert (again.counts["units"], again.counts["errors"]) == (1, 0)
    tables = content(output)
    assert tables["errors"] == []
    assert {row["video_id"] for row in tables["masks"]} == {"good.mp4", "late.mp4"}


def test_another_command_on_the_same_run_is_refused(small_corpus: Path, loop_run: str) -> None:
    with Lease(Folder(loop_run), "compact"), pytest.raises(InUseError, match="is in use by `vrshq compact`"):
        label(str(small_corpus / "instructions.jsonl"), loop_run, SETTINGS, use_ray=False)


def test_a_command_whose_run_another_took_over_stops_after_the_unit_and_writes_nothing_more(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vrshq.pipelines.label.run.Lease", functools.partial(Lease, beat_seconds=0.1))
    other = {"id": "0", "command": "label", "host": "elsewhere", "machine": "?", "pid": 7, "started": "", "beat": 0}
    finished = []

    class Taken(Watcher):
        def unit_finished(self, receipt: dict[str, object]) -> None:
            finished.append(receipt["unit_id"])
            Folder(str(tmp_path)).write_bytes(f"{LOCKS}/00000099", json.dumps(other).encode())
            time.sleep(2)  # for heartbeats on a busy machine, too

    with pytest.raises(LeaseLostError, match=r"`vrshq label` \(process 7 on elsewhere\) has taken it over"):
        label(str(small_corpus / "instructions.jsonl"), str(tmp_path), SETTINGS, use_ray=False, watcher=Taken())
    run = RunDirectory(str(tmp_path))
    assert run.finished_units() == {*finished}
    assert len(finished) == 1
    assert not run.folder.exists("stats.json")
    assert run.folder.list("ledger") == []
