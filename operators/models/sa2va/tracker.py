"""Sa2VA's use of SAM2: prompts on the first frames, all of them in memory, then forward through the video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from sam2.modeling.sam2_utils import MLP
from torch import Tensor

from vrshq.operators.models.sa2va.config import Sa2vaSam2Config
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.segmenter import Memory, Segmenter, Usage
from vrshq.operators.models.sam2.tracking import TrackedFrame, propagate_all

# Three masks, the best by predicted IoU; masks are not gated by the object score (pointers are); the whole square.
USAGE = Usage(candidates=True, gated=False, square=True)


def sa2va_segmenter(config: Sa2vaSam2Config) -> Segmenter:
    """SAM 2.0 as Sa2VA uses it, with the widths of its checkpoint."""
    segmenter = Segmenter(config, USAGE)
    decoder = segmenter.sam_mask_decoder
    if config.iou_head_hidden_dim != Sa2vaSam2Config.iou_head_hidden_dim:  # SAM2Base's width
        decoder.iou_prediction_head = MLP(
            config.d_model, config.iou_head_hidden_dim, decoder.num_mask_tokens, 3, sigmoid_output=True
        )
    return segmenter


@torch.inference_mode()
def segment_all(
    segmenter: Segmenter,
    features: VideoFeatures,
    embeddings: Mapping[int, Tensor],
    *,
    prompted_frames: int,
    num_frames: int,
    batch_size: int,
) -> Iterator[list[TrackedFrame]]:
    """The masks of objects on all frames of a video.

    Each prompted frame is decoded from the embedding alone, and its mask is final. All prompted frames condition every
    later frame. Objects do not see each other, so they share the work on a frame.

    Args:
        segmenter: from `sa2va_segmenter`.
        features: the video's image features.
        embeddings: (d,) float32, by the number of the object.
        prompted_frames: how many of the first frames are prompted.
        num_frames: of the video.
        batch_size: prompted frames, or objects in one step of tracking.

    Yields:
        The outputs of each batch; `TrackedFrame.position` is the number of the object.
    """
    count = min(prompted_frames, num_frames)
    device = next(segmenter.parameters()).device
    memories: dict[int, list[Memory]] = {number: [] for number in embeddings}
    pairs = [(frame, number) for frame in range(count) for number in embeddings]  # each frame is encoded once
    for begin in range(0, len(pairs), batch_size):
        part = pairs[begin : begin + batch_size]
        prompts = torch.stack([embeddings[number] for _, number in part]).to(device)
        decoded, memory = segmenter.decode_prompted(features.get([frame for frame, _ in part]), prompts)
        outputs = []
        for row, (frame, number) in enumerate(part):
            own = Memory(memory.features[row : row + 1].clone(), memory.pointer[row : row + 1].clone())
            memories[number].append(own)
            score, iou = float(decoded.object_logit[row]), float(decoded.iou[row])
            outputs.append(TrackedFrame(number, frame, decoded.low_res[row], score, iou, own))
        yield outputs
    starts = dict.fromkeys(embeddings, count - 1)
    yield from propagate_all(segmenter, features, starts, memories, num_frames, batch_size, backward=False)
