"""The whole way of the data on real files: tables, bad input, the for-loop against Ray, running the same line again."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image
from pycocotools import mask as coco

from tests.support import clips
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.lease import InUseError, Lease
from vrshq.cluster.storage.run_directory import ConfigurationDiffers, RunDirectory
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.schema import ERRORS, MASKS, TOKENS, TRACKS
from vrshq.pipelines.label.settings import Settings

FRAMES = 6
SETTINGS = Settings(model="untrained-tiny", max_instructions_per_unit=2)
TABLES = {"masks": MASKS, "tracks": TRACKS, "tokens": TOKENS, "errors": ERRORS}
# what a run measures rather than computes
MEASURED = {"seconds", "at"}


def write_table(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def instruction(video: str, number: int, text: str, **extra: Any) -> dict[str, Any]:
    return {"video_uri": video, "instruction_id": str(number), "text": text, **extra}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good videos (H.264, MPEG-4 in AVI, a folder of frames) with seven instructions."""
    folder = tmp_path_factory.mktemp("corpus")
    clips.h264(folder / "one.mp4", frames=FRAMES)
    clips.encode(folder / "two.avi", "mpeg4", frames=FRAMES, bf=2)
    (folder / "three").mkdir()
    for number in range(FRAMES):
        Image.fromarray(clips.code_frame(number)).save(folder / "three" / f"{number:05d}.png")
    write_table(
        folder / "instructions.jsonl",
        [
            instruction("one.mp4", 0, "the dark block", source="a", rank=1),
            instruction("one.mp4", 1, "Which block is bright?", source="b", rank=2),
            instruction("one.mp4", 2, "the elephant", source="c", rank=3),
            instruction("two.avi", 0, "the block that changes first", source="d", rank=None),
            instruction("two.avi", 1, "every block", source="e", rank=5),
            instruction("three", 0, "the last block", source="f", rank=6),
            instruction("three", 1, "the first block", source="g", rank=7),
        ],
    )
    return folder


@pytest.fixture(scope="module")
def loop_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run directory of the for-loop over the corpus: what every other way must equal."""
    output = str(tmp_path_factory.mktemp("loop") / "run")
    summary = label(str(corpus / "instructions.jsonl"), output, SETTINGS, use_ray=False)
    assert (summary.counts["errors"], summary.incomplete) == (0, 0)
    return output


def content(run: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of every table without what is measured, in the order of their keys."""
    result = {}
    for name in TABLES:
        files = sorted(Path(run, name).glob("*.parquet"))
        rows = pa.concat_tables([pq.read_table(file) for file in files]).to_pylist() if files else []
        kept = [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]
        keys = ("video_id", "instruction_id", "frame_index")
        result[name] = sorted(kept, key=lambda row: tuple(row.get(key, 0) for key in keys))
    return result


def decoded(row: dict[str, Any]) -> np.ndarray:
    mask: np.ndarray = coco.decode({"size": [row["height"], row["width"]], "counts": row["rle"]})
    return mask


def vrshq(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from vrshq.pipelines.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_every_instruction_has_one_track_and_a_mask_for_every_frame(corpus: Path, loop_run: str) -> None:
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
    assert sorted(path.name for path in corpus.glob("*.partial")) == []


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


def test_ray_gives_the_for_loops_tables(corpus: Path, loop_run: str, tmp_path: Path) -> None:
    output = str(tmp_path / "run")
    summary = label(str(corpus / "instructions.jsonl"), output, SETTINGS)
    assert summary.counts["units"] == 4
    assert content(output) == content(loop_run)
    assert not ray.is_initialized()


def test_split_pools_other_batches_and_a_shuffled_table_give_the_same_tables(
    corpus: Path, loop_run: str, tmp_path: Path
) -> None:
    rows = (corpus / "instructions.jsonl").read_text().splitlines(keepends=True)
    (corpus / "shuffled.jsonl").write_text("".join(np.random.default_rng(3).permutation(rows)))
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
    label(str(corpus / "shuffled.jsonl"), output, settings, use_ray=False)
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


def test_same_line_again_runs_nothing_and_changes_no_byte(corpus: Path, loop_run: str) -> None:
    before = {path: path.read_bytes() for path in Path(loop_run).rglob("*.parquet")}
    summary = label(str(corpus / "instructions.jsonl"), loop_run, SETTINGS, use_ray=False)
    assert summary.already_finished == 4
    assert summary.counts["units"] == 0
    assert {path: path.read_bytes() for path in Path(loop_run).rglob("*.parquet")} == before


def test_lost_parts_come_back_the_same_and_finished_units_are_not_touched(
    corpus: Path, loop_run: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    in_parts = Settings.model_validate({**SETTINGS.model_dump(), "resources": {"compact": False}})
    label(str(corpus / "instructions.jsonl"), str(run), in_parts, use_ray=False)
    finished = sorted(RunDirectory(str(run)).finished_units())
    for unit_id in finished[:2]:  # as if killed between the masks and the tracks of these units
        (run / "tracks" / f"part-{unit_id}.parquet").unlink()
    kept = [run / "tracks" / f"part-{unit_id}.parquet" for unit_id in finished[2:]]
    times = [path.stat().st_mtime_ns for path in kept]
    summary = label(str(corpus / "instructions.jsonl"), str(run), in_parts, use_ray=False)
    assert (summary.already_finished, summary.counts["units"]) == (2, 2)
    assert content(str(run)) == content(loop_run)
    assert [path.stat().st_mtime_ns for path in kept] == times


def test_another_configuration_is_refused_and_names_the_setting(corpus: Path, loop_run: str) -> None:
    other = Settings.model_validate({**SETTINGS.model_dump(), "fusion": {"alpha": 0.5}})
    with pytest.raises(ConfigurationDiffers, match=r"settings\.fusion\.alpha"):
        label(str(corpus / "instructions.jsonl"), loop_run, other, use_ray=False)


def test_more_workers_or_memory_is_no_other_configuration(corpus: Path, loop_run: str) -> None:
    other = Settings.model_validate({**SETTINGS.model_dump(), "resources": {"frame_cache_mib": 10, "attempts": 5}})
    assert label(str(corpus / "instructions.jsonl"), loop_run, other, use_ray=False).counts["units"] == 0


def write_audio(path: Path) -> None:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        output.mux([*stream.encode(samples), *stream.encode(None)])


def write_absurd_header(path: Path) -> None:
    """An AVI that claims frames of 60000 x 60000 raw pixels: 10.8 GB each."""
    data = clips.encode(path, "mpeg4", frames=3).read_bytes()
    size = data.index(b"strf") + 12
    data = data[:size] + (60000).to_bytes(4, "little") * 2 + data[size + 8 :]
    path.write_bytes(data.replace(b"FMP4", b"DIB "))


BAD = {
    "missing.mp4": None,
    "text.mp4": b"this is no video\n" * 100,
    "zero.mp4": b"",
}


@pytest.fixture(scope="module")
def poisoned(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good videos among everything that the issue of bad input names."""
    folder = tmp_path_factory.mktemp("poisoned")
    shutil.copy(corpus / "one.mp4", folder / "good.mp4")
    shutil.copytree(corpus / "three", folder / "broken_frame")
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
    write_audio(folder / "audio.mp4")
    write_absurd_header(folder / "absurd.avi")
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


def test_retry_errors_runs_only_what_failed_and_clears_its_error_rows(corpus: Path, tmp_path: Path) -> None:
    rows = [instruction("good.mp4", 0, "the block"), instruction("late.mp4", 0, "the block")]
    table = write_table(tmp_path / "table.jsonl", rows)
    shutil.copy(corpus / "one.mp4", tmp_path / "good.mp4")
    output = str(tmp_path / "run")
    first = label(table, output, SETTINGS, use_ray=False)
    assert (first.counts["errors"], first.error_rate()) == (1, 0.5)
    shutil.copy(corpus / "one.mp4", tmp_path / "late.mp4")
    assert label(table, output, SETTINGS, use_ray=False).counts["units"] == 0
    again = label(table, output, SETTINGS, use_ray=False, retry_errors=True)
    assert (again.counts["units"], again.counts["errors"]) == (1, 0)
    tables = content(output)
    assert tables["errors"] == []
    assert {row["video_id"] for row in tables["masks"]} == {"good.mp4", "late.mp4"}


def test_more_errors_than_allowed_is_exit_code_3_with_every_instruction_accounted_for(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.jsonl", [instruction("none.mp4", number, "it") for number in range(3)])
    (tmp_path / "settings.yaml").write_text("model: untrained-tiny\nkeyframe: {method: first}\n")
    run = tmp_path / "run"
    arguments = ["label", table, "--output", str(run), "--config", str(tmp_path / "settings.yaml")]
    result = vrshq(*arguments, "--max-error-rate", "0.1")
    assert result.returncode == 3, result.stderr
    assert result.stderr == ""
    assert "0 ok, 0 empty, 3 errors" in result.stdout
    assert [row["status"] for row in content(str(run))["tracks"]] == ["error"] * 3
    assert json.loads((run / "run.json").read_text())["identity"]["settings"]["keyframe"]["method"] == "first"


def test_a_run_that_fails_throughout_stops_early_and_says_why(corpus: Path, tmp_path: Path) -> None:
    """A wrong folder of videos: two hundred units, of which a handful show that it is no use."""
    good = [instruction("one.mp4", number, "it", video_id=f"v{number}") for number in range(2)]
    bad = [instruction(f"none-{number:03d}.mp4", 0, "it") for number in range(200)]
    table = write_table(tmp_path / "table.jsonl", [*good, *bad])
    run = tmp_path / "run"
    line = ["label", table, "--videos", str(corpus), "--output", str(run), "--model", "untrained-tiny"]
    result = vrshq(*line, "--max-error-rate", "0.2")
    assert result.returncode == 3, result.stderr
    match = re.fullmatch(
        r"stopped: (\d+) of the first (\d+) instructions failed, more than --max-error-rate 0\.2 allows; "
        r"\d+ x InputError, the first error: \S+none-\d+\.mp4 cannot be opened \(No such file or directory\).*"
        r"run the same line with --retry-errors\n",
        result.stderr,
    )
    assert match, result.stderr
    assert 16 <= int(match.group(2)) < 100
    # what was under way may still have been written
    assert 0 <= len(content(str(run))["tracks"]) - int(match.group(2)) <= 8


def test_another_command_on_the_same_run_is_refused(corpus: Path, loop_run: str) -> None:
    with Lease(Folder(loop_run), "compact"), pytest.raises(InUseError, match="is in use by `vrshq compact`"):
        label(str(corpus / "instructions.jsonl"), loop_run, SETTINGS, use_ray=False)


DIES_DECODING = """
import os, vrshq.operators.decode as decode
opened = decode.open_video
def deadly(path, config=None):
    if "deadly" in path: os._exit(139)
    return opened(path, config)
decode.open_video = deadly
"""
DIES_AFTER_WRITING = """
import os, vrshq.pipelines.label.worker as worker
write = worker.UnitWorker._write
def deadly(self, unit, begin):
    receipt = write(self, unit, begin)
    if "deadly" in unit["video_id"]: os._exit(1)
    return receipt
worker.UnitWorker._write = deadly
"""


@pytest.mark.parametrize("patch", [DIES_DECODING, DIES_AFTER_WRITING], ids=["decoding", "after writing"])
def test_worker_that_dies_costs_at_most_its_unit_and_is_recorded(corpus: Path, tmp_path: Path, patch: str) -> None:
    """The actor's process ends on one video, as after a crash in native code; the patch is in the actors alone."""
    names = ["one.mp4", "deadly.mp4"]
    for name in names:
        shutil.copy(corpus / "one.mp4", tmp_path / name)
    table = write_table(tmp_path / "table.jsonl", [instruction(name, 0, "the block") for name in names])
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import sys\n"
        "class Late:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'vrshq.operators.keyframe':\n"
        f"            exec({patch!r}, {{}})\n"
        "        return None\n"
        "sys.meta_path.insert(0, Late())\n"
    )
    output = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{Path.cwd()}"}
    command = [
        sys.executable,
        "-c",
        "from vrshq.pipelines.cli.main import main; main()",
        "label",
        table,
        "--output",
        str(output),
    ]
    result = subprocess.run(
        [*command, "--set", "resources.attempts=2"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    assert "its worker process died" in result.stderr
    tracks = {row["video_id"]: row for row in content(str(output))["tracks"]}
    assert tracks["one.mp4"]["status"] in ("ok", "empty")
    if patch is DIES_DECODING:
        assert (tracks["deadly.mp4"]["status"], tracks["deadly.mp4"]["error_type"]) == ("error", "WorkerDied")
        assert tracks["deadly.mp4"]["attempts"] == 2
    else:
        assert tracks["deadly.mp4"]["status"] == tracks["one.mp4"]["status"]
        assert content(str(output))["errors"] == []


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['{"video_uri": "a.mp4", "text": "x"}'], "instruction_id"),
        (['{"video_uri": "a.mp4", "instruction_id": "0", "text": "x"}'] * 2, "rows 1 and 2"),
        (["not json"], "table.jsonl"),
        ([], "table.jsonl"),
    ],
    ids=["column", "duplicate", "unreadable", "empty"],
)
def test_table_mistakes_end_in_one_line_before_anything_starts(lines: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "table.jsonl").write_text("".join(line + "\n" for line in lines))
    result = vrshq("label", str(tmp_path / "table.jsonl"), "--output", str(tmp_path / "run"))
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert words in result.stderr
    assert not (tmp_path / "run").exists()


def test_mistakes_on_the_command_line_are_one_line_each(corpus: Path, tmp_path: Path) -> None:
    table = str(corpus / "instructions.jsonl")
    (tmp_path / "file").write_text("in the way")
    for arguments, words in [
        (["--output", str(tmp_path / "file" / "run")], "file"),
        (["--output", str(tmp_path / "run"), "--model", "no-such"], "no-such"),
        (["--output", str(tmp_path / "run"), "--set", "keyframe.method=best"], "keyframe.method"),
        (["--output", str(tmp_path / "run"), "--set", "fusion.beta=1"], "fusion.beta"),
        (["--output", str(tmp_path / "run"), "--config", str(tmp_path / "none.yaml")], "none.yaml"),
    ]:
        result = vrshq("plan", table, *arguments) if "file" not in words else vrshq("label", table, *arguments)
        assert result.returncode == 1, (arguments, result.stdout, result.stderr)
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        assert words in result.stderr


def test_wrong_usage_is_exit_code_1_too_because_2_means_an_incomplete_run(tmp_path: Path) -> None:
    for arguments, words in [
        (["labl"], "labl"),
        (["label", "x"], "--output"),
        (["submit", "--address", "x"], "no command"),
    ]:
        result = vrshq(*arguments)
        assert (result.returncode, len(result.stderr.strip().splitlines())) == (1, 1), result.stderr
        assert words in result.stderr
    (tmp_path / "notes.txt").write_text("mine")
    table = write_table(tmp_path / "table.jsonl", [instruction("a.mp4", 0, "it")])
    result = vrshq("label", table, "--output", str(tmp_path))
    assert (result.returncode, len(result.stderr.strip().splitlines())) == (1, 1), result.stderr
    assert "not a run directory" in result.stderr


def test_plan_says_what_is_done_and_writes_nothing(corpus: Path, loop_run: str, tmp_path: Path) -> None:
    table = str(corpus / "instructions.jsonl")
    unit = ["--set", "max_instructions_per_unit=2", "--model", "untrained-tiny"]
    done = vrshq("plan", table, "--output", loop_run, *unit)
    assert done.returncode == 0, done.stderr
    assert "7 instructions on 3 videos in 4 units" in done.stdout
    assert "4 units, 0 to do" in done.stdout
    new = vrshq("plan", table, "--output", str(tmp_path / "new"), *unit)
    assert "0 units, 4 to do" in new.stdout
    assert not (tmp_path / "new").exists()


def test_models_lists_the_built_in_bundles() -> None:
    result = vrshq("models")
    assert result.returncode == 0
    assert "untrained-tiny" in result.stdout
