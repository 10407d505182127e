"""The formats of an instruction table: from the bytes of one file to an Arrow table.

A missing value of a column that vrshq knows is null in all formats: JSON's null, NaN and Infinity, the `NaN` that Python
and pandas write into CSV files for a missing value, and (in `instructions.py`) Parquet's null and NaN.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from vrshq.pipelines.label.tables.carried import KNOWN_COLUMNS, SPAN_COLUMNS, carried_type, json_string
from vrshq.pipelines.label.tables.errors import InstructionTableError

# What Python and pandas write into a CSV file for a missing value, where it is not an empty cell.
_CSV_MISSING = ("NaN", "nan")
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_OTHER_SEPARATORS = ("|", "^", "~", ":", " ")
# Whole numbers above it have no exact float, so a float column cannot hold them as ids.
EXACT_FLOATS = 2.0**53


def read_format(suffix: str, data: bytes) -> pa.Table:
    """The table in the bytes of one file.

    Args:
        suffix: a key of `FORMATS`.
        data: the file's content, without compression.

    Raises:
        InstructionTableError: the bytes are no such table; the message does not name the file.
    """
    try:
        return FORMATS[suffix](data)
    except InstructionTableError:
        raise
    except (ValueError, pa.ArrowException) as error:
        raise InstructionTableError(f"not a {suffix} table: {one_line(error)}") from error


def decompress(suffix: str, data: bytes) -> bytes:
    """The content of a file with a suffix of `COMPRESSIONS`; InstructionTableError where it is not so compressed."""
    try:
        return COMPRESSIONS[suffix](data)
    except (OSError, EOFError, ValueError, pa.ArrowException) as error:
        raise InstructionTableError(f"not a {suffix} file, or cut short: {one_line(error)}") from error


def _zstd(data: bytes) -> bytes:
    with pa.input_stream(pa.py_buffer(data), compression="zstd") as stream:
        return bytes(stream.read())


def _read_parquet(data: bytes) -> pa.Table:
    return pa.parquet.read_table(pa.BufferReader(data))


def _read_csv(data: bytes, preferred: str = ",") -> pa.Table:
    data = _utf8(data)
    if not data.strip():
        raise InstructionTableError("the table is empty")
    data, separator = _separator(data, preferred)
    parse = pa.csv.ParseOptions(newlines_in_values=True, delimiter=separator)
    # One line may hold a very long text; Arrow refuses lines beyond its block.
    read = pa.csv.ReadOptions(block_size=16 << 20)
    with pa.csv.open_csv(io.BytesIO(data), read, parse) as head:
        names = head.schema.names
    # All columns are declared strings: inference would turn the id "007" into 7, and the text "NA" into null.
    convert = pa.csv.ConvertOptions(column_types={name: pa.string() for name in names}, strings_can_be_null=False)
    table = pa.csv.read_csv(io.BytesIO(data), read, parse, convert)
    for place, name in enumerate(table.column_names):
        if name in KNOWN_COLUMNS:
            column = table.column(place)
            missing = pc.is_in(column, pa.array(_CSV_MISSING))
            table = table.set_column(place, name, pc.if_else(missing, pa.scalar(None, pa.string()), column))
    return table


def _read_tsv(data: bytes) -> pa.Table:
    return _read_csv(data, "\t")


def _separator(data: bytes, preferred: str) -> tuple[bytes, str]:
    """The table from its header on, and the separator under which the header names most columns that vrshq knows."""
    head = data[: 64 << 10].decode("utf-8", "replace")
    if head.startswith("sep="):  # Excel's own line above the header
        data = data.split(b"\n", 1)[-1]
        head = head.split("\n", 1)[-1]

    def known(separator: str) -> int:
        names = next(csv.reader(io.StringIO(head), delimiter=separator), [])
        return len(set(KNOWN_COLUMNS).intersection(names))

    candidates = [preferred, *(one for one in _SEPARATORS if one != preferred)]
    best = max(candidates, key=known)
    other = max(_OTHER_SEPARATORS, key=known)
    if known(other) > max(1, known(best)):
        expected = ", ".join(_SEPARATORS.values())
        raise InstructionTableError(f"its columns are separated by {other!r}; expected {expected}")
    return data, best


def _utf8(data: bytes) -> bytes:
    """The text in UTF-8, without a byte order mark: UTF-16 and UTF-32 are found by theirs, or by the header's zeros."""
    if data.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return data.decode("utf-32").encode()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16").encode()
    for encoding, zeros in (("utf-16-le", data[1:17:2]), ("utf-16-be", data[0:16:2])):
        if len(zeros) == 8 and not any(zeros):
            return data.decode(encoding).encode()
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InstructionTableError(
            f"line {line} has the byte 0x{data[error.start]:02x}, which is not UTF-8; "
            f"the file looks like {_guess(data)}; save it as UTF-8 or UTF-16"
        ) from None
    return data


def _guess(data: bytes) -> str:
    """The encodings, of the widespread ones, that a text which is not UTF-8 may be in; for messages."""
    high = [byte >= 0x80 for byte in data]
    alone = sum(
        here and not before and not after for before, here, after in zip(high, high[1:], high[2:], strict=False)
    )
    if 2 * alone >= sum(high):  # single letters with accents between ASCII letters
        return "Windows-1252 or ISO-8859-1 (Latin-1)"
    fitting = []
    for encoding, name in (
        ("shift_jis", "Shift-JIS"),
        ("euc_kr", "EUC-KR"),
        ("big5", "Big5"),
        ("gb18030", "GB18030"),
        ("cp1251", "Windows-1251"),
    ):
        try:
            data.decode(encoding)
        except UnicodeDecodeError:
            continue
        fitting.append(name)
    return " or ".join(fitting) or "a binary file"


def _read_lines(data: bytes) -> pa.Table:
    # Not with Arrow's reader: it turns date-like texts into timestamps and refuses ids of mixed types.
    def rows() -> Iterable[tuple[str, Any]]:
        for number, line in enumerate(io.BytesIO(_utf8(data)), start=1):
            if line.strip():
                yield f"line {number}", _parsed(line, f"line {number} is not JSON")

    return _from_rows(rows())


def _read_json(data: bytes) -> pa.Table:
    """A `.json` file: an array of objects, or one object a line."""
    data = _utf8(data)
    if not data.lstrip().startswith(b"["):
        return _read_lines(data)
    rows = _parsed(data, "it is not JSON")
    return _from_rows((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _parsed(text: bytes, complaint: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InstructionTableError(f"{complaint}: {one_line(error)}") from None


def _from_rows(rows: Iterable[tuple[str, Any]]) -> pa.Table:
    """A table of JSON objects, each with the name of its place in the file."""
    columns: dict[str, list[Any]] = {}
    for count, (place, row) in enumerate(rows):
        if not isinstance(row, dict):
            raise InstructionTableError(f"{place} is not a JSON object")
        columns |= {name: [None] * count for name in row if name not in columns}
        for name, values in columns.items():
            value = row.get(name)
            values.append(_known_value(value, name, place) if name in KNOWN_COLUMNS else value)
    return pa.table(
        {
            name: pa.array([_encodable(value) for value in values], pa.string())
            if name in KNOWN_COLUMNS
            else _json_array(values)
            for name, values in columns.items()
        }
    )


def _known_value(value: Any, name: str, place: str) -> str | None:
    """A JSON value of a column that vrshq knows as a string: integers in digits, missing values None."""
    if value is None or isinstance(value, str):
        return value
    kind = {bool: "a boolean", list: "a list", dict: "an object"}.get(type(value))
    if kind is None:
        if not math.isfinite(value):
            return None
        if name != "video_uri" and (isinstance(value, int) or (value.is_integer() and abs(value) < EXACT_FLOATS)):
            return str(int(value))
        kind = f"the number {value}"
    raise InstructionTableError(f"{place}: {name} is {kind}; expected {expected_type(name)}")


def expected_type(name: str) -> str:
    """The types of a column that vrshq knows, in words."""
    if name in SPAN_COLUMNS:
        return "the number of a frame, from 0"
    return "a string" if name == "video_uri" else "a string or an integer"


def _json_array(values: list[Any]) -> pa.Array:
    """Values of one simple type as an array of that type; all others as an array of strings.

    Values that are not strings become their JSON. This concerns objects (Arrow would give each of them the keys of all),
    values of several types, and numbers too big for Arrow.
    """
    try:
        array = pa.array(values)
        if pa.types.is_null(array.type) or carried_type(array.type) == array.type:
            return array
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        pass
    return pa.array([_encodable(json_string(value)) for value in values], pa.string())


def _encodable(text: str | None) -> str | None:
    """The text with lone surrogates replaced, which JSON can spell but UTF-8 cannot encode."""
    return text and text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def one_line(error: Exception) -> str:
    """The message of an error on one line, at most 300 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


FORMATS: dict[str, Callable[[bytes], pa.Table]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".zst": _zstd}
