"""Promises about the files of an instruction table: folders of parts, patterns, compression, separators, encodings."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.paths import SHARED
from vrshq.cluster.storage.folder import Folder
from vrshq.pipelines.label.asked.instructions import read_instructions
from vrshq.pipelines.label.asked.table_files import table_folder
from vrshq.pipelines.label.tables.errors import InstructionTableError

ROWS: list[dict[str, Any]] = [
    {"video_uri": f"{number}.mp4", "instruction_id": str(number), "text": f"the red ball, №{number}"}
    for number in range(4)
]
HEADER = ["video_uri", "instruction_id", "text"]


def csv_text(separator: str, rows: list[dict[str, Any]] = ROWS) -> str:
    lines = [HEADER, *([f'"{row[name]}"' for name in HEADER] for row in rows)]
    return "".join(separator.join(line) + "\n" for line in lines)


def lines_text(rows: list[dict[str, Any]] = ROWS) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet_bytes(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue().to_pybytes())


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue().to_pybytes())


def read(uri: str | Path) -> list[dict[str, Any]]:
    """The rows of the table; their video_id is the default."""
    rows: list[dict[str, Any]] = read_instructions(str(uri)).to_pylist()
    for row in rows:
        assert row.pop("video_id") == row["video_uri"]
    return rows


def refusal(uri: str | Path) -> str:
    with pytest.raises(InstructionTableError) as caught:
        read_instructions(str(uri))
    message = str(caught.value)
    assert message.startswith(str(uri))
    assert "\n" not in message
    return message


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty folder, local or in a store."""
    return Folder(str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}")


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("tsv", csv_text("\t")),
        ("csv", csv_text(";")),
        ("csv", csv_text("\t")),
        ("tsv", csv_text(",")),
        ("csv", "sep=;\n" + csv_text(";")),
        ("json", json.dumps(ROWS, indent=1)),
        ("json", lines_text()),
        ("JSON", " \n" + json.dumps(ROWS)),
    ],
    ids=["tabs", "semicolons", "tabs-csv", "commas-tsv", "excel", "array", "lines", "upper"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_text_formats_are_read_with_their_separator_and_encoding(
    tmp_path: Path, suffix: str, content: str, encoding: str
) -> None:
    path = tmp_path / f"t.{suffix}"
    path.write_bytes(content.encode(encoding))
    assert read(path) == ROWS


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("zst", zstd)])
def test_compressed_tables_are_read(place: Folder, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    contents = {"csv": csv_text(",").encode(), "jsonl": lines_text().encode(), "parquet": parquet_bytes(ROWS)}
    for name, data in contents.items():
        place.write_bytes(f"t.{name}.{suffix}", compress(data))
        assert read(place.uri_of(f"t.{name}.{suffix}")) == ROWS
    half = compress(contents["jsonl"])
    place.write_bytes(
        f"two.jsonl.{suffix}", compress(lines_text(ROWS[:2]).encode()) + compress(lines_text(ROWS[2:]).encode())
    )
    assert read(place.uri_of(f"two.jsonl.{suffix}")) == ROWS
    place.write_bytes(f"cut.jsonl.{suffix}", half[: len(half) // 2])
    assert f"not a .{suffix} file" in refusal(place.uri_of(f"cut.jsonl.{suffix}"))
    place.write_bytes(f"plain.jsonl.{suffix}", contents["jsonl"])
    assert f"not a .{suffix} file" in refusal(place.uri_of(f"plain.jsonl.{suffix}"))


MARKS = ["_SUCCESS", "._SUCCESS.crc", ".part-0.parquet.crc", "_metadata", "part-0.crc", "_temporary/0/x.parquet"]


def test_a_folder_of_parts_is_one_table_without_its_marks(place: Folder) -> None:
    """As Spark writes it; Ray Data and Daft write the parts alone."""
    place.write_bytes("t/part-00001.snappy.parquet", parquet_bytes(ROWS[2:]))
    place.write_bytes("t/part-00000.snappy.parquet", parquet_bytes(ROWS[:2]))
    for mark in MARKS:
        place.write_bytes(f"t/{mark}", b"mark")
    for ending in ("", "/", "/*.parquet", "/part-0000[01]*"):
        assert read(place.uri_of("t") + ending) == ROWS
    assert read(place.uri_of("t") + "/part-00001*") == ROWS[2:]
    assert "no file matches the pattern" in refusal(place.uri_of("t") + "/*.csv")


def test_parts_of_every_text_format_are_joined_and_empty_ones_have_no_rows(place: Folder) -> None:
    for suffix in ("csv", "csv.gz", "jsonl.gz", "json"):
        contents = [csv_text(";", rows) if "csv" in suffix else lines_text(rows) for rows in (ROWS[:3], ROWS[3:])]
        for number, content in enumerate([contents[0], "", contents[1]]):
            data = gzip.compress(content.encode()) if suffix.endswith("gz") else content.encode()
            place.write_bytes(f"{suffix}/part-{number}.{suffix}", data)
        assert read(place.uri_of(suffix)) == ROWS


def test_folders_named_by_hive_are_columns(place: Folder) -> None:
    place.write_bytes("t/split=val/kind=a%20b/p.parquet", parquet_bytes(ROWS[:2]))
    place.write_bytes("t/split=__HIVE_DEFAULT_PARTITION__/kind=c/p.parquet", parquet_bytes(ROWS[2:]))
    right = [row | {"split": None, "kind": "c"} for row in ROWS[2:]] + [
        row | {"split": "val", "kind": "a b"} for row in ROWS[:2]
    ]
    assert read(place.uri_of("t")) == right
    assert read(place.uri_of("t") + "/**/*.parquet") == right
    assert read(place.uri_of("t") + "/split=v*/kind=*") == right[2:]


def test_carried_columns_of_parts_that_differ_keep_their_values(tmp_path: Path) -> None:
    for number, value in enumerate([1, 2.5, None, "x"]):
        (tmp_path / f"{number}.parquet").write_bytes(
            parquet_bytes([ROWS[number] | {"note": value, f"only_{number}": 1}])
        )
    table = read_instructions(f"{tmp_path}/[012].parquet")
    assert table["note"].to_pylist() == [1, 2.5, None]
    assert table["only_1"].to_pylist() == [None, 1, None]
    assert read_instructions(str(tmp_path))["note"].to_pylist() == ["1", "2.5", None, "x"]


def test_a_mistake_in_a_part_names_the_part_and_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines_text(ROWS[:2]))
    (tmp_path / "b.jsonl").write_text(lines_text([ROWS[2], ROWS[3] | {"instruction_id": None}]))
    assert "row 2 of b.jsonl: instruction_id is null" in refusal(tmp_path)
    (tmp_path / "b.jsonl").write_text(lines_text([ROWS[2], ROWS[1]]))
    assert "row 2 of a.jsonl and row 2 of b.jsonl have the same" in refusal(tmp_path)
    (tmp_path / "b.jsonl").write_text("{")
    assert "b.jsonl: line 1 is not JSON" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.csv": b"x", "b.parquet": b"x"}, "files of several formats, a.csv and b.parquet"),
        ({"a.csv": b"x", "clip.mp4": b"x"}, "the suffix of clip.mp4 is unknown"),
        ({"_SUCCESS": b""}, "holds no parts"),
        ({}, "no files"),
        ({"_delta_log/0.json": b"{}", "a.parquet": b"x"}, "Delta Lake"),
    ],
)
def test_a_folder_that_is_no_table_is_refused_with_the_reason(
    tmp_path: Path, files: dict[str, bytes], words: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert words in refusal(tmp_path)


def test_names_that_exist_are_no_patterns(tmp_path: Path) -> None:
    (tmp_path / "t[1]*.jsonl").write_text(lines_text())
    (tmp_path / "t1.jsonl").write_text("not read")
    assert read(tmp_path / "t[1]*.jsonl") == ROWS
    (tmp_path / "d[1]").mkdir()
    (tmp_path / "d[1]" / "p.jsonl").write_text(lines_text())
    for uri in (tmp_path / "d[1]", tmp_path / "d[1]" / "*.jsonl"):
        assert read(uri) == ROWS
    assert table_folder(str(tmp_path / "d[1]" / "*.jsonl")) == str(tmp_path / "d[1]")
    assert table_folder(str(tmp_path / "d[1]")) == str(tmp_path)


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        ("die Straße, die blaue Tür", "cp1252", "Windows-1252"),
        ("el niño", "latin-1", "ISO-8859-1"),
        ("赤い車はどこですか", "shift_jis", "Shift-JIS"),
        ("红色的汽车在哪里", "gb18030", "GB18030"),
        ("красная машина", "cp1251", "Windows-1251"),
        ("빨간 자동차", "euc_kr", "EUC-KR"),
    ],
)
def test_another_encoding_is_refused_by_name_and_line(tmp_path: Path, text: str, encoding: str, named: str) -> None:
    rows = [ROWS[0] | {"text": "x"}, ROWS[1] | {"text": text}]
    for suffix, content in (("csv", csv_text(",", rows)), ("jsonl", f"\n\n{text}")):
        (tmp_path / f"t.{suffix}").write_bytes(content.encode(encoding, "replace"))
        message = refusal(tmp_path / f"t.{suffix}")
        assert named in message
        assert "line 3 has the byte" in message
        assert "save it as UTF-8" in message


def test_another_separator_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(csv_text("|"))
    assert "its columns are separated by '|'; expected commas, semicolons, tabs" in refusal(tmp_path / "t.csv")


def test_a_name_that_no_store_may_have_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a\\b.jsonl").write_text(lines_text())
    assert "not a name inside a folder" in refusal(tmp_path / "a\\b.jsonl")


def test_another_compression_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "t.csv.bz2").write_bytes(bz2.compress(csv_text(",").encode()))
    assert ".gz or .zst" in refusal(tmp_path / "t.csv.bz2")


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("t.csv", str(Path.cwd())),
        ("..", str(Path.cwd().parents[1])),
        ("/t.csv", "/"),
        ("/data/t.csv", "/data"),
        ("/data/spark.parquet", "/data"),
        ("/data/spark.parquet/", "/data"),
        ("/data/parts/*.parquet", "/data/parts"),
        ("s3://bucket/a/t.csv", "s3://bucket/a"),
        ("s3://bucket", "s3://bucket"),
    ],
)
def test_videos_are_relative_to_the_folder_in_which_the_table_lies(uri: str, folder: str) -> None:
    assert table_folder(uri) == folder


@pytest.mark.skipif(not (SHARED / "reports" / "tables").is_dir(), reason="the reported files are not here")
@pytest.mark.parametrize(
    ("name", "text"),
    [("spark.parquet", "x"), ("table.tsv", "the car"), ("semicolon.csv", "the car"), ("utf16.csv", "the café")],
)
def test_reported_tables_are_read(name: str, text: str) -> None:
    assert text in read_instructions(str(SHARED / "reports" / "tables" / name))["text"].to_pylist()
