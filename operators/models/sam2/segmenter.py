"""SAM 2.0 with one embedding as its prompt: image features, prompted decoding, mask conditioning and tracking.

Everything is batched over B (frames or instructions) and free of per-video state: the caller keeps `Memory` values.
Shape letters: B batch, C `d_model`, M `memory_dim`, S `image_size`, h = S/16, l = S/4 (the low-resolution mask).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from sam2.modeling.sam2_base import NO_OBJ_SCORE, SAM2Base
from torch import Tensor, nn

from vrshq.operators.masks.holes import fill_holes
from vrshq.operators.models.config import Sam2Config
from vrshq.operators.models.sam2.attention import Rotation, attend_to_memory
from vrshq.operators.models.sam2.compiled import check_compiler, run_compiled
from vrshq.operators.models.sam2.constants import Constants
from vrshq.operators.models.sam2.heads import decode_masks, encode_memory, neck_maps
from vrshq.operators.models.sam2.modules import sam2_arguments
from vrshq.operators.models.sam2.values import Decoded, Features, Memory, Usage


@contextmanager
def _tables_on_the_cpu() -> Iterator[None]:
    """A context in which SAM2 builds its rotary tables on the CPU.

    It puts them on the GPU wherever there is one, which opens a CUDA context in processes that never compute there.
    """
    available = torch.cuda.is_available
    torch.cuda.is_available = lambda: False
    try:
        yield
    finally:
        torch.cuda.is_available = available


class Segmenter(SAM2Base):  # type: ignore[misc]
    """SAM2's modules, assembled for `Sam2Config` with the published method's settings (SAM 2.0, single mask output).

    Attributes:
        precision: the type in which SAM2 computes, see `compute_in`.
        gate_masks: whether mask logits are -1024 where the object score is <= 0. Training switches this off, because a
            gated mask has no gradient.
        second_decoder: SAM2's original mask decoder beside a fine-tuned one; `encode` then makes features for both.
        compiled: whether `encode` and `track` may run compiled code, see `compiled.run_compiled`.
    """

    def __init__(self, config: Sam2Config, usage: Usage = Usage()) -> None:  # noqa: B008 - frozen
        with _tables_on_the_cpu():
            super().__init__(**sam2_arguments(config))
        if config.decoder_dim_feedforward != 2048:  # SAM2Base's width
            self.sam_mask_decoder.transformer = TwoWayTransformer(
                depth=2, embedding_dim=config.d_model, mlp_dim=config.decoder_dim_feedforward, num_heads=8
            )
        self.config, self.usage = config, usage
        # Pointers come from the token of the chosen mask.
        self.sam_mask_decoder.use_multimask_token_for_obj_ptr = usage.candidates
        self.image_position = PositionEmbeddingSine(
            num_pos_feats=config.d_model, normalize=True, temperature=10000, warmup_cache=False
        )
        self.precision = torch.float32
        self._constants = Constants()
        self.gate_masks = usage.gated
        self.second_decoder: MaskDecoder | None = None
        self.compiled = False

    def compute_in(self, dtype: torch.dtype) -> Segmenter:
        """Chooses the type of the computation; for bfloat16 the weights lose what it does not hold. Returns itself.

        bfloat16: weights and activations, so that nothing is cast in between. Norms, attention and convolutions sum in float32
        inside their kernels. float16: weights, norms and sums of residual branches stay float32, because float16's range
        does not hold them; matrix products and convolutions cast their operands.
        """
        self.precision = dtype
        if dtype == torch.bfloat16:
            for module in self.modules():
                for name, weight in module.named_parameters(recurse=False):
                    module._parameters[name] = nn.Parameter(weight.to(dtype), requires_grad=weight.requires_grad)
        return self

    @property
    def _sums(self) -> torch.dtype:
        """The type of residual sums, memories and results."""
        return torch.bfloat16 if self.precision == torch.bfloat16 else torch.float32

    @property
    def frame_bytes(self) -> int:
        """Bytes of the features of one frame, at most: s4 has twice as many values as s8 and s16 each."""
        parts = 7 if self.second_decoder else 4
        values: int = parts * self.config.d_model * (self.config.image_size // 16) ** 2
        return values * self._sums.itemsize

    def fitting(self, batch_size: int, images: int) -> int:
        """The part of a batch to compute at once: all of it; on a CPU, whose caches are small, `images` images of 512 px."""
        if self.device.type != "cpu":
            return batch_size
        side: int = self.image_size
        return max(1, min(batch_size, images * 512**2 // side**2))

    def _casting(self, whole: bool = False) -> torch.autocast:
        """Casts of operands to `precision`: in float16, and in `whole` also around SAM2's own modules in bfloat16."""
        types = (torch.float16, torch.bfloat16) if whole else (torch.float16,)
        return torch.autocast(self.device.type, self.precision, enabled=self.precision in types)

    def as_compiled(self) -> Segmenter:
        """The same network, its weights shared, with compiled code.

        Raises:
            CompilerError: this machine cannot compile.
        """
        check_compiler(self.device.type)
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.compiled = True
        return other

    def encode(self, pixels: Tensor) -> Features:
        """Image features of frames. pixels: (B, 3, S, S) float32 from `preprocess.sam2_input`; compiled for each B."""
        parts = run_compiled(Segmenter._encode, self, pixels) if self.compiled else self._encode(pixels)
        s4, s8, s16, *original = parts
        return Features(s4, s8, s16, (original[0], original[1]) if original else None)

    def _encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        with self._casting():
            trunk_maps = self.image_encoder.trunk(pixels.to(self._sums))
            s4, s8, s16 = neck_maps(self.image_encoder.neck, trunk_maps, self._sums)[:3]
            own, second = self.sam_mask_decoder, self.second_decoder
            original = (second.conv_s0(s4), second.conv_s1(s8)) if second else ()
            return own.conv_s0(s4), own.conv_s1(s8), s16, *original

    def decode_prompt(self, features: Features, embedding: Tensor) -> Decoded:
        """Decodes one prompt of k embeddings (B, k*C) per frame, without memory. TKS takes its candidate masks from this."""
        with self._casting():
            backbone = features.s16 + self.no_mem_embed.view(1, -1, 1, 1)
            prompt = embedding.reshape(len(embedding), -1, self.config.d_model)
            return self._decode(features, backbone, [prompt.to(self._sums)], self._dense_code(backbone))

    def decode_prompted(self, features: Features, embedding: Tensor) -> tuple[Decoded, Memory]:
        """`decode_prompt` of frames that later frames attend to: their masks, not binarised, are their memory."""
        decoded = self.decode_prompt(features, embedding)
        return decoded, self._remember(features, decoded)

    def condition(self, features: Features, masks: Tensor, hole_area: int) -> tuple[Tensor, Memory]:
        """Prompts SAM2 with binary masks of the keyframes.

        Args:
            features: of the keyframe of each of B instructions.
            masks: (B, S, S) bool.
            hole_area: see `fill_holes`; holes are filled in the keyframe's output and in its memory.

        Returns:
            The keyframe's final low-resolution logits (B, l, l), in -10..10, and its memory.
        """
        low_res, _, pointer = self._entered(features, masks)
        low_res = fill_holes(low_res, hole_area)
        memory_mask = self.to_image_size(low_res) > 0
        return low_res, Memory(self.encode_mask(features, memory_mask), pointer)

    def enter(self, features: Features, masks: Tensor) -> tuple[Tensor, Memory]:
        """Enters masks (B, S, S) bool as they are: low-resolution logits (B, l, l) of -10 to 10, and the masks' memory."""
        low_res, full, pointer = self._entered(features, masks)
        return low_res, Memory(self.encode_mask(features, torch.sigmoid(full)), pointer)

    def _entered(self, features: Features, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """SAM2's own way of masks (B, S, S) bool: their logits (B, l, l) and (B, S, S) float32, and their pointers."""
        with self._casting(whole=True):
            low_res, full, _, _, _, pointer, _ = self._use_mask_as_output(
                features.s16, [features.s4, features.s8], masks[:, None].float()
            )
        return low_res[:, 0], full[:, 0], pointer.to(self._sums)

    def track(
        self,
        features: Features,
        conditioning: Sequence[Memory],
        recent: Sequence[Tensor],
        pointers: Sequence[Tensor],
        *,
        ages: Sequence[int] | None = None,
        ahead: int = 0,
        steady: bool = False,
    ) -> tuple[Decoded, Memory]:
        """One tracking step of B objects.

        Args:
            features: of one frame for all objects (1 row), or of a frame for each object (B rows).
            conditioning: memories (B rows each) of the prompted frames, in their order.
            recent: spatial memories (B, M, h, h) of the frames before, nearest first, at most `num_maskmem - 1`.
            pointers: object pointers (B, C) of the frames before, nearest first.
            ages: distance in frames of each of `recent`, 1 to `num_maskmem - 1`; default: 1, 2, ...
            ahead: how many of the prompted frames, the last ones, come later than the frame; they give no pointers.
            steady: whether many steps have these shapes, so that code is compiled for them, where that is wanted.

        Returns:
            The decoder's output and the frame's memory.
        """
        with self._casting():
            aged = list(zip(recent, ages or range(1, len(recent) + 1), strict=True))
            own = [prompted.pointer for prompted in conditioning[: len(conditioning) - ahead]]
            memory, position, num_pointer_tokens = self._memory_tokens(conditioning, aged, [*own, *pointers])
            like = features.s16
            real = steady and self.compiled
            rotation = self._constants.of(
                ("rotation", like.device, self.precision, real),
                lambda: Rotation.of(self.memory_attention, like.device, self.precision, real=real),
            )
            codes = position, self._image_code(like), self._dense_code(like)
        if steady and self.compiled:
            made = run_compiled(Segmenter._step, self, features, memory, num_pointer_tokens, codes, rotation)
        else:
            made = self._step(features, memory, num_pointer_tokens, codes, rotation)
        low_res, object_logit, iou, pointer, remembered = made
        return Decoded(low_res, object_logit, iou, pointer), Memory(remembered, pointer)

    def _step(
        self,
        features: Features,
        memory: Tensor,
        num_pointer_tokens: int,
        codes: tuple[Tensor, Tensor, Tensor],
        rotation: Rotation,
    ) -> tuple[Tensor, ...]:
        """`track` as a function of tensors: memory tokens (B, L, M); position codes of memory, image and mask decoder.

        Returns:
            The parts of `Decoded`, and the features of the frame's memory.
        """
        with self._casting():
            position, image_code, dense_code = codes
            image = features.s16.flatten(2).transpose(1, 2) + image_code
            attended = attend_to_memory(self.memory_attention, image, memory, position, num_pointer_tokens, rotation)
            backbone = attended.transpose(1, 2).view(len(attended), *features.s16.shape[1:])
            made = self._decode(features, backbone, [], dense_code)
            return made.low_res, made.object_logit, made.iou, made.pointer, self._remember(features, made).features

    def to_image_size(self, low_res: Tensor) -> Tensor:
        """Low-resolution logits (B, l, l) at the model's image size (B, S, S), bilinear, in their own type."""
        size = (self.image_size, self.image_size)
        return F.interpolate(low_res[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]

    def _decode(self, features: Features, backbone: Tensor, prompt: list[Tensor], code: Tensor) -> Decoded:
        """Decodes B rows of `backbone` (B, C, h, h); the features have as many rows, or one for all."""
        prompts = self.sam_prompt_encoder
        # what SAM2's prompt encoder makes of no point, padded with a second one, and of no mask
        no_points = prompts.not_a_point_embed.weight.expand(len(backbone), 2, -1)
        no_mask = prompts.no_mask_embed.weight.view(1, -1, 1, 1)
        found = decode_masks(
            self.sam_mask_decoder,
            backbone + no_mask,
            code,
            [no_points, *prompt],
            (features.s4, features.s8),
        )
        present = found.object_logit > 0  # (B, 1)
        logits, iou, token = found.logits[:, 0], found.iou[:, 0], found.tokens[:, 0]
        if self.usage.candidates:
            rows, best = torch.arange(len(backbone), device=iou.device), found.iou.argmax(-1)
            logits, iou, token = found.logits[rows, best], found.iou[rows, best], found.tokens[rows, best]
        low_res = logits.to(self._sums)
        if self.gate_masks:
            low_res = torch.where(present[..., None], low_res, NO_OBJ_SCORE)
        pointer = torch.where(present, self.obj_ptr_proj(token), self.no_obj_ptr)
        return Decoded(low_res, found.object_logit[:, 0].to(self._sums), iou.to(self._sums), pointer)

    def _remember(self, features: Features, decoded: Decoded) -> Memory:
        memory_mask = torch.sigmoid(self.to_image_size(decoded.low_res))
        return Memory(self.encode_mask(features, memory_mask), decoded.pointer)

    def encode_mask(self, features: Features, mask: Tensor) -> Tensor:
        """Memory features of masks (B, S, S), bool or in 0..1: scale and bias, then SAM2's memory encoder."""
        with self._casting():
            scaled = mask[:, None].to(self._sums) * self.sigmoid_scale_for_mem_enc + self.sigmoid_bias_for_mem_enc
            return encode_memory(self.memory_encoder, features.s16, scaled)

    def _memory_tokens(
        self, conditioning: Sequence[Memory], recent: Sequence[tuple[Tensor, int]], pointers: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, int]:
        """Memory tokens (B, L, M), their position codes (1, L, M), and the number of pointer tokens.

        Order: prompted frames, oldest ... nearest memory (each with its age in frames), pointers as given. The last temporal
        code is that of prompted frames, code 0 the nearest frame's; pointers have none (SAM 2.0).
        """
        memories = [
            *((memory.features, self.num_maskmem - 1) for memory in conditioning),
            *reversed([(memory, age - 1) for memory, age in recent]),
        ]
        tokens = [memory.flatten(2).transpose(1, 2) for memory, _ in memories]
        split = torch.stack([*pointers], dim=1).view(len(tokens[0]), -1, self.mem_dim)
        codes, count, like = tuple(code for _, code in memories), split.shape[1], memories[0][0]

        def make() -> Tensor:
            spatial = self._sine_code(self.memory_encoder.position_encoding, like)
            each = [(spatial + self.maskmem_tpos_enc[code]).to(self._sums) for code in codes]
            return torch.cat([*each, each[0].new_zeros(1, count, self.mem_dim)], dim=1)

        key = ("memory", like.device, self._sums, like.shape[2:], codes, count)
        position = self._constants.of(key, make, self.maskmem_tpos_enc)
        return torch.cat([*tokens, split], dim=1), position, count

    def _image_code(self, like: Tensor) -> Tensor:
        """A tenth of the position code of an image, (1, h*h, C), which the memory attention adds to it."""
        key = ("image", like.device, self._sums, like.shape[2:])
        return self._constants.of(key, lambda: (0.1 * self._sine_code(self.image_position, like)).to(self._sums))

    def _dense_code(self, like: Tensor) -> Tensor:
        """The mask decoder's position code of an image, (1, h*h, C)."""

        def make() -> Tensor:
            code: Tensor = self.sam_prompt_encoder.get_dense_pe()
            return code.flatten(2).transpose(1, 2).contiguous().to(self._sums)

        waves = self.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        return self._constants.of(("dense", like.device, self._sums), make, waves)

    @staticmethod
    def _sine_code(encoding: PositionEmbeddingSine, like: Tensor) -> Tensor:
        """The sinusoidal position code of a feature map (B, c, h, h), as (1, h*h, c) float32."""
        code: Tensor = encoding(like[:1]).flatten(2).transpose(1, 2)
        return code


def to_frame_size(low_res: Tensor, image_size: int, resized: tuple[int, int], frame: tuple[int, int]) -> Tensor:
    """Resizes mask logits to the frame, in the reference's order: to the model's size, without the padding, to the frame.

    Args:
        low_res: (B, l, l) logits.
        image_size: S.
        resized: (height, width) of the frame inside the model's square.
        frame: (height, width) of the frame.

    Returns:
        (B, height, width) float32 logits; the mask is logits > 0.
    """
    square = F.interpolate(
        low_res[:, None].float(), size=(image_size, image_size), mode="bilinear", align_corners=False
    )
    cropped = square[:, :, : resized[0], : resized[1]]
    return F.interpolate(cropped, size=frame, mode="bilinear", align_corners=False)[:, 0]
