"""The values that SAM2 takes and gives: image features, decoded masks, memories, and the way in which a family uses it.

Shape letters as in `segmenter`: B batch, C `d_model`, M `memory_dim`, S `image_size`, h = S/16, l = S/4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Image features of B frames.

    Attributes:
        s4: (B, C/8, S/4, S/4) for the mask decoder.
        s8: (B, C/4, S/8, S/8) for the mask decoder.
        s16: (B, C, h, h) for the decoder and the memory.
        original: s4 and s8 for a second, original mask decoder, where there is one.
    """

    s4: Tensor
    s8: Tensor
    s16: Tensor
    original: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.s16)

    def _each(self, function: Callable[[Tensor], Tensor]) -> Features:
        second = self.original and (function(self.original[0]), function(self.original[1]))
        return Features(function(self.s4), function(self.s8), function(self.s16), second)

    @property
    def parts(self) -> list[Tensor]:
        """All feature maps."""
        return [self.s4, self.s8, self.s16, *(self.original or ())]

    def __getitem__(self, index: Tensor | slice | list[int]) -> Features:
        return self._each(lambda part: part[index])

    def row(self, index: int) -> Features:
        """A copy of one row (B = 1), which does not hold the others."""
        return self._each(lambda part: part[index : index + 1].clone())

    @property
    def nbytes(self) -> int:
        """Bytes of the feature maps."""
        return sum(part.element_size() * part.nelement() for part in self.parts)

    @staticmethod
    def concatenate(rows: Sequence[Features]) -> Features:
        """One object with the rows of all, in order."""
        joined = [torch.cat(parts) for parts in zip(*(one.parts for one in rows), strict=True)]
        return Features(joined[0], joined[1], joined[2], (joined[3], joined[4]) if joined[3:] else None)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How a family uses SAM2. The defaults are VRS-HQ's.

    Attributes:
        candidates: whether the mask decoder makes three masks, of which the one with the highest predicted IoU is taken with
            its pointer; otherwise one.
        gated: whether mask logits are -1024 where the object score is <= 0.
        square: whether frames are resized to the model's square (bicubic) whatever their aspect; otherwise their longest
            side fits (bilinear), and the rest is padded.
        mask_prompts: whether the mask of a chosen keyframe is given back to SAM2 as a prompt; otherwise it is remembered as
            its decoder made it.
    """

    candidates: bool = False
    gated: bool = True
    square: bool = False
    mask_prompts: bool = True


@dataclass(frozen=True)
class Decoded:
    """The mask decoder's output for B prompts, in float32, or in bfloat16 where SAM2 computes in it.

    Attributes:
        low_res: (B, l, l) mask logits of the chosen mask; -1024 where `object_logit` <= 0, if masks are gated.
        object_logit: (B,) logits of the object score.
        iou: (B,) predicted IoU.
        pointer: (B, C) object pointers; the learned no-object pointer where `object_logit` <= 0.
    """

    low_res: Tensor
    object_logit: Tensor
    iou: Tensor
    pointer: Tensor


@dataclass(frozen=True)
class Memory:
    """The memory of a frame, to which later frames attend: spatial `features` (B, M, h, h) and object `pointer` (B, C)."""

    features: Tensor
    pointer: Tensor

    def __getitem__(self, index: slice) -> Memory:
        return Memory(self.features[index], self.pointer[index])

    def row(self, index: int) -> Memory:
        """One row (B = 1), a view: it holds the others."""
        return self[index : index + 1]

    @staticmethod
    def concatenate(parts: Sequence[Memory]) -> Memory:
        """One object with the rows of all parts, in order."""
        return Memory(torch.cat([part.features for part in parts]), torch.cat([part.pointer for part in parts]))
