"""The memory that an actor needs on its GPU, by part, from the sizes of its model and the settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from vrshq.operators.models.config import Sam2Config
from vrshq.pipelines.estimate.sizes import ModelSizes, trunk_levels

NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Frame size for which masks of full size are counted: videos of any size up to this one fit.
FRAME_PIXELS = 3840 * 2160
# CUDA's context, the workspaces of its libraries, and blocks that PyTorch's allocator keeps unused.
CONTEXT_BYTES = 900_000_000
# Tokens of a prompt beside its frames and the instruction.
TEXT_TOKENS = 60
TOWER_BATCH = {"vrs-hq": 8, "sa2va": 4}
# Sets of frames whose prefixes are run together on a GPU.
PREFIXES = {"vrs-hq": 2, "sa2va": 1}
# Numbers that live at once at Hiera-L and 1024 px, counted with PyTorch's fake tensors (tests/pipelines/estimate):
# in the encoder per number of its first level, and in a tracking step per token of the memories.
_ENCODER_COPIES = 11
_STEP_NUMBERS = 820
# Memories that a track keeps beside the joined ones of a step: its keyframe's, and the next one.
_KEPT_MEMORIES = 8

Part = Literal["language", "segmenter", "clip"]


@dataclass(frozen=True, kw_only=True)
class Use:
    """How an actor uses a model.

    Attributes:
        dtype: torch's name of the type of weights and activations.
        parts: the parts of the model that it loads.
        frames: frames that an instruction's prompt has.
        instruction_batch: instructions, and objects, in a batch.
        encode_batch: frames in a batch of SAM2's encoder.
        clip_batch: frames in a batch of pre-sampling's CLIP.
        feature_cache_bytes: budget of SAM2's image features.
        units: units that it works on at once, each with batches and features of its own.
        compiled: whether SAM2 runs as CUDA graphs, which keep the memory of their calls.
    """

    dtype: str
    parts: Collection[str]
    frames: int
    instruction_batch: int
    encode_batch: int
    clip_batch: int
    feature_cache_bytes: int
    units: int = 1
    compiled: bool = False


def gpu_memory(sizes: ModelSizes, use: Use) -> dict[str, int]:
    """Bytes by part, in the order in which they are shown; parts that the actor does not have are left out.

    It is an upper bound of what lives at once: batches of different stages are counted together, as PyTorch's allocator keeps
    the blocks of one while the next one runs. Answers that are generated are counted at their usual length.
    """
    number, weights = NUMBER_BYTES[use.dtype], sizes.weights
    found: dict[str, float] = {}
    if "language" in use.parts:
        found["weights of the language model"] = weights["language"] * number
    if "segmenter" in use.parts:
        found["weights of SAM2"] = weights["segmenter"] * number
    if "clip" in use.parts and sizes.clip:
        found["weights of CLIP"] = weights["clip"] * number
    if "language" in use.parts:
        found["prompts"] = prompt_numbers(sizes, use) * number
    if "clip" in use.parts and sizes.clip:
        found["CLIP batch"] = use.clip_batch * sizes.clip_tokens * sizes.clip.alive * number
    if "segmenter" in use.parts:
        found["image features"] = use.feature_cache_bytes
        found["encoder batch"] = encoder_numbers(sizes.sam2, use.encode_batch) * number
        found["tracking"] = tracking_numbers(sizes.sam2, use.instruction_batch) * number
        found["masks of full size"] = (
            use.instruction_batch * FRAME_PIXELS * (4 + 1)
        )  # logits, and whether they are above 0
    found = {part: size if part.startswith("weights") else size * use.units for part, size in found.items()}
    if "segmenter" in use.parts and use.compiled:
        # one thread runs them for all units; the copies of inputs of all sizes of a step are less than a second step
        steps = 2 * tracking_numbers(sizes.sam2, use.instruction_batch)
        found["CUDA graphs"] = (encoder_numbers(sizes.sam2, use.encode_batch) + steps) * number
    if found:
        found["context and slack"] = CONTEXT_BYTES
    return {part: round(size) for part, size in found.items()}


def prompt_numbers(sizes: ModelSizes, use: Use) -> float:
    """Keys and values of the prefixes, one layer's copy for the batch, those of the batch, and activations."""
    prefix = use.frames * sizes.frame_tokens + TEXT_TOKENS
    own = use.instruction_batch * (sizes.suffix_tokens + sizes.answer_tokens)
    copied = 2 * sizes.decoder.keys * use.instruction_batch * prefix
    begun = PREFIXES[sizes.family] * prefix
    kept = sizes.decoder.kept * (begun + (own if sizes.answer_tokens else 0))
    tower = TOWER_BATCH[sizes.family] * sizes.tower_tokens * sizes.tower.alive
    return kept + copied + max(begun, own) * sizes.decoder.alive + tower


def encoder_numbers(sam2: Sam2Config, batch: int) -> int:
    """Numbers that live at once while SAM2 encodes a batch of frames."""
    _, width, tokens = trunk_levels(sam2)[0]
    return batch * _ENCODER_COPIES * tokens * width


def memory_tokens(sam2: Sam2Config) -> int:
    """Tokens of all memories and pointers that an object's frame attends to."""
    return sam2.num_maskmem * (sam2.image_size // 16) ** 2 + sam2.max_object_pointers * sam2.d_model // sam2.memory_dim


def tracking_numbers(sam2: Sam2Config, objects: int) -> int:
    """Numbers that live at once while objects are tracked, their memories included."""
    kept = _KEPT_MEMORIES * (sam2.image_size // 16) ** 2 * sam2.memory_dim
    return objects * (_STEP_NUMBERS * memory_tokens(sam2) * sam2.d_model // 256 + kept)


def shortage(needed: Mapping[str, int], there: int | None, dtype: str, *, bfloat16: bool = True) -> str:
    """One line that says how much is missing and what helps; "" where it fits or the GPU's memory is not known.

    Args:
        needed: bytes by part, from `gpu_memory`.
        there: memory of the GPU, in bytes.
        dtype: of which `needed` is.
        bfloat16: whether the GPU computes in that type.
    """
    whole = sum(needed.values())
    if there is None or whole <= there:
        return ""
    weights = sum(size for part, size in needed.items() if part.startswith("weights"))
    wanted = f"needs {gib(whole)} of GPU memory, the GPU has {gib(there)}"
    ways = ["take a larger GPU"]
    if dtype == "float32" and weights // 2 + CONTEXT_BYTES <= there:
        ways.insert(0, f"set dtype={'bfloat16' if bfloat16 else 'float16'}")
    if weights + CONTEXT_BYTES > there:
        wanted += f", and the weights alone take {gib(weights)}"
    else:
        ways.insert(0, "lower resources.instruction_batch or resources.feature_cache_mib")
    return f"{wanted}; {', or '.join(ways)}"


def in_parts(needed: Mapping[str, int]) -> str:
    """The parts in words: 20.6 GiB of GPU memory: weights of SAM2 0.4, ..."""
    parts = ", ".join(f"{part} {size / 2**30:.1f}" for part, size in needed.items())
    return f"{gib(sum(needed.values()))} of GPU memory: {parts}"


def gib(size: float) -> str:
    """A size in words: 22.1 GiB."""
    return f"{size / 2**30:.1f} GiB"
