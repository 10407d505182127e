"""The manifest: the rows of the instruction table, divided into units."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.storage.uris import join_uri
from vrshq.pipelines.label.tables.carried import COMPACT, SPAN_COLUMNS, carried_json
from vrshq.pipelines.label.tables.errors import InstructionTableError
from vrshq.pipelines.label.tables.schema import MANIFEST

# Rows turned into Python objects at a time: bounds the memory of a table of millions.
SLICE_ROWS = 50_000


def build_manifest(table: pa.Table, *, videos_root: str | None, base: str, max_instructions_per_unit: int) -> pa.Table:
    """The units of a table from `read_instructions`. A unit is one video, or one span of it, with up to N instructions.

    Args:
        table: rows in any order; the manifest does not depend on it.
        videos_root: root of relative video uris; None for `base`.
        base: the folder of the instruction table.
        max_instructions_per_unit: N, at least 1.

    Returns:
        `vrshq.pipelines.label.tables.schema.MANIFEST`, ordered by video_id, span (whole videos last) and instruction_id, ids in
        plain string order (by UTF-8 bytes, so "10" comes before "2"). `unit_id` is 16 hex digits of the SHA-256 of the
        video_id, the (instruction_id, text) pairs and the span, if there is one; neither uris nor carried columns enter it.

    Raises:
        InstructionTableError: two units with the same id.
    """
    if max_instructions_per_unit < 1:
        raise ValueError(f"max_instructions_per_unit must be at least 1, not {max_instructions_per_unit}")
    for name in SPAN_COLUMNS:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.int32()))
    keys = [(name, "ascending") for name in ("video_id", *SPAN_COLUMNS, "instruction_id")]
    order = pc.sort_indices(table, sort_keys=keys)
    starts = _unit_starts(_span_keys(table).take(order), max_instructions_per_unit)
    root = videos_root or base or "."  # join_uri leaves paths relative where the root is empty
    batches = [
        _units(table.take(order[first:last]), unit_starts - first, root)
        for first, last, unit_starts in _slices(starts, table.num_rows)
    ]
    manifest = pa.Table.from_batches(batches, schema=MANIFEST)
    if pc.count_distinct(manifest["unit_id"]).as_py() != manifest.num_rows:
        raise InstructionTableError("two units have the same unit_id; rename an instruction_id to tell them apart")
    return manifest


def _span_keys(table: pa.Table) -> pa.ChunkedArray:
    """A text for each row that is the same for the rows of one span of one video."""
    bounds = [table[name].cast(pa.string()).fill_null("") for name in SPAN_COLUMNS]
    return pc.binary_join_element_wise(table["video_id"], *bounds, "\x00")


def _unit_starts(keys: pa.ChunkedArray, size: int) -> np.ndarray:
    """The row at which each unit begins, (U,) int64, for sorted `_span_keys`."""
    codes = pc.dictionary_encode(keys.combine_chunks()).indices.to_numpy()
    rows = np.arange(len(codes))
    video_starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    within = rows - np.repeat(video_starts, np.diff(np.r_[video_starts, len(codes)]))
    starts: np.ndarray = rows[within % size == 0]
    return starts


def _slices(starts: np.ndarray, num_rows: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Slices of whole units, of about `SLICE_ROWS` rows: (first row, row after the last, first rows of the units)."""
    begin = 0
    while begin < len(starts):
        end = max(begin + 1, int(np.searchsorted(starts, starts[begin] + SLICE_ROWS)))
        last = int(starts[end]) if end < len(starts) else num_rows
        yield int(starts[begin]), last, starts[begin:end]
        begin = end


def _units(rows: pa.Table, starts: np.ndarray, root: str) -> pa.RecordBatch:
    """The manifest of sorted rows, whose units begin at `starts`."""
    ends = [*starts[1:].tolist(), rows.num_rows]
    offsets = pa.array([0, *ends], pa.int32())
    spans = rows.select(SPAN_COLUMNS).take(pa.array(starts))
    bounds = list(zip(*spans.to_pydict().values(), strict=True))
    videos = rows.select(["video_id", "video_uri"]).take(pa.array(starts)).to_pydict()
    ids, texts = rows["instruction_id"].to_pylist(), rows["text"].to_pylist()
    units = zip(videos["video_id"], bounds, starts.tolist(), ends, strict=True)
    columns = [
        pa.array([_unit_id(video, span, ids[first:last], texts[first:last]) for video, span, first, last in units]),
        pa.array(videos["video_id"]),
        pa.array([join_uri(root, uri) for uri in videos["video_uri"]]),
        *(
            pa.ListArray.from_arrays(offsets, pa.array(values, pa.string()))
            for values in (ids, texts, carried_json(rows))
        ),
        *(spans[name].combine_chunks() for name in SPAN_COLUMNS),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=MANIFEST)


def _unit_id(video_id: str, span: tuple[int | None, ...], instruction_ids: list[str], texts: list[str]) -> str:
    limited = [] if span == (None, None) else [span]
    content = COMPACT.encode([video_id, list(zip(instruction_ids, texts, strict=True)), *limited])
    return hashlib.sha256(content.encode()).hexdigest()[:16]
