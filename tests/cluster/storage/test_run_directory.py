"""Promises of `vrshq.cluster.storage.run_directory`, on disk, in memory and on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import ConfigurationDiffers, RunDirectory

IDENTITY = {"model": {"name": "tiny", "frames": 8}, "threshold": 0.5, "tags": ["a", "b"]}
TRACKS = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("score", pa.float32())])
ERRORS = pa.schema([pa.field("message", pa.string(), nullable=False)])


def tracks(*rows: tuple[str, float | None]) -> pa.Table:
    return pa.Table.from_pylist([{"id": name, "score": score} for name, score in rows], schema=TRACKS)


def errors(*messages: str) -> pa.Table:
    return pa.Table.from_pylist([{"message": message} for message in messages], schema=ERRORS)


def test_the_same_settings_continue_a_run(place: str) -> None:
    assert not RunDirectory(place).open(IDENTITY, {"version": "1"})
    reordered = {"tags": ("a", "b"), "threshold": 0.5, "model": {"frames": 8, "name": "tiny"}}
    assert RunDirectory(place).open(reordered, {"version": "2"})
    written = RunDirectory(place).read_json("run.json")
    assert written["identity"] == IDENTITY
    assert written["details"] == {"version": "1"}
    assert len(written["identity_sha256"]) == 64


def test_other_settings_are_refused_with_each_differing_key(place: str) -> None:
    RunDirectory(place).open(IDENTITY, {})
    other = {"model": {"name": "large", "frames": 8, "dtype": "bf16"}, "tags": ["a"], "threshold": 0.5}
    with pytest.raises(ConfigurationDiffers) as caught:
        RunDirectory(place).open(other, {})
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(RunDirectory(place).uri)
    assert lines[1:-1] == [
        '  model.dtype: (not set) -> "bf16"',
        '  model.name: "tiny" -> "large"',
        '  tags: ["a", "b"] -> ["a"]',
    ]
    assert "another --output" in lines[-1]
    assert RunDirectory(place).read_json("run.json")["identity"] == IDENTITY


def test_a_folder_with_other_things_in_it_is_refused(place: str) -> None:
    Folder(place).write_bytes("holiday/photo.jpg", b"1")
    with pytest.raises(ValueError, match=r"is not empty and has no run\.json"):
        RunDirectory(place).open(IDENTITY, {})
    assert Folder(place).list() == ["holiday/photo.jpg"]


def test_the_manifest_comes_back_in_its_order(place: str) -> None:
    run = RunDirectory(place)
    assert not run.has_manifest()
    units = pa.table({"unit_id": [f"{number:x}" for number in range(40_000, 0, -1)]})
    run.write_manifest(units)
    assert run.has_manifest()
    assert run.read_manifest() == units
    assert Folder(place).list("manifest") == ["manifest/manifest.parquet"]


def test_a_unit_is_finished_when_its_tracks_are_there(place: str) -> None:
    run = RunDirectory(place)
    assert run.finished_units() == set()
    size = run.write_part("masks", "0a", tracks(("x", 1.0)), TRACKS)
    assert run.folder.sizes("masks") == {"masks/part-0a.parquet": size}
    run.write_part("errors", "0b", errors("no"), ERRORS)
    assert run.finished_units() == set()
    run.commit_unit("0a", {"tracks": tracks(("x", 1.0)), "masks": tracks(("x", 1.0)), "errors": errors()})
    run.commit_unit("ff", {"tracks": tracks()})
    assert run.finished_units() == {"0a", "ff"}
    assert run.errored_units() == {"0b"}
    assert Folder(place).list() == [
        "errors/part-0b.parquet",
        "masks/part-0a.parquet",
        "tracks/part-0a.parquet",
        "tracks/part-ff.parquet",
    ]


def test_a_later_success_removes_the_error_of_an_earlier_attempt(place: str) -> None:
    run = RunDirectory(place)
    run.commit_unit("0a", {"tracks": tracks(("x", None)), "errors": errors("boom")})
    assert run.errored_units() == {"0a"}
    run.forget(["0a"])
    assert Folder(place).list() == []
    run.commit_unit("0a", {"tracks": tracks(("x", None)), "errors": errors("boom")})
    run.commit_unit("0a", {"tracks": tracks(("x", 1.0)), "masks": tracks(("x", 1.0))})
    assert run.errored_units() == set()
    assert run.read("tracks", TRACKS) == tracks(("x", 1.0))
    assert run.read("masks", TRACKS) == tracks(("x", 1.0))


@pytest.mark.parametrize("begun", [False, True])
def test_tracks_are_written_last_and_removed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    run = RunDirectory(str(tmp_path))
    everything = {"tracks": tracks(("x", 1.0)), "masks": tracks(("x", 1.0)), "tokens": tracks(("x", 1.0))}
    if begun:
        run.commit_unit("0a", {"tracks": tracks(), "errors": errors("boom")})
    happened: list[str] = []
    for act in ("write_bytes", "remove"):
        original = getattr(Folder, act)

        def noted(self: Folder, name: str, *rest: bytes, act: str = act, original: object = original) -> None:
            happened.append(f"{act} {name.split('/')[0]}")
            original(self, name, *rest)  # type: ignore[operator]

        monkeypatch.setattr(Folder, act, noted)
    run.commit_unit("0a", everything)
    assert happened == ["write_bytes masks", "write_bytes tokens", "remove errors", "write_bytes tracks"]
    happened.clear()
    run.forget(["0a", "0b"])
    assert happened[:2] == ["remove tracks"] * 2
    assert len(happened) == 8


class Killed(BaseException):
    """As a SIGKILL: nobody catches it."""


def test_forgetting_that_is_killed_at_any_point_leaves_units_whole_or_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vrshq.cluster.storage.folder._REMOVERS", 1)
    remove = Folder.remove
    units = ["0a", "0b", "0c"]
    failed = {"tracks": tracks(("x", None)), "masks": tracks(("x", 0.0)), "errors": errors("boom")}
    kills = 0
    while True:
        run = RunDirectory(str(tmp_path / str(kills)))
        for unit in units:
            run.commit_unit(unit, failed)
        left = [kills]
        with monkeypatch.context() as patch:

            def counted(self: Folder, name: str, left: list[int] = left) -> None:
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                remove(self, name)

            patch.setattr(Folder, "remove", counted)
            try:
                run.forget(units)
                break
            except Killed:
                pass
        whole = run.finished_units()
        assert all(run.folder.exists(f"{name}/part-{unit}.parquet") for unit in whole for name in failed)
        run.forget(run.errored_units() & whole)  # what the next command does
        assert run.finished_units() == set()
        for unit in units:
            run.commit_unit(unit, {"tracks": tracks((unit, 1.0))})
        assert run.read("tracks", TRACKS)["id"].to_pylist() == units
        assert (run.errored_units(), run.folder.list("masks")) == (set(), [])
        kills += 1
    assert kills == 12


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    rows = [(f"unit {number}", number / 7) for number in range(1000)]
    whole = tracks(*rows)
    pieces = pa.concat_tables([whole.slice(0, 300), whole.slice(300, 1), whole.slice(301)])
    padded = pa.concat_tables([tracks(("other", 0.0)), whole]).slice(1)
    wide = padded.append_column("more", pa.array(range(1000))).replace_schema_metadata({"from": "elsewhere"})
    run = RunDirectory(str(tmp_path))
    for number, table in enumerate((whole, pieces, padded, wide)):
        run.write_part("masks", f"{number}", table, TRACKS)
    contents = {file.read_bytes() for file in (tmp_path / "masks").iterdir()}
    assert len(contents) == 1
    assert pq.read_schema(tmp_path / "masks" / "part-0.parquet") == TRACKS


def test_an_empty_part_has_the_same_types_as_a_full_one(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    run.commit_unit("0a", {"tracks": TRACKS.empty_table()})
    run.commit_unit("0b", {"tracks": tracks(("x", 1.0))})
    parts = [pq.read_schema(file) for file in (tmp_path / "tracks").iterdir()]
    assert parts == [TRACKS, TRACKS]


def test_all_parts_are_read_in_the_order_of_their_names(place: str) -> None:
    run = RunDirectory(place)
    assert run.read("tracks", TRACKS) == TRACKS.empty_table()
    for unit in ("0c", "0a", "0b"):
        run.commit_unit(unit, {"tracks": tracks((unit, 1.0), (unit, None))})
    assert run.read("tracks", TRACKS)["id"].to_pylist() == ["0a", "0a", "0b", "0b", "0c", "0c"]
    assert run.read("tracks", TRACKS, columns=["score"]).schema.names == ["score"]


def test_what_does_not_fit_the_schema_is_refused(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    with pytest.raises(ValueError, match="tracks of unit 0a lacks the columns id"):
        run.write_part("tracks", "0a", pa.table({"score": [1.0]}), TRACKS)
    for wrong in (pa.table({"id": [None], "score": [1.0]}), pa.table({"id": ["a"], "score": ["b"]})):
        with pytest.raises(ValueError, match="tracks of unit 0a does not fit its schema"):
            run.write_part("tracks", "0a", wrong, TRACKS)
    with pytest.raises(ValueError, match="expected tables out of"):
        run.commit_unit("0a", {"masks": tracks()})
    with pytest.raises(ValueError, match="no table 'mask'"):
        run.read("mask", TRACKS)
    assert Folder(str(tmp_path)).list() == []


@pytest.mark.parametrize("unit_id", ["", "../0a", "0A", "0a/0b", "x", "0a\n"])
def test_a_unit_id_is_hexadecimal(tmp_path: Path, unit_id: str) -> None:
    run = RunDirectory(str(tmp_path))
    with pytest.raises(ValueError, match="not a unit id"):
        run.commit_unit(unit_id, {"tracks": tracks()})
    with pytest.raises(ValueError, match="not a unit id"):
        run.forget([unit_id])


def test_json_files_come_back(place: str) -> None:
    run = RunDirectory(place)
    run.write_json("stats.json", {"frames": 3, "text": "é"})
    assert run.read_json("stats.json") == {"frames": 3, "text": "é"}
    Folder(place).write_bytes("run.json", b"{half")
    with pytest.raises(ValueError, match=r"run\.json is not JSON"):
        run.open(IDENTITY, {})


def test_a_nullable_column_that_an_older_version_did_not_write_is_null(place: str) -> None:
    run = RunDirectory(place)
    for unit in ("0a", "0b"):
        run.commit_unit(unit, {"tracks": tracks((unit, 1.0))})
    newer = pa.schema([*TRACKS, pa.field("ratio", pa.float32())])
    expected = [{"id": unit, "score": 1.0, "ratio": None} for unit in ("0a", "0b")]
    assert run.read("tracks", newer).to_pylist() == expected
    run.compact(["0a", "0b"], to_the_end=True)
    assert run.read("tracks", newer, unit_ids=["0b"]).to_pylist() == expected[1:]
    assert run.read("tracks", newer).schema == newer
    with pytest.raises(KeyError):
        run.read("tracks", pa.schema([*TRACKS, pa.field("needed", pa.string(), nullable=False)]))
