"""A run directory that grows: the rows of a table against the manifest that the run has.

Units that exist never change. The new rows of a table form units of their own at the end of the manifest, also where their
video has units already. So a finished unit stays finished, and a run that has grown has the rows of a fresh run on the whole
table; their grouping into units differs, and with it the last bits of scores. The manifest is one file that is replaced as a
whole.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vrshq.cluster.storage.run_directory import RunDirectory, RunDirectoryError
from vrshq.pipelines.label.tables.carried import SPAN_COLUMNS
from vrshq.pipelines.label.tables.schema import MANIFEST, TRACKS

# Items of each kind that a refusal lists.
_LISTED = 10
_KEYS = ["video_id", "instruction_id"]
_CONTENT = ["text", "carried", "span"]


class OtherInstructions(RunDirectoryError):  # noqa: N818 - reads as the sentence that it is
    """The run directory belongs to a run over other instructions. The message lists them, or names `--grow`."""


def continued_manifest(
    run: RunDirectory,
    stored: pa.Table,
    table: pa.Table,
    manifest: pa.Table,
    build: Callable[[pa.Table], pa.Table],
    *,
    grow: bool,
) -> pa.Table:
    """The manifest with which a run goes on.

    Args:
        run: the run directory.
        stored: its manifest.
        table: the instruction table, from `read_instructions`.
        manifest: the manifest of a fresh run on the table.
        build: makes a manifest of some rows of the table.
        grow: whether rows may be added.

    Returns:
        the stored units with the table's uris, and after them the units of the new rows.

    Raises:
        OtherInstructions: rows of the run changed or vanished, or there are new ones and `grow` is False.
    """
    if all(stored[name].equals(manifest[name]) for name in ("unit_id", "carried")):
        return manifest
    now = _rows(manifest)
    both = _rows(stored).join(now, keys=_KEYS, join_type="full outer", left_suffix="_was", right_suffix="_now")
    both = both.sort_by([(name, "ascending") for name in _KEYS])
    added = both.filter(pc.is_null(both["text_was"])).select(_KEYS)
    _refuse_changes(run, both)
    if not added.num_rows:
        return _moved(stored, manifest)
    if not grow:
        raise OtherInstructions(
            f"{run.uri} holds a run over {now.num_rows - added.num_rows:,} of this table's {now.num_rows:,} instructions; "
            f"add --grow to label the {added.num_rows:,} new ones too, or give another --output"
        )
    keys = table.select(_KEYS).append_column("row", pa.array(range(table.num_rows)))
    rows = keys.join(added, keys=_KEYS, join_type="left semi").sort_by("row")["row"]
    return pa.concat_tables([_moved(stored, manifest), build(table.take(rows))])


def write_manifest(run: RunDirectory, stored: pa.Table | None, manifest: pa.Table) -> None:
    """Writes a new or grown manifest, as a whole or not at all; nothing where the run has it already.

    Raises RunDirectoryError where the run's manifest is not `stored` any more, which was read for the plan.
    """
    now = run.read_manifest() if run.has_manifest() else None
    if now is not None and now.equals(manifest):
        return
    if now is not None and (stored is None or not now.equals(stored)):
        raise RunDirectoryError(f"another command has changed {run.uri} meanwhile; run the same command again")
    run.write_manifest(manifest)


def check_types(run: RunDirectory, carried: pa.Schema) -> None:
    """Raises OtherInstructions where a finished part of the run has other types for the table's own columns."""
    name = run.folder.any_name("tracks")
    if name is None:
        return
    with run.folder.open_read(name) as file:
        schema = pq.read_schema(file)
    was = {field.name: field.type for field in schema if field.name not in TRACKS.names}
    for field in carried:
        if was.get(field.name, field.type) != field.type:
            raise OtherInstructions(
                f"{run.uri} has column {field.name!r} as {was[field.name]}, this table as {field.type}; "
                "give it the type that it had, or give another --output"
            )


def _rows(manifest: pa.Table) -> pa.Table:
    """One row per instruction: its keys, its text, its span of the video and its carried columns."""
    units = pc.list_parent_indices(manifest["instruction_ids"])
    columns = [pc.list_flatten(manifest[name]) for name in ("instruction_ids", "texts", "carried")]
    bounds = [manifest[name].cast(pa.string()).fill_null("") for name in SPAN_COLUMNS]
    span = pc.binary_join_element_wise(*bounds, " to ").take(units)
    return pa.table([manifest["video_id"].take(units), *columns, span], names=[*_KEYS, *_CONTENT])


def _moved(stored: pa.Table, manifest: pa.Table) -> pa.Table:
    """The stored units with the uris that the table gives their videos now: a corpus may have moved."""
    rows = pc.index_in(stored["video_id"], manifest["video_id"].combine_chunks())
    place = stored.schema.get_field_index("video_uri")
    return stored.set_column(place, MANIFEST.field("video_uri"), manifest["video_uri"].take(rows)).cast(MANIFEST)


def _refuse_changes(run: RunDirectory, both: pa.Table) -> None:
    """Raises OtherInstructions where an instruction of the run has another text or other carried columns, or is gone."""
    gone = both.filter(pc.is_null(both["text_now"]))
    kept = both.filter(pc.and_(pc.is_valid(both["text_was"]), pc.is_valid(both["text_now"])))
    equal = [pc.equal(kept[f"{what}_was"], kept[f"{what}_now"]) for what in _CONTENT]
    same = functools.reduce(pc.and_, equal)
    changed = kept.filter(pc.invert(same))
    if not (gone.num_rows or changed.num_rows):
        return
    said = []
    for kind, rows in (("changed", changed), ("vanished", gone)):
        if rows.num_rows:
            items = "; ".join(_change(row) for row in rows.slice(0, _LISTED).to_pylist())
            more = f"; and {rows.num_rows - _LISTED:,} more" if rows.num_rows > _LISTED else ""
            said.append(f"{rows.num_rows:,} {kind}: {items}{more}")
    raise OtherInstructions(
        f"{run.uri} holds a run over other instructions, and a run can only grow. {'. '.join(said)}. "
        "Give the rows as they were, or another --output"
    )


def _change(row: dict[str, str]) -> str:
    name = f"{_short(row['video_id'])} {_short(row['instruction_id'])}"
    if row["text_now"] is None:
        return name
    what = next(what for what in ("text", "span", "carried") if row[f"{what}_was"] != row[f"{what}_now"])
    return f"{name} ({what} {_short(row[f'{what}_was'])} -> {_short(row[f'{what}_now'])})"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
