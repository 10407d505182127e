"""Carries every object's mask through its video, and encodes each frame's mask."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np
import torch

from vrshq.operators.batch import Batch, Made, Unit, map_units, once
from vrshq.operators.masks import rle
from vrshq.operators.masks.holes import fill_holes
from vrshq.operators.masks.object_masks import ObjectMasks
from vrshq.operators.masks.windows import Answers, WindowMasks, WindowStore
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.family import Pauses, Request, TrackConfig, TrackedObject, TrackState
from vrshq.operators.models.requests import presence_of, requests_of
from vrshq.operators.models.shared import family_of
from vrshq.operators.models.track_state import from_bytes, to_bytes
from vrshq.operators.video.prefetch import Behind

_STEPS = 2  # steps of tracking whose masks are encoded or wait for it; each holds its low-resolution logits


@dataclass(frozen=True, kw_only=True)
class PropagateConfig(TrackConfig):
    """How masks are carried through a video.

    Attributes:
        presence: instructions whose presence is at most this get empty masks on all frames; 0 leaves none out, as in the
            reference.
    """

    presence: float = 0.0


class Propagate:
    """Operator: carries each object's mask through the video.

    Cost: one image encoding per frame (none for frames that TKS encoded in the same actor) and, per frame and object, one
    step of memory attention, mask decoder and memory encoder. Holes are filled and masks encoded on a thread, beside the
    next step.

    In: `video` (live), `texts`, `prompts` (E lists of o lists of float32), `sampled_frames`; where keyframes are chosen
    `keyframes`, `object_scores` and `presence`; live `features` and `keyframe_logits` where TKS shares the actor.
    Out: per instruction, a list for each object of lists over the T frames: `rles` (COCO compressed counts), `areas` (pixels),
    `bboxes` (x, y, w, h), `frame_scores` (object logit; that of a prompted frame is its prompted decoding's). An
    instruction without an object has one with empty masks. `num_objects` (E ints). Where no keyframe was chosen,
    `object_scores` and `presence` of the prompted frames. Host memory: the RLEs of the unit, about 0.1-2 kB a mask; the
    frames themselves pass through in windows.

    A long unit has `windows` (live, a `WindowStore`): the masks go there window by window, with the state from which another
    attempt goes on, and the columns of masks are empty. Out, instead: `summed` (E `Summed`), and `mask_rows`, their number.
    Host memory is then that of two windows, and frames near a keyframe may be encoded twice.
    """

    name = "propagate"

    def __init__(self, config: PropagateConfig) -> None:
        self.config = config
        self.tracker = family_of(open_bundle(config.model)).tracker(config)

    def __call__(self, batch: Batch) -> Batch:
        """Runs the stage on every unit of the batch; errors of a unit become its error entry."""
        empty: Unit = {"rles": [], "areas": [], "bboxes": [], "frame_scores": [], "num_objects": []}
        if "windows" in batch:
            empty |= {"summed": None, "mask_rows": 0}
        return map_units(self.name, batch, self._propagate, empty)

    def _propagate(self, unit: Unit) -> Unit:
        video, count = unit["video"], len(unit["texts"])
        features = unit.get("features") or once(
            unit, "features", lambda: self.tracker.open(video, stays=unit.get("kept") is not None)
        )
        requests = requests_of(unit)
        if unit.get("windows") is not None and self.tracker.pauses:
            return {**self._in_windows(unit, features, requests), "features": features}
        answers: Answers = {
            position: [ObjectMasks(video.num_frames) for _ in request.objects] for position, request in requests.items()
        }
        prompted: dict[int, list[TrackedObject]] = {position: [] for position in requests}

        with Behind(_STEPS) as behind:
            for step in self.tracker.track(features, requests):
                for one in step:
                    objects = answers[one.key]
                    objects += [ObjectMasks(video.num_frames) for _ in range(one.number + 1 - len(objects))]
                    objects[one.number].scores[one.frame] = one.score
                    if one.prompted:
                        prompted[one.key].append(one)
                self._put(behind, features, step, answers)
        nothing = rle.encode(np.zeros((1, video.height, video.width), bool))[0]
        columns: dict[str, list[Any]] = {
            name: [None] * count for name in ("rles", "areas", "bboxes", "frame_scores", "num_objects")
        }
        scores, presence = (list(unit.get(name) or [None] * count) for name in ("object_scores", "presence"))
        for position, objects in answers.items():
            if scores[position] is None:
                scores[position] = _scores(prompted[position], len(objects))
                presence[position] = presence_of(scores[position])
            columns["num_objects"][position] = len(objects)
            shown = objects or [ObjectMasks(video.num_frames)]
            absent = self._is_absent(presence[position])
            masks = [[nothing if absent or mask is None else mask for mask in one.masks] for one in shown]
            columns["rles"][position] = [[mask.rle for mask in row] for row in masks]
            columns["areas"][position] = [[mask.area for mask in row] for row in masks]
            columns["bboxes"][position] = [[list(mask.bbox) for mask in row] for row in masks]
            columns["frame_scores"][position] = [one.scores for one in shown]
        return {**columns, "object_scores": scores, "presence": presence, "features": features}

    def _in_windows(self, unit: Unit, features: Any, requests: dict[int, Request]) -> Unit:
        """Tracks from where an earlier attempt has stopped, and stores each window when it is done."""
        video, store, count = unit["video"], unit["windows"], len(unit["texts"])
        objects = {position: len(request.objects) for position, request in requests.items()}
        masks = WindowMasks(store, video.num_frames, (video.height, video.width), objects)
        scores, presence = (list(unit.get(name) or [None] * count) for name in ("object_scores", "presence"))
        prompted: dict[int, list[TrackedObject]] = {position: [] for position in requests}
        made: dict[int, Answers] = {}  # windows that have outputs since the last border
        behind = Behind(_STEPS)

        def reached(state: TrackState) -> None:
            if state.name == "prompts":
                for position in requests:
                    if scores[position] is None:
                        scores[position] = _scores(prompted[position], objects[position])
                        presence[position] = presence_of(scores[position])
                masks.absent = {position for position in requests if self._is_absent(presence[position])}
            store.reached()
            behind.put(_store, masks, dict(made), state, {**unit, "object_scores": scores, "presence": presence})
            made.clear()

        masks.absent = {position for position in requests if self._is_absent(presence[position])}
        pauses = Pauses(store.length, _begun(store), reached)
        with behind:
            for step in self.tracker.track(features, requests, pauses):
                for one in step:
                    if one.prompted:
                        prompted[one.key].append(one)
                for number, part in groupby(step, lambda one: one.frame // store.length):
                    if number not in made:
                        made[number] = masks.blank(number)
                    of_window, first = list(part), masks.frames(number).start
                    for one in of_window:
                        made[number][one.key][one.number].scores[one.frame - first] = one.score
                    self._put(behind, features, of_window, made[number], first)
        summed = masks.summed()
        return {
            **{name: [] for name in ("rles", "areas", "bboxes", "frame_scores")},
            "num_objects": [objects.get(position) for position in range(count)],
            "object_scores": scores,
            "presence": presence,
            "summed": [summed.get(position) for position in range(count)],
            "mask_rows": video.num_frames * sum(max(1, number) for number in objects.values()),
        }

    def _is_absent(self, presence: float | None) -> bool:
        # as float32, the form in which tables state it and thresholds are found
        threshold = self.config.presence
        return bool(threshold) and presence is not None and bool(np.float32(presence) <= threshold)

    def _put(self, behind: Behind, features: Any, step: list[TrackedObject], answers: Answers, first: int = 0) -> None:
        """Has a step's masks encoded and put into the answers, which begin at the frame `first`."""
        # stacked here: a tracker may use its own buffers again in the next step
        low_res = torch.stack([one.low_res for one in step])
        behind.put(self._encode, features, low_res, step, answers, first, _stream(low_res))
        Made.masks += len(step)

    def _encode(
        self,
        features: Any,
        low_res: torch.Tensor,
        step: list[TrackedObject],
        answers: Answers,
        first: int,
        stream: torch.cuda.Stream | None,
    ) -> None:
        """Fills the holes of a step's masks, resizes them to the frame and puts their codes into the answers."""
        with torch.inference_mode(), torch.cuda.stream(stream) if stream else nullcontext():
            filled = fill_holes(low_res, step[0].hole_area)
            codes = rle.encode_tensor(self.tracker.full_size(features, filled) > 0)
        for one, code in zip(step, codes, strict=True):
            answers[one.key][one.number].masks[one.frame - first] = code


def _store(masks: WindowMasks, made: dict[int, Answers], state: TrackState, columns: Unit) -> None:
    """Stores what was made up to a border, then the state there: an attempt that finds the state finds all before it."""
    for number, answers in made.items():
        masks.add(number, answers)
    masks.store.save(state.name, to_bytes(state))
    if state.name == "prompts":
        masks.store.keep_unit(columns)


def _begun(store: WindowStore) -> dict[str, TrackState]:
    """The states of an earlier attempt."""
    names: tuple[Literal["prompts", "sweep"], ...] = ("prompts", "sweep")
    return {name: from_bytes(name, content) for name in names if (content := store.load(name)) is not None}


def _stream(tensor: torch.Tensor) -> torch.cuda.Stream | None:
    """The stream on which this thread computes, so that another one goes on from it; None without a GPU."""
    return torch.cuda.current_stream(tensor.device) if tensor.is_cuda else None


def _scores(prompted: list[TrackedObject], count: int) -> list[list[float]]:
    """The object logits of the prompted frames, ascending, by object."""
    ordered = sorted(prompted, key=lambda one: one.frame)
    return [[one.score for one in ordered if one.number == number] for number in range(count)]
