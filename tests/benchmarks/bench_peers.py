"""Masks carried by SAM2's own video predictor, by transformers' Sam2VideoModel and by this project, in one run.

    python -m tests.benchmarks.bench_peers [--quick] [--threads 1] [--clock cpu|wall] [--json FILE]

All have the same random weights of SAM2's smallest model (sam2_hiera_t.yaml) at 512 px, the same frames, and the same masks as
prompts on the first frame. Each carries 1, 4 and 16 objects through the clip, from normalised frames to mask logits at the
size of the frames, the image encoder included. This project normalises the frames itself, which counts against it. The
programs take turns after each frame, so that other load on the machine meets all of them; quote the ratios.

Equality is that of the masks on the frames after the first: the smallest IoU of an object's masks over all frames, and the
largest difference of logits. SAM2's predictor rounds its memories to bfloat16 whatever the type of its weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from sam2 import sam2_video_predictor
from sam2.build_sam import build_sam2_video_predictor
from torch import Tensor
from transformers import Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from tests.benchmarks.bench_propagation import HIERA_TINY, Clock, header, table
from tests.support.array_video import ArrayVideo
from tests.support.peer_weights import transformers_config, transformers_weights
from vrshq.operators.models.preprocess import square_input
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.segmenter import Segmenter, to_frame_size
from vrshq.operators.models.sam2.tracking import condition_all, propagate_all
from vrshq.operators.models.sam2.values import Usage
from vrshq.operators.models.vrs_hq.load import _spread_untrained_outputs

SIDE = HIERA_TINY.image_size
FRAMES = {1: 17, 4: 9, 16: 5}  # by the number of objects; after seven frames the memory is full
OURS, PREDICTOR, TRANSFORMERS = "vrshq", "sam2", "transformers"


@dataclass(frozen=True)
class Clip:
    """A clip and its prompts: `video`, its normalised frames `pixels` (T, 3, S, S), `masks` (B, S, S) bool on frame 0."""

    video: ArrayVideo
    pixels: Tensor
    masks: Tensor

    @staticmethod
    def of(frames: int, objects: int) -> Clip:
        """Random blocks, and a box of its own for each object."""
        video = ArrayVideo(frames, SIDE, SIDE)
        masks = torch.zeros(objects, SIDE, SIDE, dtype=torch.bool)
        for number in range(objects):
            row, column = divmod(number, 4)
            top, left = 128 * row + 4 * number, 128 * column
            masks[number, top : top + 60, left : left + 96] = True
        return Clip(video, square_input(video.array, SIDE)[0], masks)


Run = Callable[[Clip], Iterator[Tensor]]  # logits (B, S, S) of each frame after the first


def ours(segmenter: Segmenter) -> Run:
    """This project."""

    def run(clip: Clip) -> Iterator[Tensor]:
        features = VideoFeatures(segmenter, clip.video, budget_bytes=2 << 30, batch_size=4)
        objects = dict.fromkeys(range(len(clip.masks)), 0)
        prompts = {number: F.max_pool2d(mask[None].float(), 4)[0] - 0.5 for number, mask in enumerate(clip.masks)}
        conditioned = condition_all(segmenter, features, objects, prompts, 0)
        memories = {number: {0: memory} for number, (_, memory) in conditioned.items()}
        steps = propagate_all(segmenter, features, memories, clip.video.num_frames, 16, backward=False)
        for _, same in itertools.groupby(itertools.chain.from_iterable(steps), key=lambda one: one.frame):
            low_res = torch.stack([one.low_res for one in same])
            yield to_frame_size(low_res, SIDE, (SIDE, SIDE), (SIDE, SIDE))

    return run


def predictor(weights: dict[str, Tensor]) -> Run:
    """SAM2's own video predictor, in the same way."""
    changes = ["image_size=512", "binarize_mask_from_pts_for_mem_enc=true"]
    network = build_sam2_video_predictor(
        "configs/sam2/sam2_hiera_t.yaml",
        device="cpu",
        apply_postprocessing=False,
        hydra_overrides_extra=[f"++model.{change}" for change in changes],
    )
    network.load_state_dict(weights)

    def run(clip: Clip) -> Iterator[Tensor]:
        loaded = (clip.pixels, SIDE, SIDE)
        with mock.patch.object(sam2_video_predictor, "load_video_frames", return_value=loaded):
            state = network.init_state("")
        for number, mask in enumerate(clip.masks):
            network.add_new_mask(state, 0, number, mask)
        yield from (logits[:, 0] for frame, _, logits in network.propagate_in_video(state) if frame)

    return run


def transformers(weights: dict[str, Tensor]) -> Run:
    """Transformers' Sam2VideoModel, in the same way."""
    network = Sam2VideoModel(transformers_config(HIERA_TINY)).eval()
    network.load_state_dict(transformers_weights(weights))

    def run(clip: Clip) -> Iterator[Tensor]:
        session = Sam2VideoInferenceSession(clip.pixels, SIDE, SIDE, dtype=torch.float32)
        for number, mask in enumerate(clip.masks):
            session.add_mask_inputs(session.obj_id_to_idx(number), 0, mask[None, None].float())
            session.obj_with_new_inputs.append(number)
        for frame in range(clip.video.num_frames):
            logits = network(session, frame_idx=frame).pred_masks
            if frame:
                yield F.interpolate(logits, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]

    return run


def networks() -> tuple[Segmenter, dict[str, Tensor]]:
    """SAM2 with random weights whose masks are neither empty nor full, and these weights by SAM2's names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # the published way of prompting: three masks, of which the best one counts
        segmenter: Segmenter = Segmenter(HIERA_TINY, Usage(candidates=True, square=True)).eval()
        _spread_untrained_outputs(segmenter)
    return segmenter, segmenter.state_dict()


def likeness(own: Tensor, other: Tensor) -> dict[str, float]:
    """The smallest IoU of an object's masks over all frames, and the largest difference of logits. (T, B, S, S) each."""
    first, second = (logits.transpose(0, 1).flatten(1) > 0 for logits in (own, other))
    union = (first | second).sum(1)
    iou = torch.where(union > 0, (first & second).sum(1) / union.clamp(min=1), 1.0)
    return {"iou": float(iou.min()), "difference": float((own - other).abs().max())}


def measured(runs: dict[str, Run], clip: Clip, clock: Clock) -> dict[str, Any]:
    """Object-frames/s of each program, the others' time over ours, and the likeness of the masks."""
    frames, objects = clip.video.num_frames, len(clip.masks)
    begun = {name: run(clip) for name, run in runs.items()}
    masks: dict[str, list[Tensor]] = {name: [] for name in runs}
    seconds = dict.fromkeys(runs, 0.0)
    for _ in range(frames - 1):
        for name, steps in begun.items():
            begin = clock.now()
            masks[name].append(next(steps))
            seconds[name] += clock.now() - begin
    joined = {name: torch.stack(own) for name, own in masks.items()}
    found: dict[str, Any] = {"objects": objects, "frames": frames}
    found["foreground"] = float((joined[OURS] > 0).float().mean())
    for name in runs:
        found[name] = {"object_frames_per_s": objects * frames / seconds[name]}
        if name != OURS:
            found[name] |= {"ratio": seconds[name] / seconds[OURS], **likeness(joined[OURS], joined[name])}
    return found


def line(found: dict[str, Any]) -> list[str]:
    """A row of the printed table."""
    row = [str(found["objects"]), str(found["frames"])]
    row += [f"{found[name]['object_frames_per_s']:.2f}" for name in (OURS, PREDICTOR, TRANSFORMERS)]
    for name in (PREDICTOR, TRANSFORMERS):
        row += [f"**{found[name]['ratio']:.2f}**", f"{found[name]['iou']:.4f}", f"{found[name]['difference']:.1e}"]
    return row


HEAD = [
    "objects",
    "frames",
    *(f"{name}, object-frames/s" for name in (OURS, PREDICTOR, TRANSFORMERS)),
    "as fast as sam2",
    "IoU",
    "logits",
    "as fast as transformers",
    "IoU",
    "logits",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer frames, no 16 objects")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{header(options)}, Hiera-T at {SIDE} px\n", flush=True)
    with torch.inference_mode():
        segmenter, weights = networks()
        runs = {OURS: ours(segmenter), PREDICTOR: predictor(weights), TRANSFORMERS: transformers(weights)}
        for run in runs.values():  # warms up
            list(run(Clip.of(2, 1)))
        chosen = {1: 5, 4: 3} if options.quick else FRAMES
        found = [measured(runs, Clip.of(frames, objects), Clock(options.clock)) for objects, frames in chosen.items()]
    print(table(HEAD, [line(one) for one in found]))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
