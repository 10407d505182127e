"""SAM2's original mask decoder beside a fine-tuned one: prompts by the latter, propagation by the former (Sa2VA-i).

Source: github kumuji/Sa2VA-i. Each prompted frame's mask, from the fine-tuned decoder without memory, is binarised at the size
of the frame and entered as a mask prompt. The original decoder, with gated masks, carries it on.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from sam2.modeling.sam.mask_decoder import MaskDecoder
from torch import Tensor

from vrshq.operators.models.bundle import CheckpointError
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.tracking import TrackedFrame, scores_of
from vrshq.operators.models.sam2.values import Decoded, Features
from vrshq.operators.models.weights import check_tensors, map_file

FOLDER = "sam2"  # of a bundle: the published file of SAM 2.0 with the same image encoder
_PREFIX = "sam_mask_decoder."


def original_files(folder: Path) -> list[Path]:
    """The files of weights in a bundle's folder `sam2`."""
    return sorted(path for path in (folder / FOLDER).glob("*") if path.suffix in (".pt", ".safetensors"))


def load_original(folder: Path, segmenter: Segmenter) -> MaskDecoder:
    """The mask decoder in the one file of a bundle's folder `sam2`: SAM2's own `.pt` file, or safetensors with its names.

    It has the type and the device of the fine-tuned one.

    Args:
        folder: of the bundle.
        segmenter: with the fine-tuned decoder.

    Raises:
        CheckpointError: there is no such file, or its tensors do not fit.
    """
    files = original_files(folder)
    if len(files) != 1:
        raise CheckpointError(
            f"{folder / FOLDER}: {len(files)} files with weights; tracking.decoder original expects one, SAM 2.0's own "
            "(published as facebook/sam2-hiera-large, sam2_hiera_large.pt)"
        )
    like: MaskDecoder = segmenter.sam_mask_decoder
    tensors = map_file(files[0], inside="model")
    given = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name.startswith(_PREFIX)}
    expected = {name: tuple(value.shape) for name, value in like.state_dict().items()}
    check_tensors(files[0], given, expected)
    decoder = copy.deepcopy(like)
    decoder.load_state_dict(given)
    return decoder


def with_original(segmenter: Segmenter, decoder: MaskDecoder) -> Segmenter:
    """The segmenter with the original decoder; it shares all other modules with the given one.

    The given one makes the image features for both decoders from now on.
    """
    segmenter.second_decoder = decoder
    other: Segmenter = copy.copy(segmenter)
    other._modules = {**segmenter._modules, "sam_mask_decoder": decoder}
    other.gate_masks = True
    return other


class OriginalFeatures(VideoFeatures):
    """The features of an opened video as the original decoder takes them. Nothing is encoded twice."""

    def __init__(self, opened: VideoFeatures) -> None:
        self.opened, self.video = opened, opened.video

    def get(self, indices: Sequence[int]) -> Features:
        """As `VideoFeatures.get`."""
        found = self.opened.get(indices)
        assert found.original is not None
        return Features(*found.original, found.s16)

    def prefetch(self, indices: Sequence[int]) -> None:
        """As `VideoFeatures.prefetch`."""
        self.opened.prefetch(indices)

    def forget(self, index: int) -> None:
        """As `VideoFeatures.forget`."""
        self.opened.forget(index)

    def begin_anew(self) -> None:
        """As `VideoFeatures.begin_anew`."""
        self.opened.begin_anew()

    def window(self) -> int:
        """As `VideoFeatures.window`."""
        return self.opened.window()


@torch.inference_mode()
def enter_all(
    segmenter: Segmenter,
    original: Segmenter,
    opened: VideoFeatures,
    pairs: Sequence[tuple[int, int]],
    prompts: Sequence[Tensor],
    batch_size: int,
) -> Iterator[list[TrackedFrame]]:
    """Decodes prompted frames with the fine-tuned decoder, and enters their masks for the original one.

    Args:
        segmenter: with the fine-tuned decoder.
        original: the same with the original decoder, from `with_original`.
        opened: the video's image features.
        pairs: (frame, object) to decode.
        prompts: (k*d,) float32, by object.
        batch_size: pairs in one step.

    Yields:
        The outputs of each batch, by frame; the logits are -10 to 10, the object logit the fine-tuned decoder's.
    """
    device = next(segmenter.parameters()).device
    ordered = sorted(pairs)
    size, side = (opened.video.height, opened.video.width), segmenter.image_size
    for begin in range(0, len(ordered), batch_size):
        part = ordered[begin : begin + batch_size]
        frames = [frame for frame, _ in part]
        embeddings = torch.stack([prompts[number] for _, number in part]).to(device)
        decoded: Decoded = segmenter.decode_prompt(opened.get(frames), embeddings)
        full = F.interpolate(decoded.low_res[:, None].float(), size=size, mode="bilinear", align_corners=False) > 0
        square = F.interpolate(full.float(), size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        low_res, memory = original.enter(OriginalFeatures(opened).get(frames), square[:, 0] >= 0.5)
        yield [
            TrackedFrame(number, frame, low_res[row], score, iou, memory.row(row))
            for row, ((frame, number), (score, iou)) in enumerate(zip(part, scores_of(decoded), strict=True))
        ]
