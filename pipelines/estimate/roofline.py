"""Seconds of a unit by stage on a GPU that nobody measured: the larger of operations over rate and bytes over bandwidth."""

from __future__ import annotations

from dataclasses import dataclass

from vrshq.cluster.ray.gpus import Gpu, known_gpus
from vrshq.operators.models.config import Sam2Config
from vrshq.pipelines.estimate.memory import NUMBER_BYTES, TEXT_TOKENS, memory_tokens
from vrshq.pipelines.estimate.sizes import ModelSizes, Stack, trunk_levels
from vrshq.pipelines.estimate.terms import Terms

# Shares that are reached of a GPU's stated rates, with and without tensor cores, and of its bandwidth. Launches of kernels are
# not counted beside them, so that short steps (one object, small models) take longer than is estimated.
TENSOR_SHARE, PLAIN_SHARE = 0.3, 0.6
BANDWIDTH_SHARE = 0.6
# Decoding a 1080p frame on one CPU thread: 3.0 ms were measured for one of 720p (PyAV, H.264), times the pixels.
DECODE_SECONDS = 0.007
# Times that a number of a layer's input is read or written in the layer.
_PASSES = 30
_DECODER_OPERATIONS, _DECODER_NUMBERS = 4e9, 30e6  # SAM2's mask decoder, for one prompt
_MEMORY_OPERATIONS = 15e9  # SAM2's memory encoder, for one object and frame


@dataclass(frozen=True)
class Device:
    """A GPU that computes in one type. `tf32`: whether float32 products may use tensor cores."""

    gpu: Gpu
    dtype: str
    tf32: bool = False

    @property
    def rate(self) -> float:
        """Operations per second that are reached."""
        gpu, native = self.gpu, self.gpu.bfloat16 or self.dtype == "float16"
        if self.dtype == "float32" and self.tf32 and gpu.bfloat16:
            return TENSOR_SHARE * gpu.half_tflops / 2 * 1e12
        if self.dtype != "float32" and native:
            return TENSOR_SHARE * gpu.half_tflops * 1e12
        return PLAIN_SHARE * gpu.float32_tflops * 1e12

    def seconds(self, operations: float, numbers: float) -> float:
        """Seconds of some work: operations, and numbers that are moved."""
        moved = numbers * NUMBER_BYTES[self.dtype] / (BANDWIDTH_SHARE * self.gpu.bandwidth * 1e9)
        return max(operations / self.rate, moved)


def slowest(dtype: str) -> Gpu:
    """The slowest known GPU that computes in a type: what an unknown one is taken for."""
    fit = [gpu for gpu in known_gpus().values() if gpu.bfloat16 or dtype != "bfloat16"]
    return min(fit, key=lambda gpu: Device(gpu, dtype).rate)


def stage_terms(
    sizes: ModelSizes, device: Device, *, frames: int, batch: int, shared: bool = False
) -> dict[str, Terms]:
    """The cost of a unit by stage.

    Each frame of a video is encoded by SAM2 once, which counts in `propagate`. `decode` is the time of one CPU thread.

    Args:
        sizes: of the model.
        device: what it runs on.
        frames: frames that each instruction's prompt has.
        batch: instructions in a batch.
        shared: whether all instructions of a video look at the same frames; otherwise all of them are different.
    """
    clip = _seconds_of_stack(device, sizes.clip, sizes.clip_tokens, batch=16) if sizes.clip else 0.0
    seen, asked = prefix_seconds(sizes, device, frames), answer_seconds(sizes, device, frames, batch)
    return {
        "decode": Terms(frame=DECODE_SECONDS),
        "presample": Terms(frame=clip),
        "tokens": Terms(unit=seen if shared else 0.0, instruction=asked + (0.0 if shared else seen)),
        "fuse": Terms(),
        "keyframe": Terms(instruction=frames * device.seconds(_DECODER_OPERATIONS, _DECODER_NUMBERS)),
        "propagate": Terms(
            frame=encode_seconds(sizes.sam2, device), frame_instruction=track_seconds(sizes.sam2, device)
        ),
    }


def prefix_seconds(sizes: ModelSizes, device: Device, frames: int) -> float:
    """The language side for one set of frames: its vision tower on each of them, and its decoder on their tokens."""
    prefix = frames * sizes.frame_tokens + TEXT_TOKENS
    begun = device.seconds(sizes.decoder.operations(prefix, prefix / 2), sizes.decoder.weights)
    return frames * _seconds_of_stack(device, sizes.tower, sizes.tower_tokens, batch=4) + begun


def answer_seconds(sizes: ModelSizes, device: Device, frames: int, batch: int) -> float:
    """The language side for one instruction in a batch, behind the frames: its own tokens, then its answer's one by one."""
    decoder, prefix = sizes.decoder, frames * sizes.frame_tokens + TEXT_TOKENS
    read = device.seconds(decoder.operations(sizes.suffix_tokens, prefix), decoder.weights / batch)
    token = device.seconds(decoder.operations(1, prefix), decoder.weights / batch + decoder.kept * prefix)
    return read + sizes.answer_tokens * token


def encode_seconds(sam2: Sam2Config, device: Device) -> float:
    """SAM2's image encoder on one frame."""
    operations = numbers = 0.0
    blocks_before = 0
    for level, (blocks, width, tokens) in enumerate(trunk_levels(sam2)):
        everywhere = sum(blocks_before <= block < blocks_before + blocks for block in sam2.global_attention_blocks)
        window = min(tokens, sam2.window_spec[level] ** 2)
        attended = everywhere * tokens + (blocks - everywhere) * window
        operations += 2 * 12 * blocks * width**2 * tokens + 4 * attended * tokens * width
        operations += 2 * tokens * width * sam2.d_model
        numbers += _PASSES * blocks * tokens * width
        blocks_before += blocks
    return device.seconds(operations, numbers)


def track_seconds(sam2: Sam2Config, device: Device) -> float:
    """One frame of one object whose memories are full, in a batch of several."""
    image, memory, width = (sam2.image_size // 16) ** 2, memory_tokens(sam2), sam2.d_model
    attention = 4 * image * (image + memory) * width
    projections = 2 * (6 * image * width**2 + 2 * memory * width * sam2.memory_dim)
    forward = 4 * image * width * sam2.memory_attention_dim_feedforward
    layers = sam2.memory_attention_layers
    share = (image / 4096) * (width / 256) ** 2
    operations = layers * (attention + projections + forward) + share * (_DECODER_OPERATIONS + _MEMORY_OPERATIONS)
    return device.seconds(operations, layers * 6 * memory * width + share * _DECODER_NUMBERS)


def _seconds_of_stack(device: Device, stack: Stack, tokens: int, batch: int) -> float:
    """One frame in a batch of frames through a stack of layers."""
    numbers = stack.weights / batch + _PASSES * stack.layers * tokens * stack.width
    return device.seconds(stack.operations(tokens, tokens), numbers)
