"""The instruction table: read and checked.

The columns that vrshq knows are `video_uri`, `instruction_id`, `text` and, if given, `video_id`, `start` and `end`. All others
are *carried*: they travel through the run as one JSON string per instruction and come out again as columns of `tracks/`.

A table with a mistake is refused before work starts, in one line that names the item. The content of a *text* is never
a mistake: an empty or missing text, a very long one, HTML or a path is data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.storage.errors import StorageError
from vrshq.pipelines.label.asked.table_files import TableFiles, read_files, table_folder
from vrshq.pipelines.label.asked.table_formats import EXACT_FLOATS, expected_type, one_line
from vrshq.pipelines.label.tables.carried import SPAN_COLUMNS, carried_schema, is_string
from vrshq.pipelines.label.tables.errors import InstructionTableError

REQUIRED_COLUMNS = ("video_uri", "instruction_id", "text")


# An instruction table: its uri, or the table itself as Arrow or as one mapping for each row.
Instructions: TypeAlias = str | pa.Table | Sequence[Mapping[str, Any]]


def read_instructions(source: Instructions) -> pa.Table:
    """The instruction table, checked, in the same form for all formats.

    Args:
        source: the table itself, or its uri: a `.parquet`, `.jsonl` (`.ndjson`), `.json`, `.csv` or `.tsv` file, also with
            `.gz` or `.zst`; a folder of such files, as Spark, Ray Data and Daft write it; or a pattern with `*`, `?` or
            `[...]`. Local or remote.

    Returns:
        Rows in the order of the files and their rows: `video_id`, `video_uri`, `instruction_id`, `text` (all string, none
        null); `start` and `end` (int32, numbers of frames, null: not limited) where the table has them; then the table's
        other columns as they are. A missing `video_id` is the `video_uri` as given, a missing text
        is "". JSON's NaN and Infinity, Parquet's NaN and the NaN that pandas writes into CSV are missing values of these
        columns, like null. Integer ids become strings, and so do whole numbers that are stored as floats. CSV has no types,
        so its other columns are strings ("007" stays "007"); a JSON column with values of several types becomes their JSON.

    Raises:
        InstructionTableError: the file cannot be read or is no table; a column is missing, doubled or named like a column
            of `tracks/`; an id, uri or text is of a type that is neither string nor integer; an id or uri is missing or
            empty; a (video_id, instruction_id) occurs twice; a video_id has two uris; or the table has no row. Rows count
            from 1, without the header.
    """
    if not isinstance(source, str):
        try:
            return _checked(_in_memory(source))
        except InstructionTableError as error:
            raise InstructionTableError(f"the instructions: {error}") from None
    uri = source
    try:
        return _checked(read_files(uri))
    except InstructionTableError as error:
        raise InstructionTableError(f"{uri}: {error}") from None
    except StorageError as error:
        raise InstructionTableError(str(error)) from error
    except ValueError as error:  # a name that no store may have
        raise InstructionTableError(f"{uri}: {error}") from error


def folder_of(source: Instructions) -> str:
    """The folder below which relative video uris of a table lie: the table's own; this process's for a table in memory."""
    return table_folder(source) if isinstance(source, str) else str(Path.cwd())


def _in_memory(source: pa.Table | Sequence[Mapping[str, Any]]) -> TableFiles:
    """A table that the caller made, as if it was a file."""
    if isinstance(source, pa.Table):
        return TableFiles(source, [("", source.num_rows)])
    names = dict.fromkeys(name for row in source for name in row)
    try:
        table = pa.table({name: [row.get(name) for row in source] for name in names})
    except (pa.ArrowException, TypeError) as error:
        raise InstructionTableError(f"a column has values of several types ({one_line(error)})") from error
    return TableFiles(table, [("", len(source))])


def _checked(files: TableFiles) -> pa.Table:
    """The table in the form of `read_instructions`; raises InstructionTableError for its first mistake."""
    table = files.table
    names = table.column_names
    if table.num_rows == 0:
        raise InstructionTableError("the table is empty")
    for name in names:
        if names.count(name) > 1:
            raise InstructionTableError(f"column {name!r} occurs {names.count(name)} times")
    for name in REQUIRED_COLUMNS:
        if name not in names:
            raise InstructionTableError(f"column {name!r} is missing; found {', '.join(map(repr, names))}")
    uris = _string_column(files, "video_uri")
    ids = _string_column(files, "instruction_id")
    texts = _string_column(files, "text").fill_null("")
    for name, column in (("video_uri", uris), ("instruction_id", ids)):
        blank = pc.index(pc.equal(column.fill_null(""), ""), True).as_py()
        if blank >= 0:
            raise InstructionTableError(
                f"{files.row(blank)}: {name} is {'empty' if column[blank].is_valid else 'null'}"
            )
    video_ids = uris
    if "video_id" in names:
        given = _string_column(files, "video_id")
        video_ids = pc.if_else(pc.equal(given.fill_null(""), ""), uris, given)
    known = pa.table({"video_id": video_ids, "video_uri": uris, "instruction_id": ids, "text": texts})
    _check_unique(known, files)
    for name in SPAN_COLUMNS:
        if name in names:
            known = known.append_column(name, _frame_column(files, name))
    if set(SPAN_COLUMNS) <= set(names):
        wrong = pc.index(pc.less(known["start"], known["end"]), False).as_py()
        if wrong >= 0:
            start, end = known["start"][wrong], known["end"][wrong]
            raise InstructionTableError(
                f"{files.row(wrong)}: start {start} is not below end {end}, the frame after the last"
            )
    for field in carried_schema(table):
        known = known.append_column(field.name, table[field.name])
    return known


def _string_column(files: TableFiles, name: str) -> pa.ChunkedArray:
    """A column that vrshq knows as strings, with nulls where a value is missing."""
    column = files.table[name]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_floating(kind):
        column = _whole_numbers(column.cast(pa.float64()), name, files)
        kind = column.type
    numbers = name != "video_uri" and pa.types.is_integer(kind)
    if not (is_string(kind) or pa.types.is_null(kind) or numbers):
        raise InstructionTableError(f"column {name!r} is of type {kind}; expected {expected_type(name)}")
    return column.cast(pa.string())


def _frame_column(files: TableFiles, name: str) -> pa.ChunkedArray:
    """A column of frame numbers as int32, with nulls where a value is missing."""
    column = files.table[name]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_floating(kind):
        column = _whole_numbers(column.cast(pa.float64()), name, files)
    elif is_string(kind):  # CSV has no types
        column = pc.utf8_trim_whitespace(column.cast(pa.string()))
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    elif not (pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise InstructionTableError(f"column {name!r} is of type {kind}; expected {expected_type(name)}")
    wrong = pc.index(pc.match_substring_regex(column.cast(pa.string()), "^[0-9]{1,9}$"), False).as_py()
    if wrong >= 0:
        raise InstructionTableError(f"{files.row(wrong)}: {name} is {column[wrong]}; expected {expected_type(name)}")
    return column.cast(pa.int32())


def _whole_numbers(column: pa.ChunkedArray, name: str, files: TableFiles) -> pa.ChunkedArray:
    """A float column as integers, with nulls for NaN and infinity; as nulls where all values are missing."""
    known = pc.if_else(pc.is_finite(column), column, pa.scalar(None, pa.float64()))
    if known.null_count == len(known):
        return pa.chunked_array([pa.nulls(len(known))])
    whole = pc.and_(pc.equal(known, pc.floor(known)), pc.less(pc.abs(known), EXACT_FLOATS))
    wrong = pc.index(whole, False).as_py()
    if wrong >= 0 or name == "video_uri":
        value = (
            known[max(wrong, 0)].as_py() if wrong >= 0 else next(one for one in known.to_pylist() if one is not None)
        )
        place = files.row(wrong) if wrong >= 0 else f"column {name!r}"
        raise InstructionTableError(f"{place}: {name} is the number {value}; expected {expected_type(name)}")
    return known.cast(pa.int64())


def _check_unique(known: pa.Table, files: TableFiles) -> None:
    """Raises InstructionTableError for a (video_id, instruction_id) that occurs twice, and for a video_id with two uris."""
    rows = known.select(["video_id", "video_uri", "instruction_id"]).append_column(
        "row", pa.array(range(known.num_rows))
    )
    groups = rows.group_by(["video_id", "instruction_id"]).aggregate([("row", "min"), ("row", "count")])
    twice = groups.filter(pc.greater(groups["row_count"], 1))
    if twice.num_rows:
        first, video, instruction = _earliest(twice, "video_id", "instruction_id")
        same = pc.and_(pc.equal(rows["video_id"], video), pc.equal(rows["instruction_id"], instruction))
        second = rows.filter(same)["row"][1].as_py()
        raise InstructionTableError(
            f"{files.rows(first, second)} have the same video_id {_short(video)} "
            f"and instruction_id {_short(instruction)}"
        )
    videos = rows.group_by("video_id").aggregate([("row", "min"), ("video_uri", "count_distinct")])
    torn = videos.filter(pc.greater(videos["video_uri_count_distinct"], 1))
    if torn.num_rows:
        first, video = _earliest(torn, "video_id")
        uri = known["video_uri"][first]
        other = rows.filter(pc.and_(pc.equal(rows["video_id"], video), pc.not_equal(rows["video_uri"], uri)))
        raise InstructionTableError(
            f"{files.rows(first, other['row'][0].as_py())} give video_id {_short(video)} two uris: "
            f"{_short(uri.as_py())} and {_short(other['video_uri'][0].as_py())}"
        )


def _earliest(groups: pa.Table, *columns: str) -> list[Any]:
    """`row_min` and the given columns of the group with the smallest `row_min`."""
    group = groups.sort_by("row_min").slice(0, 1)
    return [group[column][0].as_py() for column in ("row_min", *columns)]


def _short(text: str) -> str:
    """The text quoted, on one line, cut to 80 characters."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
