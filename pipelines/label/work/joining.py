"""The pieces of a long video joined to one answer: objects by the agreement of their masks, masks window by window."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.batch import Failure
from vrshq.operators.masks.rle import EncodedMask, intersection
from vrshq.operators.masks.windows import Answers, WindowMasks, WindowStore
from vrshq.pipelines.label.tables.schema import ERRORS, MASKS, STAGES, TOKENS, TRACKS

# The run directory of the pieces, in that of the run. The piece number 3 of a unit has the video_id UNIT-000003 there.
PIECES = "state/pieces"
# Objects of two pieces are one object if their masks on the frames that both pieces have overlap by more than this.
_SAME_IOU = 0.5
_MASK_COLUMNS = ["instruction_id", "object_id", "frame_index", "rle", "area", "bbox", "object_score"]

Unit = dict[str, Any]
Row = dict[str, Any]
_Shown = dict[tuple[str, int], dict[int, tuple[EncodedMask, float]]]  # (instruction, object) -> frame -> mask and score


@dataclass
class _Piece:
    """A piece of a unit.

    Attributes:
        unit_id: its id in the run of pieces.
        tracks: its rows of `tracks/`, by instruction.
        frames: the numbers of its frames in the video; empty where the video was not opened.
        first: index of its first frame among the unit's frames.
        own: indices of the frames that it answers.
        ids: by instruction, the number in the joined answer of each of its objects.
    """

    unit_id: str
    tracks: dict[str, Row]
    frames: range = range(0)
    first: int = 0
    own: range = range(0)
    ids: dict[str, dict[int, int]] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        """Index after its last frame among the unit's frames."""
        return self.first + len(self.frames)

    @property
    def any(self) -> Row:
        """A row: of the columns that all instructions have in common."""
        return next(iter(self.tracks.values()))

    def index(self, frame: int) -> int:
        """The index, among the unit's frames, of a frame given by its number in the video."""
        return self.first + self.frames.index(frame)


class Joiner:
    """Joins the pieces of long units.

    Args:
        pieces: the run directory of the pieces, all of them finished.
        ids: ids of the pieces of each unit, in the order of time; see `made_pieces`.
        one_object: whether every answer of the model has one object.
    """

    def __init__(self, pieces: RunDirectory, ids: Mapping[str, Sequence[str]], *, one_object: bool) -> None:
        self._ids, self._one_object = ids, one_object
        self._tracks, self._tokens = pieces.reader("tracks", TRACKS), pieces.reader("tokens", TOKENS)
        self._masks, self._errors = pieces.reader("masks", MASKS), pieces.reader("errors", ERRORS)

    def __contains__(self, unit_id: str) -> bool:
        return unit_id in self._ids

    def join(self, unit: Unit, store_of: Callable[[Unit], WindowStore]) -> Unit:
        """The columns of a unit whose pieces are labelled, as after all operators; its masks are written to the store.

        Args:
            unit: its row of the manifest.
            store_of: makes the store for the unit, whose frames and size are then known.
        """
        pieces = self._pieces(unit["unit_id"])
        unit = {**unit, **_about(pieces), "errors": self._failures(unit, pieces)}
        places = {name: place for place, name in enumerate(unit["instruction_ids"]) if unit["errors"][place] is None}
        if not places:
            return unit
        store = store_of(unit)
        agreed = self._match(pieces, places, (unit["height"], unit["width"]), store.reached)
        objects = {
            place: len({number for piece in pieces for number in piece.ids[name].values()})
            for name, place in places.items()
        }
        masks = WindowMasks(store, unit["num_frames"], (unit["height"], unit["width"]), objects)
        self._write(pieces, places, masks)
        summed = masks.summed()
        tokens = _by_instruction(self._tokens.read([piece.unit_id for piece in pieces]).to_pylist())
        columns: dict[str, list[Any]] = defaultdict(lambda: [None] * len(unit["texts"]))
        for name, place in places.items():
            joined = _joined(pieces, name, tokens[name], agreed[name])
            for column, value in {**joined, "num_objects": objects[place], "summed": summed[place]}.items():
                columns[column][place] = value
        rows = unit["num_frames"] * sum(max(1, count) for count in objects.values())
        width = next(row["d"] for rows in tokens.values() for row in rows)
        return {**unit, **columns, "d": width, "windows": store, "mask_rows": rows}

    def _pieces(self, unit_id: str) -> list[_Piece]:
        """The pieces of a unit. Those behind the end of a video whose header promised more frames are left out."""
        rows: dict[str, dict[str, Row]] = defaultdict(dict)
        for row in self._tracks.read(self._ids[unit_id]).to_pylist():
            rows[row["video_id"]][row["instruction_id"]] = row
        pieces = [_Piece(one, rows[name]) for one, name in zip(self._ids[unit_id], sorted(rows), strict=True)]
        for piece in pieces:
            if piece.any["start"] is not None:
                piece.frames = range(piece.any["start"], piece.any["end"], piece.any["every"])
        last = next((place for place, piece in enumerate(pieces) if piece.frames and _is_last(piece)), len(pieces) - 1)
        pieces = pieces[: last + 1]
        if all(piece.frames for piece in pieces):
            for piece in pieces:
                piece.first = (piece.frames.start - pieces[0].frames.start) // piece.frames.step
            cuts = [(one.stop + after.first) // 2 for one, after in itertools.pairwise(pieces)]
            for piece, start, stop in zip(pieces, [0, *cuts], [*cuts, pieces[-1].stop], strict=True):
                piece.own = range(start, stop)
        return pieces

    def _failures(self, unit: Unit, pieces: Sequence[_Piece]) -> list[Failure | None]:
        """The first failure of each instruction in any piece."""
        found: dict[str, Failure] = {}
        failed = [place for place, piece in enumerate(pieces) if _has_errors(piece)]
        for place in failed:
            for row in self._errors.read([pieces[place].unit_id]).to_pylist():
                message = f"piece {place + 1} of {len(pieces)}: {row['message']}"
                failure = Failure(stage=row["stage"], error_type=row["error_type"], message=message)
                found.setdefault(row["instruction_id"], failure)
        return [found.get(name) for name in unit["instruction_ids"]]

    def _match(
        self, pieces: Sequence[_Piece], names: Iterable[str], size: tuple[int, int], reached: Callable[[], None]
    ) -> dict[str, list[float]]:
        """Gives the objects of all pieces their numbers. Returns, by instruction, the IoUs of what was joined.

        Calls `reached` after each piece.
        """
        agreed: dict[str, list[float]] = {name: [] for name in names}
        numbers = dict.fromkeys(agreed, 0)  # objects so far
        before: _Piece | None = None
        tail: _Shown = {}
        for piece, after in zip(pieces, [*pieces[1:], None], strict=True):
            table = self._table(piece)
            head = _shown(table, piece, range(piece.first, before.stop)) if before else {}
            for name, ious in agreed.items():
                own = range(1 if self._one_object else piece.tracks[name]["num_objects"])
                ids: dict[int, int] = {}
                for iou, old, new in self._pairs(name, before, own, tail, head, size):
                    if new not in ids and before and before.ids[name][old] not in ids.values():
                        ids[new] = before.ids[name][old]
                        ious.append(iou)
                for new in own:
                    if new not in ids:
                        ids[new] = 0 if self._one_object else numbers[name]
                        numbers[name] += 1
                piece.ids[name] = ids
            tail = _shown(table, piece, range(after.first, piece.stop)) if after else {}
            before = piece
            reached()
        return agreed

    def _pairs(
        self, name: str, before: _Piece | None, own: range, tail: _Shown, head: _Shown, size: tuple[int, int]
    ) -> list[tuple[float, int, int]]:
        """IoU, number in the piece before, and number in this piece, of objects that may be one; the highest IoU first."""
        pairs = []
        for old in before.ids[name] if before else ():
            for new in own:
                iou = _iou(tail.get((name, old), {}), head.get((name, new), {}), size)
                if iou is not None and (iou > _SAME_IOU or self._one_object):
                    pairs.append((iou, old, new))
        return sorted(pairs, key=lambda pair: (-pair[0], *pair[1:]))

    def _write(self, pieces: Sequence[_Piece], places: Mapping[str, int], masks: WindowMasks) -> None:
        """Writes all windows, in the order of time."""
        made: dict[int, Answers] = {}
        for piece in pieces:
            table, length = self._table(piece), masks.store.length
            for number in range(piece.own.start // length, -(-piece.own.stop // length)):
                window = masks.frames(number)
                answers = made.setdefault(number, masks.blank(number))
                part = range(max(window.start, piece.own.start), min(window.stop, piece.own.stop))
                for (name, old), shown in _shown(table, piece, part).items():
                    if name not in places or old not in piece.ids[name]:
                        continue  # an instruction that failed elsewhere, or the empty masks of one without an object
                    one = answers[places[name]][piece.ids[name][old]]
                    for index, (mask, score) in shown.items():
                        one.masks[index - window.start], one.scores[index - window.start] = mask, score
                if part.stop == window.stop:
                    # not joined to what an earlier attempt wrote: it may have had other objects
                    masks.put(number, made.pop(number))
                    masks.store.reached()

    def _table(self, piece: _Piece) -> pa.Table:
        return self._masks.read([piece.unit_id], _MASK_COLUMNS)


def made_pieces(run: RunDirectory) -> tuple[RunDirectory, dict[str, list[str]]]:
    """The run directory of the pieces, and the ids of the pieces of each unit that was cut, in the order of time."""
    pieces = RunDirectory(run.folder.uri_of(PIECES), run.folder.patience_s)
    found: dict[str, list[str]] = {}
    if pieces.has_manifest():
        rows = pieces.read_manifest().select(["video_id", "unit_id"]).sort_by("video_id").to_pylist()
        for row in rows:
            found.setdefault(row["video_id"].rpartition("-")[0], []).append(row["unit_id"])
    return pieces, found


def _shown(table: pa.Table, piece: _Piece, frames: range) -> _Shown:
    """What the rows of a piece have on some frames, which are indices among the unit's frames."""
    numbers = piece.frames[frames.start - piece.first : frames.stop - piece.first]
    found: _Shown = defaultdict(dict)
    if numbers:
        frame = table["frame_index"]
        inside = pc.and_(pc.greater_equal(frame, numbers[0]), pc.less_equal(frame, numbers[-1]))
        for row in table.filter(inside).to_pylist():
            mask = EncodedMask(row["rle"], row["area"], tuple(row["bbox"]))
            key = row["instruction_id"], row["object_id"]
            found[key][piece.index(row["frame_index"])] = mask, row["object_score"]
    return found


def _iou(
    one: Mapping[int, tuple[EncodedMask, float]], other: Mapping[int, tuple[EncodedMask, float]], size: tuple[int, int]
) -> float | None:
    """The IoU of two objects over all frames that both have; None where none of them has a pixel there."""
    common = total = 0
    for frame in one.keys() & other.keys():
        (first, _), (second, _) = one[frame], other[frame]
        both = intersection([first.rle, second.rle], *size) if first.area and second.area else 0
        common += both
        total += first.area + second.area - both
    return common / total if total else None


def _is_last(piece: _Piece) -> bool:
    return bool(piece.any["end"] >= piece.any["num_frames"])


def _has_errors(piece: _Piece) -> bool:
    return any(row["status"] == "error" for row in piece.tracks.values())


def _about(pieces: Sequence[_Piece]) -> Unit:
    """The columns of the unit that all of its instructions have in common."""
    seconds = {stage: sum((piece.any["seconds"] or {}).get(stage) or 0.0 for piece in pieces) for stage in STAGES}
    about: Unit = {"seconds": seconds, "attempt": max(piece.any["attempts"] for piece in pieces)}
    if not all(piece.frames for piece in pieces):
        return about
    row = pieces[0].any
    return {
        **about,
        **{name: row[name] for name in ("height", "width", "pixel_aspect")},
        "num_frames": pieces[-1].stop,
        "total_frames": row["num_frames"],
        "frame_range": [pieces[0].frames.start, pieces[-1].any["end"], row["every"]],
    }


def _joined(pieces: Sequence[_Piece], name: str, tokens: Sequence[Row], agreed: Sequence[float]) -> Unit:
    """The columns of an instruction: those by frame one after the other, the others of the piece that shows it best."""
    rows = [piece.tracks[name] for piece in pieces]
    best = max(range(len(rows)), key=lambda place: rows[place]["presence"] or 0.0)
    joined: dict[str, list[Any]] = {column: [] for column in ("sampled_frames", "similarities", "seg", "scores")}
    probs: list[float] | None = []
    for piece, row, token in zip(pieces, rows, tokens, strict=True):
        sampled = [piece.index(frame) for frame in row["sampled_frames"]]
        kept = [place for place, index in enumerate(sampled) if index in piece.own]
        joined["sampled_frames"] += [sampled[place] for place in kept]
        # of several objects, as many values as frames are no values of frames
        rows_kept = kept if row["num_objects"] == 1 else range(len(sampled))
        joined["similarities"] += _rows_at(row["similarities"], rows_kept, len(sampled))
        joined["scores"] += _rows_at(row["object_scores"], rows_kept, len(sampled))
        joined["seg"] += _rows_at(token["seg"], rows_kept, len(sampled), token["d"])
        own = slice(piece.own.start - piece.first, piece.own.stop - piece.first)
        probs = None if probs is None or row["clip_probs"] is None else probs + row["clip_probs"][own]
    keyframe = rows[best]["keyframe_index"]
    return {
        **{column: joined[column] for column in ("sampled_frames", "seg")},
        "similarities": joined["similarities"] or None,
        "object_scores": [joined["scores"]] if joined["scores"] else None,
        "clip_probs": probs,
        "tak": tokens[best]["tak"],
        "keyframes": None if keyframe is None else [pieces[best].index(keyframe)],
        "presence": rows[best]["presence"],
        "answers": _answer(pieces, rows),
        "notes": _note(pieces, rows, agreed),
    }


def _rows_at(values: Sequence[Any] | None, kept: Sequence[int], count: int, width: int = 1) -> list[Any]:
    """The values of some frames; all values where there is not one row for each frame, as with several objects."""
    values = list(values or ())
    if len(values) != count * width:
        return values
    return [value for place in kept for value in values[place * width : (place + 1) * width]]


def _answer(pieces: Sequence[_Piece], rows: Sequence[Row]) -> str | None:
    answers = [row["answer"] for row in rows]
    if len(set(answers)) == 1:
        return None if answers[0] is None else str(answers[0])
    spans = [f"frames {piece.frames[0]} to {piece.frames[-1]}" for piece in pieces]
    return "; ".join(f"{span}: {answer}" for span, answer in zip(spans, answers, strict=True) if answer)


def _note(pieces: Sequence[_Piece], rows: Sequence[Row], agreed: Sequence[float]) -> str:
    said = f"joined from {len(pieces)} pieces"
    if agreed:
        said += f", whose masks agree by {sum(agreed) / len(agreed):.2f} (IoU; at least {min(agreed):.2f})"
    return "; ".join([*dict.fromkeys(row["notes"] for row in rows if row["notes"]), said])


def _by_instruction(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows of `tokens/` by instruction, in the order of the pieces, which is that of their video ids."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["video_id"]):
        found[row["instruction_id"]].append(row)
    return found
