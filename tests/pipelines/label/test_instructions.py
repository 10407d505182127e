"""Promises of `vrshq.pipelines.label.asked.instructions`: what is read, what is refused in one line, and how units are cut."""

from __future__ import annotations

import csv
import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.paths import DEMO
from vrshq.cluster.storage.folder import Folder
from vrshq.pipelines.label.asked.instructions import read_instructions
from vrshq.pipelines.label.asked.units import build_manifest
from vrshq.pipelines.label.tables.carried import carried_columns, carried_schema
from vrshq.pipelines.label.tables.errors import InstructionTableError
from vrshq.pipelines.label.tables.schema import MANIFEST, TRACKS

ROWS: list[dict[str, Any]] = [
    {"video_uri": "b.mp4", "instruction_id": "007", "text": "the red ball"},
    {"video_uri": "a.mp4", "instruction_id": "0", "text": "NA"},
    {"video_uri": "b.mp4", "instruction_id": "2024-01-01", "text": ""},
]


def write(folder: Path, rows: list[dict[str, Any]], kind: str) -> str:
    """The rows as a file of that kind."""
    path = folder / f"table.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return str(path)


def table_of(rows: list[dict[str, Any]], folder: Path) -> pa.Table:
    return read_instructions(write(folder, rows, "jsonl"))


def refusal(folder: Path, rows: list[dict[str, Any]], kind: str = "jsonl") -> str:
    """The message with which a table is refused."""
    uri = write(folder, rows, kind)
    with pytest.raises(InstructionTableError) as caught:
        read_instructions(uri)
    message = str(caught.value)
    assert "\n" not in message
    assert uri in message
    return message


def manifest_of(table: pa.Table, size: int = 4) -> pa.Table:
    return build_manifest(table, videos_root=None, base="/data", max_instructions_per_unit=size)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "ndjson", "csv"])
def test_every_format_gives_the_same_strings(tmp_path: Path, kind: str) -> None:
    table = read_instructions(write(tmp_path, ROWS, kind))
    assert table.to_pylist() == [{"video_id": row["video_uri"]} | row for row in ROWS]
    assert {str(kind) for kind in table.schema.types} == {"string"}


def test_a_table_in_a_store_is_read() -> None:
    Folder("memory://instructions").write_bytes("t.jsonl", json.dumps(ROWS[0]).encode())
    assert read_instructions("memory://instructions/t.jsonl")["text"].to_pylist() == ["the red ball"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_integer_ids_become_strings_and_null_texts_empty(tmp_path: Path, kind: str) -> None:
    rows = [
        {"video_uri": "a.mp4", "instruction_id": 1, "text": None, "video_id": 7},
        {"video_uri": "a.mp4", "instruction_id": 2, "text": "x", "video_id": 7},
        {"video_uri": "b.mp4", "instruction_id": 1, "text": "x", "video_id": None},
    ]
    table = read_instructions(write(tmp_path, rows, kind))
    assert table["instruction_id"].to_pylist() == ["1", "2", "1"]
    assert table["text"].to_pylist() == ["", "x", "x"]
    assert table["video_id"].to_pylist() == ["7", "7", "b.mp4"]


MISSING = ["null", "NaN", "Infinity", "-Infinity"]


@pytest.mark.parametrize("value", MISSING)
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_missing_value_of_json_is_null_however_it_is_written(tmp_path: Path, value: str, kind: str) -> None:
    """As json.dumps writes the rows of pandas, alone and beside real values."""
    for others in ("", '{"video_uri": "b.mp4", "video_id": "b", "instruction_id": "1", "text": "x", "weight": 1.5}\n'):
        row = f'{{"video_uri": "a.mp4", "video_id": {value}, "instruction_id": "0", "text": {value}, "weight": {value}}}\n'
        (tmp_path / f"t.{kind}").write_text(row + others)
        (first, *_) = read_instructions(str(tmp_path / f"t.{kind}")).to_pylist()
        assert (first["video_id"], first["text"]) == ("a.mp4", "")
        weight = None if value == "null" else pytest.approx(float(value.replace("Infinity", "inf")), nan_ok=True)
        assert first["weight"] == weight  # in other columns it stays what it is
    for name in ("instruction_id", "video_uri"):
        row = json.dumps(ROWS[0] | {name: "?"}).replace('"?"', value)
        (tmp_path / f"t.{kind}").write_text(json.dumps(ROWS[1]) + "\n" + row)
        with pytest.raises(InstructionTableError, match=rf"row 2: {name} is null"):
            read_instructions(str(tmp_path / f"t.{kind}"))


def test_a_nan_of_parquet_and_of_pandas_csv_is_missing_and_whole_floats_are_integers(tmp_path: Path) -> None:
    nan = float("nan")
    given = {"video_uri": ["a.mp4", "b.mp4"], "instruction_id": [1.0, 2.0], "text": [nan, None], "video_id": [7.0, nan]}
    pq.write_table(pa.table(given), tmp_path / "t.parquet")
    right = [
        {"video_id": "7", "video_uri": "a.mp4", "instruction_id": "1", "text": ""},
        {"video_id": "b.mp4", "video_uri": "b.mp4", "instruction_id": "2", "text": ""},
    ]
    assert read_instructions(str(tmp_path / "t.parquet")).to_pylist() == right
    for missing in ("", "NaN", "nan"):  # as pandas writes it, by default and by `na_rep`, and as `csv` writes a float
        (tmp_path / "t.csv").write_text(
            f"video_uri,instruction_id,text,video_id,gold\na.mp4,1,{missing},7,NaN\nb.mp4,2,{missing},{missing},x\n"
        )
        table = read_instructions(str(tmp_path / "t.csv"))
        assert table.drop_columns("gold").to_pylist() == right
    assert table["gold"].to_pylist() == ["NaN", "x"]
    pq.write_table(pa.table(given | {"instruction_id": [1.0, nan]}), tmp_path / "t.parquet")
    with pytest.raises(InstructionTableError, match="row 2: instruction_id is null"):
        read_instructions(str(tmp_path / "t.parquet"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.5, "the number 1.5; expected a string or an integer"),
        (True, "a boolean"),
        (["x"], "a list"),
        ({"a": 1}, "an object"),
    ],
)
@pytest.mark.parametrize("name", ["text", "instruction_id", "video_id"])
def test_ids_and_texts_of_other_types_are_refused_whatever_their_neighbours_are(
    tmp_path: Path, name: str, value: Any, words: str
) -> None:
    for rows in ([ROWS[0] | {name: value}], [ROWS[0] | {name: value}, ROWS[1] | {name: "y"}]):
        assert f"{name} is {words}" in refusal(tmp_path, rows)
    assert "expected a string" in refusal(tmp_path, [ROWS[0] | {name: value}], "parquet")


def test_integers_of_any_size_are_ids_and_texts(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"instruction_id": 2**70, "text": 5}, ROWS[1] | {"instruction_id": "x", "text": "y"}]
    table = table_of(rows, tmp_path)
    assert table["instruction_id"].to_pylist() == [str(2**70), "x"]
    assert table["text"].to_pylist() == ["5", "y"]
    assert "video_uri is the number 3; expected a string" in refusal(tmp_path, [ROWS[0] | {"video_uri": 3}])


def test_texts_are_data(tmp_path: Path) -> None:
    texts = [
        "",
        "x" * 10_000,
        "a\x00b\x1b[31m",
        "<script>alert(1)</script>",
        "../../etc/passwd",
        "$(rm -rf /)",
        "球\n\n🐘",
    ]
    rows = [{"video_uri": "a.mp4", "instruction_id": str(i), "text": text} for i, text in enumerate(texts)]
    assert table_of(rows, tmp_path)["text"].to_pylist() == texts
    assert read_instructions(write(tmp_path, rows, "csv"))["text"].to_pylist() == texts
    assert sorted(manifest_of(table_of(rows, tmp_path), 99)["texts"][0].as_py()) == sorted(texts)


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"video_uri": "a.mp4", "instruction_id": "0", "text": "broken \\ud83d here"}')
    assert read_instructions(str(path))["text"].to_pylist() == ["broken \ufffd here"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({1: {"video_uri": None}}, ["row 2", "video_uri is null"]),
        ({2: {"video_uri": ""}}, ["row 3", "video_uri is empty"]),
        ({0: {"instruction_id": None}}, ["row 1", "instruction_id is null"]),
        ({0: {"instruction_id": ""}}, ["row 1", "instruction_id is empty"]),
        ({2: {"instruction_id": "007"}}, ["rows 1 and 3", "'b.mp4'", "'007'"]),
        ({0: {"video_id": "v"}, 1: {"video_id": "v"}}, ["rows 1 and 2", "'v'", "'b.mp4'", "'a.mp4'"]),
        (
            {0: {"instruction_id": [1]}, 1: {"instruction_id": [2]}, 2: {"instruction_id": [3]}},
            ["instruction_id", "list"],
        ),
        ({0: {"status": "gold"}}, ["'status'", "tracks/"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[int, dict[str, Any]], named: list[str]) -> None:
    message = refusal(tmp_path, [row | changes.get(place, {}) for place, row in enumerate(ROWS)])
    assert all(part in message for part in named), message


def test_a_missing_column_lists_those_found(tmp_path: Path) -> None:
    for kind in ("parquet", "jsonl", "csv"):
        message = refusal(tmp_path, [{"video": "a.mp4", "instruction_id": "0", "text": "x"}], kind)
        assert "'video_uri' is missing; found 'video', 'instruction_id', 'text'" in message


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("t.jsonl", b"", "empty"),
        ("t.csv", b"", "empty"),
        ("t.csv", b"video_uri,instruction_id,text\n", "empty"),
        ("t.csv", b"video_uri,instruction_id,text\na.mp4,0\n", "not a .csv table"),
        ("t.csv", b"video_uri,text,instruction_id,text\na.mp4,0,1,2\n", "'text' occurs 2 times"),
        ("t.jsonl", b'{"video_uri": "a.mp4"\n', "line 1 is not JSON"),
        ("t.jsonl", b"\n[1, 2]\n", "line 2 is not a JSON object"),
        ("t.jsonl", b"\xff\xfe\x00", "not a .jsonl table"),
        ("t.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("t.parquet", b"PAR1 nothing", "not a .parquet table"),
        ("t.txt", b"hello", "expected an instruction table as .parquet, .jsonl (.ndjson), .json, .csv or .tsv"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes, named: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InstructionTableError) as caught:
        read_instructions(str(path))
    assert named in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named_once(tmp_path: Path) -> None:
    uri = str(tmp_path / "none.csv")
    with pytest.raises(InstructionTableError, match="no such file") as caught:
        read_instructions(uri)
    assert str(caught.value).count(uri) == 1


@pytest.mark.parametrize("name", [name for name in TRACKS.names if name not in (*ROWS[0], "video_id", "start", "end")])
def test_no_carried_column_hides_a_column_of_tracks(tmp_path: Path, name: str) -> None:
    assert f"'{name}'" in refusal(tmp_path, [ROWS[0] | {name: "x"}])


@pytest.mark.parametrize(
    ("root", "uri", "resolved"),
    [
        (None, "x/a.mp4", "/data/x/a.mp4"),
        ("/videos", "a.mp4", "/videos/a.mp4"),
        ("s3://bucket/v", "a.mp4", "s3://bucket/v/a.mp4"),
        ("s3://bucket/v", "/local/a.mp4", "/local/a.mp4"),
        ("/videos", "gs://other/a.mp4", "gs://other/a.mp4"),
    ],
)
def test_relative_videos_resolve_against_the_root(tmp_path: Path, root: str | None, uri: str, resolved: str) -> None:
    table = table_of([{"video_uri": uri, "instruction_id": "0", "text": "x"}], tmp_path)
    manifest = build_manifest(table, videos_root=root, base="/data", max_instructions_per_unit=1)
    assert manifest["video_uri"].to_pylist() == [resolved]
    assert manifest["video_id"].to_pylist() == [uri]


def test_relative_roots_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for root in (None, ".", ""):
        manifest = build_manifest(table_of(ROWS[:1], tmp_path), videos_root=root, base="", max_instructions_per_unit=1)
        assert manifest["video_uri"].to_pylist() == [str(tmp_path / "b.mp4")]


def test_a_unit_id_is_its_content(tmp_path: Path) -> None:
    first = manifest_of(table_of(ROWS, tmp_path))
    moved = build_manifest(table_of(ROWS, tmp_path), videos_root="s3://x", base="", max_instructions_per_unit=4)
    assert first["unit_id"].equals(moved["unit_id"])
    other = manifest_of(table_of([ROWS[0] | {"text": "the blue ball"}, *ROWS[1:]], tmp_path))
    same = [a == b for a, b in zip(first["unit_id"].to_pylist(), other["unit_id"].to_pylist(), strict=True)]
    assert dict(zip(first["video_id"].to_pylist(), same, strict=True)) == {"a.mp4": True, "b.mp4": False}
    # Written down: a run directory of an older version must find its units again.
    assert first["unit_id"][0].as_py() == "e9d59b3d22f8b0be"


def test_carried_columns_keep_their_types(tmp_path: Path) -> None:
    moment = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)
    given = pa.table(
        {
            "video_uri": ["b.mp4", "a.mp4"],
            "instruction_id": ["0", "0"],
            "text": ["x", "y"],
            "gold": [True, None],
            "count": pa.array([2**53 + 1, -1], pa.int64()),
            "small": pa.array([1, 2], pa.uint8()),
            "weight": pa.array([0.1, float("nan")], pa.float64()),
            "half": pa.array([0.5, float("-inf")], pa.float32()),
            "split": pa.array(["train", "val"]).dictionary_encode(),
            "tags": [["a", "b"], []],
            "scores": [[0.5, float("inf")], None],
            "at": pa.array([moment, None], pa.timestamp("ns", "UTC")),
            "extra": [{"a": 1, "b": [1, 2]}, {"a": 2, "b": None}],
            "raw": [b"ok", b"\xff"],
            "nothing": pa.nulls(2),
        }
    )
    pq.write_table(given, tmp_path / "t.parquet")
    table = read_instructions(str(tmp_path / "t.parquet"))
    schema = carried_schema(table)
    kept = {"gold": "bool", "count": "int64", "small": "uint8", "weight": "double", "half": "float", "split": "string"}
    lists = {"tags": "list<item: string>", "scores": "list<item: double>"}
    others = dict.fromkeys(["at", "extra", "raw", "nothing"], "string")
    assert {field.name: str(field.type) for field in schema} == kept | lists | others
    carried = [row for unit in manifest_of(table)["carried"].to_pylist() for row in unit]
    for row in carried:
        json.loads(row, parse_constant=pytest.fail)  # strict JSON: no NaN
    columns = carried_columns(carried, schema)
    assert [array.type for array in columns.values()] == schema.types
    back = {name: array.to_pylist()[::-1] for name, array in columns.items()}  # units are ordered a.mp4, b.mp4
    for name in ("gold", "count", "small", "split", "tags", "scores"):
        assert back[name] == given[name].to_pylist()
    assert back["weight"] == [0.1, pytest.approx(float("nan"), nan_ok=True)]
    assert back["half"] == [0.5, float("-inf")]
    assert back["at"] == ["2024-05-06 07:08:09.000000000Z", None]
    assert json.loads(back["extra"][0]) == {"a": 1, "b": [1, 2]}
    assert back["raw"] == ["ok", "\\xff"]
    assert back["nothing"] == [None, None]


def test_a_jsonl_column_of_several_types_becomes_text(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"extra": 1}, ROWS[1] | {"extra": "one"}, ROWS[2] | {"extra": {"b": 2}}]
    assert table_of(rows, tmp_path)["extra"].to_pylist() == ["1", "one", '{"b": 2}']


def test_objects_do_not_get_each_others_keys(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"extra": {"a": 1}}, ROWS[1] | {"extra": {"b": 2}}]
    assert table_of(rows, tmp_path)["extra"].to_pylist() == ['{"a": 1}', '{"b": 2}']


def test_carried_columns_of_no_rows_are_typed() -> None:
    schema = pa.schema([pa.field("weight", pa.float32()), pa.field("tags", pa.list_(pa.string()))])
    assert [array.type for array in carried_columns([], schema).values()] == schema.types
    assert carried_columns(["{}"], schema)["weight"].to_pylist() == [None]


ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4)
tables = st.dictionaries(st.tuples(st.sampled_from(["a", "b/..", "ü", "z"]), ids), st.text(max_size=5), min_size=1)


@settings(deadline=None)
@given(content=tables, size=st.integers(1, 5), random=st.randoms(use_true_random=False))
def test_units_do_not_depend_on_the_order_of_rows(content: dict[tuple[str, str], str], size: int, random: Any) -> None:
    rows = [
        {"video_id": video, "video_uri": f"{video}.mp4", "instruction_id": name, "text": text, "row": f"{video}{name}"}
        for (video, name), text in content.items()
    ]
    manifest = manifest_of(pa.Table.from_pylist(rows), size)
    random.shuffle(rows)
    assert manifest.equals(manifest_of(pa.Table.from_pylist(rows), size))
    assert manifest.schema == MANIFEST

    # Every instruction is in exactly one unit, with its own text and carried columns, and units hold at most N.
    found: dict[tuple[str, str], str] = {}
    for unit in manifest.to_pylist():
        assert 1 <= len(unit["instruction_ids"]) <= size
        columns = (unit["instruction_ids"], unit["texts"], unit["carried"])
        for name, text, carried in zip(*columns, strict=True):
            assert json.loads(carried) == {"row": unit["video_id"] + name}
            assert (unit["video_id"], name) not in found
            found[unit["video_id"], name] = text
    assert found == content
    # No more units than needed.
    videos = [video for video, _ in content]
    assert manifest.num_rows == sum(-(-videos.count(video) // size) for video in set(videos))


def test_slices_do_not_show_in_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"video_uri": f"{i % 5}.mp4", "instruction_id": str(i), "text": f"text {i}", "weight": i} for i in range(60)
    ]
    table = table_of(rows, tmp_path)
    whole = manifest_of(table)
    monkeypatch.setattr("vrshq.pipelines.label.asked.units.SLICE_ROWS", 7)
    assert manifest_of(table).equals(whole)


def test_units_hold_at_least_one_instruction(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        manifest_of(table_of(ROWS, tmp_path), 0)


def test_the_demo_corpus_is_a_table_over_its_clips() -> None:
    table = read_instructions(str(DEMO / "instructions.jsonl"))
    manifest = build_manifest(table, videos_root=None, base=str(DEMO), max_instructions_per_unit=16)
    assert manifest.num_rows == 3
    assert all(Path(uri).is_file() for uri in manifest["video_uri"].to_pylist())
    assert sum(path.stat().st_size for path in DEMO.glob("*.mp4")) < 250_000
