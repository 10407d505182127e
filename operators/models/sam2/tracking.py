"""Tracking over a video: the masks of all objects, frame after frame, from their prompted frames."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vrshq.operators.masks.holes import fill_holes
from vrshq.operators.models.family import Pauses, TrackState
from vrshq.operators.models.sam2.compiled import MOST_PROMPTED, sizes
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.refresh import Candidates
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.values import Decoded, Memory

CPU_OBJECTS = 2  # objects in one step at 512 px on a CPU; sixteen take some 15 % longer each


@dataclass(frozen=True)
class TrackedFrame:
    """One object's output on one frame.

    Attributes:
        position: the object's number.
        frame: frame index.
        low_res: (l, l) mask logits before hole filling.
        object_logit: logit of SAM2's object score.
        iou: predicted IoU.
        memory: the frame's memory, with B = 1; a view that holds the memories of its batch.
    """

    position: int
    frame: int
    low_res: Tensor
    object_logit: float
    iou: float
    memory: Memory


class _Row(NamedTuple):
    """A row of a batch. Rows that lie in one batch in their order join without a copy."""

    batch: Tensor
    place: int

    @staticmethod
    def join(rows: Sequence[_Row]) -> Tensor:
        """The rows as one tensor."""
        batch, first = rows[0]
        if all(row.batch is batch and row.place == first + step for step, row in enumerate(rows)):
            return batch[first : first + len(rows)]
        return torch.cat([batch[place : place + 1] for batch, place in rows])


class _Track:
    """The memories that later frames attend to, for one object in one direction."""

    def __init__(self, position: int, prompted: Mapping[int, Memory], num_memories: int, num_pointers: int) -> None:
        self.position = position
        self.prompted = dict(sorted(prompted.items()))
        self.start = min(prompted)
        self.refreshed: list[int] = []  # prompted frames that were not prompted in the beginning
        # with their frames, nearest first
        self.recent: deque[tuple[int, _Row]] = deque(maxlen=num_memories)
        self.pointers: deque[tuple[int, _Row]] = deque(maxlen=num_pointers)

    def kept(self) -> dict[str, list[tuple[int, _Row]]]:
        """What later frames of this direction attend to, besides the frames that were prompted in the beginning."""
        fresh = [(frame, self.prompted[frame]) for frame in self.refreshed]
        return {
            "recent": list(self.recent),
            "pointers": list(self.pointers),
            "refreshed": [(frame, _Row(memory.features, 0)) for frame, memory in fresh],
            "refreshed pointers": [(frame, _Row(memory.pointer, 0)) for frame, memory in fresh],
        }

    def restore(self, kept: Mapping[str, list[tuple[int, _Row]]]) -> None:
        """Takes what another track gave by `kept`."""
        for rows, own in ((self.recent, kept["recent"]), (self.pointers, kept["pointers"])):
            rows.clear()
            rows.extend(own)
        for (frame, features), (_, pointer) in zip(kept["refreshed"], kept["refreshed pointers"], strict=True):
            self._prompt(frame, Memory(_Row.join([features]), _Row.join([pointer])))

    def refresh(self, frame: int, memory: Memory) -> None:
        """Goes on from a frame as if it had been prompted, and from the prompted ones before; forgets what was tracked."""
        self._prompt(frame, memory)
        self.recent.clear()
        self.pointers.clear()

    def _prompt(self, frame: int, memory: Memory) -> None:
        if frame not in self.refreshed:
            self.refreshed.append(frame)
        self.prompted = dict(sorted({**self.prompted, frame: memory}.items()))

    def needs(self, frame: int, reverse: bool) -> bool:
        """Whether the frame is tracked in this direction: those before the first prompted frame are, going back."""
        return frame < self.start if reverse else frame > self.start and frame not in self.prompted

    def remember(self, frame: int, memory: Memory, row: int) -> None:
        self.recent.appendleft((frame, _Row(memory.features, row)))
        self.pointers.appendleft((frame, _Row(memory.pointer, row)))

    def forget(self, frame: int) -> None:
        """Drops what is too old for this frame. A row holds its whole batch, so none may outlive its use."""
        for kept in (self.recent, self.pointers):
            while kept and abs(frame - kept[-1][0]) > (kept.maxlen or 0):
                kept.pop()

    def seen_from(self, frame: int, reverse: bool) -> _Seen:
        """What a frame attends to. A memory's age is its distance, so prompted frames in between leave gaps."""
        ahead = [one for one in self.prompted if (one < frame if reverse else one > frame)]
        ordered = [one for one in self.prompted if one not in ahead] + ahead
        self.forget(frame)
        full = len(self.recent) == self.recent.maxlen and len(self.pointers) == self.pointers.maxlen
        return _Seen(
            [self.prompted[one] for one in ordered],
            len(ahead),
            [(abs(frame - one), memory) for one, memory in self.recent],
            [pointer for _, pointer in self.pointers],
            full and not ahead and not self.refreshed and len(self.prompted) <= MOST_PROMPTED,
        )


@dataclass(frozen=True)
class _Seen:
    """What one frame of one object attends to; the last `ahead` of the prompted frames come later than it.

    `steady`: it has all memories and pointers, so that the next frames see as many.
    """

    prompted: list[Memory]
    ahead: int
    recent: list[tuple[int, _Row]]
    pointers: list[_Row]
    steady: bool

    @property
    def shape(self) -> tuple[object, ...]:
        """Objects of equal shapes are tracked in one batch."""
        return len(self.prompted), self.ahead, tuple(age for age, _ in self.recent), len(self.pointers)


@torch.inference_mode()
def condition_all(
    segmenter: Segmenter,
    features: VideoFeatures,
    keyframes: dict[int, int],
    masks: dict[int, Tensor],
    hole_area: int,
) -> dict[int, tuple[Tensor, Memory]]:
    """Prompts SAM2 with the keyframe mask of each object.

    Args:
        segmenter: SAM2.
        features: the video's image features.
        keyframes: frame index of the keyframe, by object.
        masks: low-resolution logits (l, l), by object; resized to the image size and thresholded at 0.
        hole_area: see `fill_holes`.

    Returns:
        By object, the keyframe's final low-resolution logits (l, l) and its memory (B = 1). Objects with the same mask on the
        same keyframe have one memory.
    """
    device = next(segmenter.parameters()).device
    result: dict[int, tuple[Tensor, Memory]] = {}
    for frame, alike in itertools.groupby(sorted(keyframes, key=lambda one: keyframes[one]), key=keyframes.__getitem__):
        done: dict[int, Tensor] = {}  # masks of this frame's objects
        for position in alike:
            mask = segmenter.to_image_size(masks[position][None].to(device)) > 0
            # one copy to the host for all comparisons
            same = (torch.cat([*done.values()]) == mask).flatten(1).all(1).tolist() if done else []
            twin = next(itertools.compress(done, same), None)
            if twin is None:
                low_res, memory = segmenter.condition(features.get([frame]), mask, hole_area)
                result[position], done[position] = (low_res[0], memory), mask
            else:
                result[position] = result[twin]
    return result


@torch.inference_mode()
def prompt_all(
    segmenter: Segmenter,
    features: VideoFeatures,
    pairs: Sequence[tuple[int, int]],
    prompts: Sequence[Tensor],
    batch_size: int,
    hole_area: int,
) -> Iterator[list[TrackedFrame]]:
    """Decodes prompted frames from their prompts alone; their masks are final, and remembered as they are.

    Args:
        segmenter: SAM2.
        features: the video's image features.
        pairs: (frame, object) to decode.
        prompts: (k*d,) float32, by object.
        batch_size: pairs in one step.
        hole_area: see `fill_holes`; the memory is that of the mask before it.

    Yields:
        The outputs of each batch, by frame, so that each frame is encoded once.
    """
    device = next(segmenter.parameters()).device
    ordered = sorted(pairs)
    for begin in range(0, len(ordered), batch_size):
        part = ordered[begin : begin + batch_size]
        embeddings = torch.stack([prompts[number] for _, number in part]).to(device)
        decoded, memory = segmenter.decode_prompted(features.get([frame for frame, _ in part]), embeddings)
        filled = fill_holes(decoded.low_res, hole_area)
        yield [
            TrackedFrame(number, frame, filled[row], score, iou, memory.row(row))
            for row, ((frame, number), (score, iou)) in enumerate(zip(part, scores_of(decoded), strict=True))
        ]


def scores_of(decoded: Decoded) -> list[tuple[float, float]]:
    """The object logit and predicted IoU of each row, in one copy to the host."""
    pairs: list[tuple[float, float]] = torch.stack([decoded.object_logit, decoded.iou], dim=1).cpu().tolist()
    return pairs


@torch.inference_mode()
def propagate_all(
    segmenter: Segmenter,
    features: VideoFeatures,
    prompted: Mapping[int, Mapping[int, Memory]],
    num_frames: int,
    batch_size: int,
    *,
    backward: bool = True,
    pauses: Pauses | None = None,
    candidates: Candidates | None = None,
) -> Iterator[list[TrackedFrame]]:
    """Tracks all objects of a video: one sweep forward over the frames, then one back.

    Each object joins a sweep at the frame after (before) its first prompted frame and begins with the memories of its
    prompted frames alone, so the two sweeps are independent. Prompted frames are not tracked; those that lie ahead are seen,
    too, but without their pointers, as in SAM2. On a frame, objects with equally old memories are tracked in one batch. The
    features of a frame are freed after their last use.

    Args:
        segmenter: SAM2.
        features: the video's image features.
        prompted: memories of the prompted frames, by object and frame.
        num_frames: of the video.
        batch_size: objects in one step, at most.
        backward: whether there is a sweep back.
        pauses: makes the sweeps interruptible. What is computed for a window depends then on the state at its border alone.
        candidates: masks that may take over from tracked ones.

    Yields:
        The outputs of each batch; `TrackedFrame.position` is the object.
    """
    batch_size = segmenter.fitting(batch_size, CPU_OBJECTS)
    pointers = min(num_frames, segmenter.max_obj_ptrs_in_encoder) - 1
    begun = pauses.begun.get("sweep") if pauses else None
    for reverse in (False, True) if backward else (False,):
        if begun and begun.about["reverse"] and not reverse:
            continue
        tracks = [
            _Track(position, own, segmenter.num_maskmem - 1, pointers) for position, own in prompted.items() if own
        ]
        first, last = (choose((one.start for one in tracks), default=0) for choose in (min, max))
        frames = range(last - 1, -1, -1) if reverse else range(first + 1, num_frames)
        prompts = _Prompts()
        order = [frame for frame in frames if any(track.needs(frame, reverse) for track in tracks)]
        if begun and begun.about["reverse"] == reverse:
            order = order[order.index(begun.about["frame"]) + 1 :]
            _restore(tracks, begun, segmenter.device)
        for piece in _cut(order, pauses.length if pauses else 0):
            for step, frame in enumerate(piece):
                window = features.window()
                if step % window == 0:
                    features.prefetch(piece[step : step + window])
                for track in tracks:
                    track.forget(frame)
                for group in _groups(tracks, frame, reverse, batch_size, compiled=segmenter.compiled):
                    outputs = _track_group(segmenter, features, group, frame, prompts)
                    yield outputs if candidates is None else _refreshed(segmenter, features, group, outputs, candidates)
                prompts.next_frame()
                if reverse or not backward or frame >= last:
                    features.forget(frame)
            if pauses:
                state = _state_of(tracks, reverse, piece[-1])
                pauses.reached(state)
                # as after an interruption, so that there is one way to go on
                _restore(tracks, state, segmenter.device)
                features.begin_anew()


def _refreshed(
    segmenter: Segmenter,
    features: VideoFeatures,
    group: _Group,
    outputs: list[TrackedFrame],
    candidates: Candidates,
) -> list[TrackedFrame]:
    """The outputs of a group, with the candidates that take over."""
    result = []
    for (track, _), item in zip(group, outputs, strict=True):
        returned = partial(candidates.returned_iou, segmenter, features, item.frame, item.position)
        candidate = candidates.better(item.frame, item.position, item.object_logit, item.low_res, returned)
        if candidate is not None:
            low_res, memory = candidates.enter(segmenter, features, item.frame, candidate)
            track.refresh(item.frame, memory)
            item = replace(item, low_res=low_res, object_logit=candidate[0], memory=memory)
        result.append(item)
    return result


def _cut(order: list[int], length: int) -> Iterator[list[int]]:
    """The frames of a sweep, cut at the multiples of `length`; 0: in one piece."""
    for _, piece in itertools.groupby(order, key=lambda frame: frame // length if length else 0):
        yield list(piece)


def _state_of(tracks: Sequence[_Track], reverse: bool, frame: int) -> TrackState:
    """The state of a sweep after a frame."""
    tensors: dict[str, Tensor] = {}
    frames: dict[str, list[int]] = {}
    for track in tracks:
        for name, rows in track.kept().items():
            key = f"{track.position}.{name}"
            frames[key] = [one for one, _ in rows]
            if rows:
                tensors[key] = torch.cat([_Row.join([row]) for _, row in rows]).cpu().contiguous()
    return TrackState("sweep", tensors, {"reverse": reverse, "frame": frame, "frames": frames})


def _restore(tracks: Sequence[_Track], state: TrackState, device: torch.device) -> None:
    """Gives tracks the memories of a state."""
    for track in tracks:
        kept: dict[str, list[tuple[int, _Row]]] = {}
        for name in track.kept():
            key = f"{track.position}.{name}"
            batch = state.tensors[key].to(device) if key in state.tensors else torch.empty(0)
            kept[name] = [(frame, _Row(batch, place)) for place, frame in enumerate(state.about["frames"][key])]
        track.restore(kept)


_Group = list[tuple[_Track, _Seen]]


def _groups(
    tracks: Sequence[_Track], frame: int, reverse: bool, batch_size: int, *, compiled: bool = False
) -> Iterator[_Group]:
    """The tracks that need this frame, in batches of equal memory shapes; `compiled`: steady ones in few sizes."""
    by_shape: dict[tuple[object, ...], _Group] = {}
    for track in tracks:
        if track.needs(frame, reverse):
            seen = track.seen_from(frame, reverse)
            by_shape.setdefault((seen.shape, compiled and seen.steady), []).append((track, seen))
    for (_, cut), same in by_shape.items():
        rest = iter(same)
        for size in sizes(len(same), batch_size) if cut else [batch_size] * -(-len(same) // batch_size):
            yield list(itertools.islice(rest, size))


class _Prompts:
    """The joined memories of the prompted frames of a group, kept for the next frame, which mostly has the same groups."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, ...], list[Memory]] = {}
        self._now: dict[tuple[int, ...], list[Memory]] = {}

    def of(self, group: _Group) -> list[Memory]:
        key = tuple(id(memory) for _, seen in group for memory in seen.prompted)  # the tracks hold the memories
        if (joined := self._now.get(key) or self._last.get(key)) is None:
            joined = [Memory.concatenate(rows) for rows in zip(*(seen.prompted for _, seen in group), strict=True)]
        self._now[key] = joined
        return joined

    def next_frame(self) -> None:
        self._last, self._now = self._now, {}


def _track_group(
    segmenter: Segmenter, features: VideoFeatures, group: _Group, frame: int, prompts: _Prompts
) -> list[TrackedFrame]:
    image, like = features.get([frame]), group[0][1]
    recent = [_Row.join([seen.recent[place][1] for _, seen in group]) for place in range(len(like.recent))]
    pointers = [_Row.join([seen.pointers[place] for _, seen in group]) for place in range(len(like.pointers))]
    ages = [age for age, _ in like.recent]
    decoded: Decoded
    how: dict[str, Any] = {"ages": ages, "ahead": like.ahead, "steady": all(seen.steady for _, seen in group)}
    decoded, memory = segmenter.track(image, prompts.of(group), recent, pointers, **how)
    outputs = []
    for row, ((track, _), (score, iou)) in enumerate(zip(group, scores_of(decoded), strict=True)):
        track.remember(frame, memory, row)
        outputs.append(TrackedFrame(track.position, frame, decoded.low_res[row], score, iou, memory.row(row)))
    return outputs
