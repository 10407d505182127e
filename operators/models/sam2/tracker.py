"""A tracker made of SAM2: prompts on a chosen keyframe or on all sampled frames, then memory through the video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from vrshq.operators.models.families import FamilyInfo, Start
from vrshq.operators.models.family import Candidate, Frames, Pauses, Request, TrackConfig, TrackedObject, TrackState
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.original import OriginalFeatures, enter_all
from vrshq.operators.models.sam2.prompting import decode_candidates, look_at_candidates
from vrshq.operators.models.sam2.refresh import Candidates
from vrshq.operators.models.sam2.segmenter import Segmenter, to_frame_size
from vrshq.operators.models.sam2.tracking import TrackedFrame, condition_all, prompt_all, propagate_all
from vrshq.operators.models.sam2.values import Memory


class Sam2Tracker:
    """SAM2 in the way of a family (`Usage` of the segmenter), or in another way that the configuration asks for.

    Cost: one image encoding per frame, one mask decoding per prompted frame and object, and one step of memory attention,
    mask decoder and memory encoder per other frame and object. Objects of all instructions share the batches. Objects with
    the same mask on the same keyframe are tracked once.

    Args:
        segmenter: SAM2.
        config: its settings.
        family: for what the settings leave open.
        original: the segmenter with the decoder that carries masks, where it is another one.
    """

    def __init__(
        self, segmenter: Segmenter, config: TrackConfig, family: FamilyInfo, original: Segmenter | None = None
    ) -> None:
        self.segmenter, self.config, self.original = segmenter, config, original
        self.start: Start = config.start or family.start
        self.backward = (config.directions or family.directions) == "both"
        self.hole_area = family.hole_area if config.hole_area is None else config.hole_area
        self.pauses = True
        self.refresh = config.refresh
        if self.start == "text":
            raise ValueError("start 'text': SAM2 takes no text; expected keyframe or frames")

    def open(self, video: Frames, *, stays: bool = False) -> VideoFeatures:
        """The image features of a video."""
        return VideoFeatures(
            self.segmenter,
            video,
            budget_bytes=self.config.feature_cache_bytes,
            batch_size=self.config.encode_batch,
            stays=stays,
        )

    def candidates(self, opened: VideoFeatures, requests: Mapping[int, Request]) -> dict[int, list[list[Candidate]]]:
        """As `Tracker.candidates`."""
        numbered = _numbered(requests)
        prompts = [_prompt(requests, one) for one in numbered]
        how = self.config.batch, self.hole_area
        found = look_at_candidates(self.segmenter, opened, _sampled(requests), prompts, *how, looks=self.config.looks)
        result: dict[int, list[list[Candidate]]] = {key: [] for key in requests}
        for place, (key, _) in enumerate(numbered):
            result[key].append([found[frame, place] for frame in requests[key].frames])
        return result

    def track(
        self, opened: VideoFeatures, requests: Mapping[int, Request], pauses: Pauses | None = None
    ) -> Iterator[list[TrackedObject]]:
        """As `Tracker.track`."""
        numbered = _numbered(requests)
        prompts = pauses.begun.get("prompts") if pauses else None
        if prompts is None:
            memories: dict[int, dict[int, Memory]] = {place: {} for place in range(len(numbered))}
            for outputs in self._prompts(opened, requests):
                for item in outputs:
                    memories[item.position][item.frame] = item.memory
                yield [self._output(item, numbered, prompted=True) for item in outputs]
            # refreshed tracks part, even where they begin alike
            alike = _alike(memories) if self.refresh == "never" else {place: [place] for place in memories}
            begun = {first: memories[first] for first in alike}
            if pauses:
                prompts = _prompts_state(begun, alike)
                pauses.reached(prompts)
        if prompts is not None:
            begun, alike = _prompted_of(prompts, self.segmenter.device)
            opened.begin_anew()
        candidates = None
        if self.refresh != "never":
            found = self._decode(opened, _sampled(requests), requests)
            candidates = Candidates(self.refresh, self.hole_area, found, _keyframes_of(requests))
            if pauses:
                opened.begin_anew()
        total, batch = opened.video.num_frames, self.config.batch
        carrying, features = (self.original, OriginalFeatures(opened)) if self.original else (self.segmenter, opened)
        steps = propagate_all(
            carrying,
            features,
            begun,
            total,
            batch,
            backward=self.backward,
            pauses=pauses,
            candidates=candidates,
        )
        for outputs in steps:
            yield [
                self._output(replace(item, position=place), numbered)
                for item in outputs
                for place in alike[item.position]
            ]

    def full_size(self, opened: VideoFeatures, low_res: Tensor) -> Tensor:
        """As `Tracker.full_size`."""
        video = opened.video
        return to_frame_size(low_res, self.segmenter.image_size, opened.resized_hw, (video.height, video.width))

    def _output(self, item: TrackedFrame, numbered: list[tuple[int, int]], *, prompted: bool = False) -> TrackedObject:
        # a keyframe's mask was filled before it prompted SAM2
        holes = 0 if prompted else self.hole_area
        return TrackedObject(*numbered[item.position], item.frame, item.low_res, item.object_logit, prompted, holes)

    def _prompts(self, opened: VideoFeatures, requests: Mapping[int, Request]) -> Iterator[list[TrackedFrame]]:
        by_mask = self.start == "keyframe" and self.segmenter.usage.mask_prompts
        return self._keyframes(opened, requests) if by_mask else self._prompted(opened, requests)

    def _keyframes(self, opened: VideoFeatures, requests: Mapping[int, Request]) -> Iterator[list[TrackedFrame]]:
        """Gives SAM2 the mask of each object's keyframe as a prompt."""
        numbered = _numbered(requests)
        keyframes = _keyframes_of(requests)
        masks: dict[int, Tensor] = {}
        missing: list[tuple[int, int]] = []
        for place, (key, number) in enumerate(numbered):
            logits = requests[key].logits
            if logits is None:
                missing.append((keyframes[place], place))
            else:
                masks[place] = logits[number]
        masks |= {place: logits for (_, place), (_, logits) in self._decode(opened, missing, requests).items()}
        conditioned = condition_all(self.segmenter, opened, keyframes, masks, self.hole_area)
        for place, (low_res, memory) in conditioned.items():
            key, number = numbered[place]
            score = requests[key].scores[number]
            yield [TrackedFrame(place, keyframes[place], low_res, score, float("nan"), memory)]

    def _prompted(self, opened: VideoFeatures, requests: Mapping[int, Request]) -> Iterator[list[TrackedFrame]]:
        """Prompts each object's keyframe, or all its sampled frames."""
        numbered = _numbered(requests)
        chosen = self.start == "keyframe"
        pairs = [
            (frame, place)
            for place, (key, number) in enumerate(numbered)
            for frame in ([requests[key].keyframes[number]] if chosen else requests[key].frames)
        ]
        prompts = [_prompt(requests, one) for one in numbered]
        if self.original:
            return enter_all(self.segmenter, self.original, opened, pairs, prompts, self.config.batch)
        return prompt_all(self.segmenter, opened, pairs, prompts, self.config.batch, self.hole_area)

    def _decode(
        self, opened: VideoFeatures, pairs: list[tuple[int, int]], requests: Mapping[int, Request]
    ) -> dict[tuple[int, int], tuple[float, Tensor]]:
        prompts = [_prompt(requests, one) for one in _numbered(requests)]
        return decode_candidates(self.segmenter, opened, pairs, prompts, self.config.batch, self.hole_area)


def _numbered(requests: Mapping[int, Request]) -> list[tuple[int, int]]:
    """The objects of all requests as (key, number)."""
    return [(key, number) for key, request in requests.items() for number in range(len(request.objects))]


def _keyframes_of(requests: Mapping[int, Request]) -> dict[int, int]:
    """The keyframe of each object of all requests."""
    return {place: requests[key].keyframes[number] for place, (key, number) in enumerate(_numbered(requests))}


def _sampled(requests: Mapping[int, Request]) -> list[tuple[int, int]]:
    """(frame, object) for each sampled frame of each object of all requests."""
    numbered = _numbered(requests)
    return [(frame, place) for place, (key, _) in enumerate(numbered) for frame in requests[key].frames]


def _alike(memories: Mapping[int, Mapping[int, Memory]]) -> dict[int, list[int]]:
    """Objects that begin with the same memories, by the first of them. Their tracks are the same, so one is made."""
    first: dict[tuple[tuple[int, int], ...], int] = {}
    groups: dict[int, list[int]] = {}
    for place, own in memories.items():
        key = tuple((frame, id(memory)) for frame, memory in own.items())
        groups.setdefault(first.setdefault(key, place), []).append(place)
    return groups


def _prompts_state(begun: Mapping[int, Mapping[int, Memory]], alike: Mapping[int, list[int]]) -> TrackState:
    """The memories of the prompted frames, by the first object of those that are alike."""
    tensors = {}
    for place, own in begun.items():
        for frame, memory in own.items():
            tensors[f"{place}.{frame}.features"] = memory.features.cpu().contiguous()
            tensors[f"{place}.{frame}.pointer"] = memory.pointer.cpu().contiguous()
    return TrackState("prompts", tensors, {"alike": [[first, places] for first, places in alike.items()]})


def _prompted_of(state: TrackState, device: torch.device) -> tuple[dict[int, dict[int, Memory]], dict[int, list[int]]]:
    """What `_prompts_state` was given."""
    alike: dict[int, list[int]] = dict(state.about["alike"])
    begun: dict[int, dict[int, Memory]] = {first: {} for first in alike}
    for name in state.tensors:
        place, frame, part = name.split(".")
        if part == "features":
            pointer = state.tensors[f"{place}.{frame}.pointer"]
            begun[int(place)][int(frame)] = Memory(state.tensors[name].to(device), pointer.to(device))
    return begun, alike


def _prompt(requests: Mapping[int, Request], numbered: tuple[int, int]) -> Tensor:
    key, number = numbered
    return requests[key].objects[number]
