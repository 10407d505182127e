"""SAM 3's tracker: it finds what a noun phrase names on every frame, and carries each thing's mask through the video."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.families import SAM3, Start
from vrshq.operators.models.family import Candidate, Frames, Pauses, Request, TrackConfig, TrackedObject
from vrshq.operators.models.sam3.layout import make_processor
from vrshq.operators.models.sam3.network import Sam3Network
from vrshq.operators.models.sam3.session import Pictures, forget
from vrshq.operators.models.shared import shared_network
from vrshq.operators.video.prefetch import ahead

_LEAST = 1e-6  # probabilities are kept this far from 0 and 1, so that their logits are finite


class Opened:
    """The state of one video. `encoder_calls`: frames encoded so far."""

    def __init__(self, video: Frames) -> None:
        self.video = video
        self.encoder_calls = 0


class TextTracker:
    """SAM 3 by text, with the library's own thresholds, look-ahead and removal of doubtful objects.

    Each text has a session of its own. Several texts in one session would change each other's answers: the library takes a
    detection below `new_det_thresh` for a new object only while the session has none, and drops objects by their place in it.

    Cost: one image encoding per frame for all texts; per frame and text one pass of the detector; per frame and object one step
    of memory attention, mask decoder and memory encoder. Memory per object: that of `num_maskmem` + `max_cond_frame_num` frames
    at most, and per text the low-resolution masks of the `hotstart_delay` frames that are held back.
    """

    pauses = False  # the state of the library's sessions is its own matter

    def __init__(self, config: TrackConfig) -> None:
        self.config = config
        self.start: Start = config.start or SAM3.start
        if self.start != "text":
            raise ValueError(f"start {self.start!r}: SAM 3 takes no other prompt than text; expected text")
        if config.directions not in (None, "forward"):
            raise ValueError(f"directions {config.directions!r}: SAM 3 tracks forward; expected forward")
        self.network: Sam3Network = shared_network(config.model, "segmenter", config.device, config.dtype)
        model = self.network.model
        self.processor = make_processor(open_bundle(config.model), model.config.image_size)
        own = config.hole_area in (None, SAM3.hole_area)
        self.hole_area = model.config.fill_hole_area if own else config.hole_area

    def open(self, video: Frames, *, stays: bool = False) -> Opened:
        """As `Tracker.open`. Nothing stays: the library's sessions encode the frames for each unit."""
        del stays
        return Opened(video)

    def candidates(self, opened: Opened, requests: Mapping[int, Request]) -> dict[int, list[list[Candidate]]]:
        """Refused: there is no prompt whose mask on a sampled frame could be a candidate."""
        del opened, requests
        raise ValueError("SAM 3 begins with the text; it has no candidates for a keyframe")

    def track(
        self, opened: Opened, requests: Mapping[int, Request], pauses: Pauses | None = None
    ) -> Iterator[list[TrackedObject]]:
        """As `Tracker.track`. Objects are numbered as they appear; `prompted` is the first frame on which one is shown."""
        assert pauses is None
        self.network.model.fill_hole_area = self.hole_area
        keys: dict[str, list[int]] = {}
        for key, request in requests.items():
            keys.setdefault(request.text, []).append(key)
        pictures = Pictures(opened.video.num_frames)
        masklets = [_Masklets(self._session(text, opened.video, pictures), named) for text, named in keys.items()]
        frames = range(opened.video.num_frames if masklets else 0)
        for frame, picture in enumerate(ahead(lambda index: self._picture(opened.video, index), frames)):
            pictures.show(frame, picture)
            before = self.network.encoder_calls
            outputs = self.network.step([one.session for one in masklets], frame)
            opened.encoder_calls += self.network.encoder_calls - before
            last = frame + 1 == opened.video.num_frames
            for one, output in zip(masklets, outputs, strict=True):
                forget(one.session, frame, self.network.model)
                for ready in one.put(output, self.network.model.hotstart_delay, last=last):
                    found = self.processor.postprocess_outputs(one.session, ready)
                    shown = one.shown(ready, found)
                    for begin in range(0, len(shown), self.config.batch):
                        yield shown[begin : begin + self.config.batch]

    def full_size(self, opened: Opened, low_res: Tensor) -> Tensor:  # noqa: ARG002
        """As `Tracker.full_size`. Masks have their full size already: which object has a pixel is settled at that size."""
        return low_res.float()

    def _session(self, text: str, video: Frames, pictures: Pictures) -> Any:
        dtype, device = self.network.dtype_and_device
        session = self.processor.init_video_session(inference_device=device, video_storage_device="cpu", dtype=dtype)
        session.video_height, session.video_width = video.height, video.width
        session.processed_frames = pictures
        return self.processor.add_text_prompt(session, text)

    def _picture(self, video: Frames, frame: int) -> Tensor:
        pixels = torch.from_numpy(video.frames([frame])).permute(0, 3, 1, 2)
        processed = self.processor.video_processor(videos=[pixels], return_tensors="pt")
        picture: Tensor = processed.pixel_values_videos[0, 0].to(self.network.dtype_and_device[0])
        return picture


class _Masklets:
    """The session of a text, its outputs that are held back, and the numbers of its objects."""

    def __init__(self, session: Any, keys: list[int]) -> None:
        self.session, self.keys = session, keys
        self.held: deque[Any] = deque()
        self.numbers: dict[int, int] = {}

    def put(self, output: Any, delay: int, *, last: bool) -> Iterator[Any]:
        """Takes a frame's output, and gives the oldest of those that are held back once there are `delay` of them.

        The library holds back as many, so that an object that it removes soon after its appearance is never shown.
        """
        self.held.append(output)
        if delay > 0:
            self.session.hotstart_removed_obj_ids.update(output.removed_obj_ids)
        while len(self.held) > (0 if last else max(0, delay - 1)):
            yield self.held.popleft()

    def shown(self, output: Any, found: Mapping[str, Any]) -> list[TrackedObject]:
        """The masks of a frame, (H, W) bool, for each instruction with this text."""
        shown = []
        for identity, mask in zip(found["object_ids"].tolist(), found["masks"], strict=True):
            first = identity not in self.numbers
            number = self.numbers.setdefault(identity, len(self.numbers))
            probability = torch.tensor(output.obj_id_to_tracker_score.get(identity, 0.0), dtype=torch.float64)
            score = float(torch.logit(probability, eps=_LEAST))
            shown += [TrackedObject(key, number, output.frame_idx, mask, score, first) for key in self.keys]
        return shown
