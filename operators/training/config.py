"""The settings of a stage of training and of the model that it starts from.

This module does not import torch. Processes that only make samples read the settings too, and torch with transformers
would cost each of them several seconds and hundreds of MB.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Factors of the losses in their sum. The defaults are the paper's; the losses after the third are this project's own.

    Attributes:
        ce: cross entropy of the answer's tokens.
        bce: binary cross entropy of the mask logits.
        dice: Dice loss of the masks.
        presence: binary cross entropy of SAM2's object score.
        auxiliary: training-only heads that read colour, shape, place and presence.
        place: position of each patch of the vision tower, and radius of the object on it.
        centre: centre of the object on each patch of the vision tower.
        pointing: share of the attention of [SEG] and [TAK] that lies on the objects meant; needs `forward.share_prefix`.
        reference: the same one layer before, on the object that an instruction names beside the one it means.
        tak_place: position of the object, read from [TAK].
        tak_presence: presence of an object, read from [TAK], in addition to its part in `auxiliary`.
        travel: position and displacement of the object at each of the frames' tokens, read from the LLaMA's states;
            needs `forward.share_prefix`.
        pace: speed, size and visible share of the object at each of the frames' tokens; needs `forward.share_prefix`.
        deeds: actions and ranks of the object at each of the frames' tokens; needs `forward.share_prefix`.
        oracle: squared distance of [TAK] and [SEG] from the oracle's embedding of the object that is meant.
    """

    ce: float = 1.0
    bce: float = 2.0
    dice: float = 0.5
    presence: float = 0.0
    auxiliary: float = 0.0
    place: float = 0.0
    centre: float = 0.0
    pointing: float = 0.0
    reference: float = 0.0
    tak_place: float = 0.0
    tak_presence: float = 0.0
    travel: float = 0.0
    pace: float = 0.0
    deeds: float = 0.0
    oracle: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) >= 0:
                raise ValueError(f"losses.{item.name} = {getattr(self, item.name)}: expected 0 or more")
        for name in ("place", "centre"):
            if getattr(self, name) > 0 and self.auxiliary == 0:
                raise ValueError(
                    f"losses.{name} = {getattr(self, name)}: expected losses.auxiliary above 0, "
                    "because both read the same patches"
                )


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """How SAM2 is trained on a clip. The defaults are the paper's recipe.

    Attributes:
        window: sampled frames around the keyframe that are segmented; 1: the keyframe alone.
        memory: where tracking starts: `prompt`, the keyframe's own decoding with its soft mask; `mask`, that mask as a
            new prompt, as in inference.
        truth_in_memory: with `memory: mask`, the chance that the true mask replaces the predicted one, 0 to 1.
        candidates: further random frames that are decoded from the prompt alone, as TKS does.
        mask_size: size at which masks are compared: the `frame`'s own, or that of SAM2's `low`-resolution logits.
        empty_masks: losses taken of masks whose truth is empty: `all`, `bce` alone, or `none`, which leaves absence to
            the object score.
    """

    window: int = 3
    memory: Literal["prompt", "mask"] = "prompt"
    truth_in_memory: float = 0.0
    candidates: int = 0
    mask_size: Literal["frame", "low"] = "frame"
    empty_masks: Literal["all", "bce", "none"] = "all"

    def __post_init__(self) -> None:
        if self.window < 1 or self.candidates < 0:
            raise ValueError(
                f"window = {self.window}, candidates = {self.candidates}: expected at least 1 and at least 0"
            )
        if not 0 <= self.truth_in_memory <= 1:
            raise ValueError(f"truth_in_memory = {self.truth_in_memory}: expected 0 .. 1")


@dataclass(frozen=True, kw_only=True)
class ForwardConfig:
    """How a clip goes through the model. The defaults are the paper's recipe.

    Attributes:
        alpha: weight of the [SEG] mean in the fused embedding (TDA).
        prompts: source of SAM2's prompts: the `language` model or the training-only `oracle`. With `none`, SAM2 does not
            run, and the language model learns by its auxiliary losses. With `nothing asked`, the language model does not
            run either, and the image encoders learn by naming the object at each place.
        truth: the target of SAM2's masks: the objects that are `meant`, or the one object that the auxiliary heads read
            from [TAK] (`told`). A prompt that does not determine the object teaches SAM2 to segment pieces of several
            objects.
        keyframe: the sampled frame most similar to [TAK], or a random one that all instructions of a clip share.
        segment: how SAM2 is trained.
        share_prefix: whether frames go through the LLaMA once for all instructions of a clip. Gradient checkpointing
            needs false.
        blind: whether the LLaMA reads instructions without frames, so that a fresh one learns the text first.
        max_rows: the most positions that a dialogue may take in the LLaMA.
    """

    alpha: float = 0.1
    prompts: Literal["language", "oracle", "none", "nothing asked"] = "language"
    truth: Literal["meant", "told"] = "meant"
    keyframe: Literal["similarity", "random"] = "similarity"
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    share_prefix: bool = True
    blind: bool = False
    max_rows: int = 2048

    def __post_init__(self) -> None:
        if self.truth == "told" and self.prompts != "language":
            raise ValueError(
                f"truth = told, prompts = {self.prompts}: expected prompts language, whose [TAK] tells the object"
            )


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters on linear layers of the LLaMA. The defaults are the paper's.

    Attributes:
        rank: rank of an adapter; 0: no adapters.
        alpha: scale of an adapter; its product is multiplied by alpha / rank.
        dropout: dropout before an adapter, 0 to 1.
        targets: names of the layers that get an adapter.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with a linear warm-up and then a decay of the learning rate. The defaults are the paper's.

    Attributes:
        rate: highest learning rate.
        muon: learning rate at which Muon trains the matrices of linear layers, with the same warm-up, decay and weight
            decay; 0: AdamW trains them too.
        betas: AdamW's decay rates of the first and second moment.
        weight_decay: AdamW's and Muon's weight decay.
        warmup: steps over which the rate rises linearly from 0.
        decay: how the rate falls after the warm-up.
        final: share of the highest rate at the last step.
        clip: largest norm of the gradient.
        average: decay of the moving average of the weights, which evaluation and the bundle take; 0: no average.
    """

    rate: float = 3e-4
    muon: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup: int = 100
    decay: Literal["linear", "cosine", "none"] = "linear"
    final: float = 0.0
    clip: float = 1.0
    average: float = 0.0

    def __post_init__(self) -> None:
        if not self.rate > 0 or not 0 <= self.average < 1 or not self.clip > 0:
            raise ValueError(
                f"rate = {self.rate}, clip = {self.clip}, average = {self.average}: expected above 0, above 0, in 0 .. 1"
            )
        if not self.muon >= 0:
            raise ValueError(f"muon = {self.muon}: expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """The model that training starts from: a bundle or fresh weights.

    Attributes:
        bundle: a name of `vrshq models`, a local folder, a bucket uri or a hub id; none: a fresh model of `sizes`.
        sizes: sizes of a fresh model, as in a bundle's `bundle.json`. Its tokenizer has `sizes.language.vocab_size` - 2
            pieces, made of the words of synthetic instructions.
        lora: low-rank adapters.
        auxiliary: whether the model has the training-only heads; they start from those of `bundle`, if it has any.
        frozen_dtype: type of the weights that are not trained: `float32` or `bfloat16`.
        gradient_checkpointing: whether activations are computed again in the backward pass, which saves memory.
    """

    bundle: str | None = None
    sizes: dict[str, Any] = field(default_factory=dict)
    lora: LoraConfig = field(default_factory=LoraConfig)
    auxiliary: bool = False
    frozen_dtype: str = "float32"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if (self.bundle is None) == (not self.sizes):
            raise ValueError("start: expected either a bundle or sizes")
        if self.frozen_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"start.frozen_dtype {self.frozen_dtype!r}: expected float32 or bfloat16")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of training.

    Attributes:
        name: name of the stage, unique within the run.
        steps: optimiser steps.
        batch: samples of a step, over all workers; accumulated where there are fewer workers.
        trained: beginnings of the names of the parameters that are trained; all others are frozen. `lora`: all
            adapters.
        language_layers: layers of the LLaMA from this stage on; new ones are inserted before the last two, and change
            nothing until they are trained. None: as many as before.
        frame_differences: whether the frames' tokens hold, from this stage on, what changes between neighbouring sampled
            frames, see `FrameDifferences`; this changes nothing until it is trained. False: as before.
        bf16: whether matrix products are computed in bfloat16; weights stay float32.
        forward: how a clip goes through the model.
        losses: factors of the losses.
        optimiser: learning rates and the optimiser's settings.
    """

    name: str = "stage"
    steps: int
    batch: int = 1
    trained: tuple[str, ...]
    language_layers: int | None = None
    frame_differences: bool = False
    bf16: bool = False
    forward: ForwardConfig = field(default_factory=ForwardConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"stage {self.name}: steps {self.steps}, batch {self.batch}: expected at least 1")
        for name in ("pointing", "reference", "travel", "pace", "deeds"):
            weight = getattr(self.losses, name)
            if weight > 0 and (self.forward.blind or not self.forward.share_prefix):
                raise ValueError(
                    f"stage {self.name}: losses.{name} = {weight}: expected forward.share_prefix true and "
                    "forward.blind false, because the loss reads the frames that all instructions share"
                )
