"""The forward pass of training on one clip: teacher-forced prompts, TDA, SAM2 around the keyframe, all losses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vrshq.operators.fuse import fuse, similarities
from vrshq.operators.models.llama import KeyValues
from vrshq.operators.models.preprocess import View, tower_input, tower_view
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.vrs_hq.clustering import Level, cluster
from vrshq.operators.models.vrs_hq.network import ChatUniVi
from vrshq.operators.models.vrs_hq.prompt import Prompt, PromptTokenizer
from vrshq.operators.training.auxiliary import Auxiliary
from vrshq.operators.training.clip import Clip, Objects
from vrshq.operators.training.config import ForwardConfig, LossWeights
from vrshq.operators.training.dialogue import answer_labels, encode_dialogue
from vrshq.operators.training.losses import answer_loss, bce_loss, dice_loss, presence_loss
from vrshq.operators.training.places import dense_labels, padded_view
from vrshq.operators.training.pointing import (
    LAYER,
    REFERENCE_LAYER,
    AttentionInputs,
    frame_rows,
    meant_tokens,
    pointing_loss,
    record_attention,
)
from vrshq.operators.training.queries import draw_queries
from vrshq.operators.training.segmentation import Segmented, compared, encode_frames, segment, square_masks

Losses = dict[str, Tensor]


class TrainingModel(nn.Module):
    """The networks of a bundle and the training-only parts: the LM head and, for a model from scratch, `Auxiliary`.

    `language` and `segmenter` stay in evaluation mode (no dropout in either but LoRA's own, which follows `train`).
    """

    def __init__(
        self,
        language: ChatUniVi,
        segmenter: Segmenter,
        tokenizer: PromptTokenizer,
        lm_head: nn.Linear | None = None,
        auxiliary: Auxiliary | None = None,
    ) -> None:
        super().__init__()
        self.language, self.segmenter, self.lm_head, self.auxiliary = language, segmenter, lm_head, auxiliary
        self.tokenizer = tokenizer
        self.segmenter.gate_masks = False

    def forward(self, clip: Clip, seed: int, config: ForwardConfig, weights: LossWeights) -> Losses:
        """All losses of one clip.

        Args:
            clip: frames and instructions, or a dialogue.
            seed: of everything random: frames, dropout.
            config: how the clip goes through the model.
            weights: of the losses.

        Returns:
            Scalars: the unweighted losses, `loss` as their weighted sum, and measures without a graph, such as `iou` of the
            masks at logit 0.
        """
        random = np.random.default_rng(seed)
        torch.manual_seed(seed)
        losses: Losses = {}
        if clip.turns:
            losses["ce"] = self._dialogue(clip, config)
        elif config.prompts == "nothing asked":
            self._name_places(clip, weights, losses)
        elif config.prompts == "oracle":
            self._with_oracle(clip, config, weights, random, losses)
        else:
            self._with_language(clip, config, weights, random, losses)
        total = sum(getattr(weights, name) * value for name, value in losses.items() if hasattr(weights, name))
        assert isinstance(total, Tensor), "a clip without instructions"
        return {"loss": total, **losses}

    def _dialogue(self, clip: Clip, config: ForwardConfig) -> Tensor:
        dialogue = encode_dialogue(self.tokenizer, clip.turns, len(clip.frames), config.max_rows)
        tokens, _, _ = self._image_tokens(clip.frames)
        embeddings = self.language.embed(dialogue.input_ids, tokens)
        states = self.language.llama(embeddings[None])[0]
        extra = (tokens.shape[1] - 1) * len(clip.frames)
        first = next((index for index, label in enumerate(dialogue.labels) if label >= 0), len(dialogue.labels))
        labels = torch.tensor(dialogue.labels[first:], device=states.device)
        return self._answer_loss(states[first - 1 + extra : -1], labels)

    def _answer_loss(self, states: Tensor, labels: Tensor) -> Tensor:
        assert self.lm_head is not None, "the cross entropy needs the LM head"
        kept = labels >= 0
        return answer_loss(self.lm_head(states[kept]), labels[kept])

    def _name_places(self, clip: Clip, weights: LossWeights, losses: Losses) -> None:
        assert self.auxiliary is not None, "naming places needs the auxiliary part"
        assert clip.objects is not None, "naming places needs a synthetic clip"
        parts = []
        if _learns(self.language.vision_tower):
            patches = self.language.patch_features(tower_input(clip.frames, self.language.config.tower))
            parts.append(self._read_patches(patches, clip.objects, self._view(clip.frames), weights, losses))
        if _learns(self.segmenter.image_encoder):
            parts.append(self._read_maps(encode_frames(self.segmenter, clip.frames).s16, clip.objects, losses))
        if not parts:
            raise ValueError(
                "prompts 'nothing asked': expected a stage that trains the vision tower or SAM2's image encoder"
            )
        losses["auxiliary"] = torch.stack(parts).sum()

    def _view(self, frames: np.ndarray) -> View:
        return tower_view(frames.shape[1], frames.shape[2], self.language.config.tower)

    def _read_patches(
        self, patches: Tensor, objects: Objects, view: View, weights: LossWeights, losses: Losses
    ) -> Tensor:
        """The auxiliary loss of the tower's patches; `place` and `centre`, if their weights are above 0, go into `losses`."""
        assert self.auxiliary is not None, "reading patches needs the auxiliary part"
        labels = dense_labels(objects, view)
        named = self.auxiliary.name_places(self.auxiliary.on_tower, patches, labels)
        losses["shapes_on_tower"] = named.right
        if weights.place > 0:
            losses["place"] = self.auxiliary.place_loss(patches, labels, view)
        if weights.centre > 0:
            losses["centre"] = self.auxiliary.centre_loss(patches, labels)
        return named.loss

    def _read_maps(self, maps: Tensor, objects: Objects, losses: Losses) -> Tensor:
        """The auxiliary loss of SAM2's maps (n, C, s, s) at stride 16."""
        assert self.auxiliary is not None, "reading maps needs the auxiliary part"
        height, width = objects.masks.shape[2:]
        labels = dense_labels(objects, padded_view(height, width, maps.shape[-1]))
        named = self.auxiliary.name_places(self.auxiliary.on_image, maps.flatten(2).transpose(1, 2), labels)
        losses["shapes_on_image"] = named.right
        return named.loss

    def _with_oracle(
        self, clip: Clip, config: ForwardConfig, weights: LossWeights, random: np.random.Generator, losses: Losses
    ) -> None:
        assert self.auxiliary is not None, "oracle prompts need the auxiliary part"
        assert clip.objects is not None, "oracle prompts need a synthetic clip"
        queries, masks = draw_queries(clip.objects, random)
        prompts = self.auxiliary.oracle(queries)
        keyframes = [int(frame) for frame in random.integers(len(clip.frames), size=len(prompts))]
        self._segment(clip, masks, prompts, keyframes, config, weights, random, losses)

    def _with_language(
        self, clip: Clip, config: ForwardConfig, weights: LossWeights, random: np.random.Generator, losses: Losses
    ) -> None:
        words = clip.words or ("",) * len(clip.texts)
        prompts = [
            self.tokenizer.encode(text, len(clip.frames), answer)
            for text, answer in zip(clip.texts, words, strict=True)
        ]
        patches: Tensor | None = None
        view = self._view(clip.frames)
        if config.blind:
            states = self.language.suffix_states([], prompts, whole=True)
        else:
            tokens, patches, levels = self._image_tokens(clip.frames)
            llama = self.language.llama
            # a model of two layers has no layer before `LAYER`; `earlier` is read for the loss `reference` alone
            before = REFERENCE_LAYER if weights.reference > 0 else LAYER
            with record_attention(llama, LAYER) as recorded, record_attention(llama, before) as earlier:
                states, prefix = self._suffix_states(prompts, tokens, config.share_prefix)
            if weights.pointing > 0 and clip.masks is not None:
                assert prefix is not None, "pointing needs a shared prefix"
                meant = meant_tokens(levels, clip.masks, view)
                losses["pointing"] = pointing_loss(llama, recorded, prefix, prompts, meant)
            if weights.reference > 0 and clip.objects is not None:
                assert prefix is not None, "the reference needs a shared prefix"
                referred = clip.objects.referred
                named = clip.objects.masks[referred.argmax(1)] & np.max(referred, axis=1)[:, None, None, None]
                losses["reference"] = pointing_loss(llama, earlier, prefix, prompts, meant_tokens(levels, named, view))
            if (
                self.auxiliary is not None
                and clip.objects is not None
                and max(weights.travel, weights.pace, weights.deeds) > 0
            ):
                self._read_frames(prompts[0], levels, recorded, clip.objects, view, weights, losses)
        if weights.ce > 0:
            labels = [answer_labels(self.tokenizer, *item) for item in zip(clip.texts, prompts, words, strict=True)]
            # the state at one token predicts the next one
            rows = [state[:-1] for state in states]
            wanted = [label[prompt.prefix_length + 1 :] for label, prompt in zip(labels, prompts, strict=True)]
            joined = torch.tensor([label for row in wanted for label in row], device=states[0].device)
            losses["ce"] = self._answer_loss(torch.cat(rows), joined)
        read = [
            self.language.text_hidden_fcs(
                state[
                    torch.tensor([*prompt.seg_positions, prompt.tak_position], device=state.device) - prompt.prefix_rows
                ]
            ).float()
            for prompt, state in zip(prompts, states, strict=True)
        ]
        seg, tak = torch.stack([rows[:-1] for rows in read]), torch.stack([rows[-1] for rows in read])
        if self.auxiliary is not None and clip.objects is not None:
            self._read_tokens((seg, tak), patches, clip.objects, view, weights, losses)
        if config.prompts == "none" or clip.masks is None:
            return
        fused = (
            torch.stack([fuse(*pair, config.alpha) for pair in zip(seg, tak, strict=True)]) if clip.is_video else tak
        )
        with torch.no_grad():
            cosines = torch.stack([similarities(*pair) for pair in zip(seg, tak, strict=True)])
        keyframes = cosines.argmax(1).tolist()
        if config.keyframe == "random":
            keyframes = [int(random.integers(len(clip.frames)))] * len(prompts)
        masks = clip.masks
        if config.truth == "told":
            assert self.auxiliary is not None, "told objects need the auxiliary part"
            assert clip.objects is not None, "told objects need a synthetic clip"
            told = self.auxiliary.told(tak, clip.objects, view)
            single = clip.objects.meant.sum(1) == 1
            masks = np.where(single[:, None, None, None], clip.objects.masks[told], masks)
        self._segment(clip, masks, fused, keyframes, config, weights, random, losses)

    def _read_tokens(
        self,
        tokens: tuple[Tensor, Tensor],
        patches: Tensor | None,
        objects: Objects,
        view: View,
        weights: LossWeights,
        losses: Losses,
    ) -> None:
        """Adds the losses of the auxiliary heads on [SEG] and [TAK], and on the tower's patches if the tower learns."""
        assert self.auxiliary is not None, "reading tokens needs the auxiliary part"
        seg, tak = tokens
        if weights.auxiliary > 0:
            losses["auxiliary"] = self.auxiliary.token_loss(seg, tak, objects, view)
            if _learns(self.language.vision_tower) and patches is not None:
                losses["auxiliary"] = losses["auxiliary"] + self._read_patches(patches, objects, view, weights, losses)
        if weights.tak_place > 0:
            losses["tak_place"] = self.auxiliary.tak_place_loss(tak, objects, view)
        if weights.tak_presence > 0:
            losses["tak_presence"] = self.auxiliary.tak_presence_loss(tak, objects)
        if weights.oracle > 0:
            losses["oracle"] = self.auxiliary.oracle_loss(seg, tak, objects)

    def _read_frames(
        self,
        prompt: Prompt,
        levels: list[Level],
        recorded: AttentionInputs,
        objects: Objects,
        view: View,
        weights: LossWeights,
        losses: Losses,
    ) -> None:
        """Adds the losses `travel`, `pace` and `deeds`, read from the states at the frames' tokens."""
        assert self.auxiliary is not None, "reading frames needs the auxiliary part"
        assert recorded.before is not None, "reading frames needs a shared prefix"
        own = meant_tokens(levels, objects.masks, view)
        frames, tokens = own.shape[1:]
        states = recorded.before[0, frame_rows(prompt, frames, tokens, own.device)].view(frames, tokens, -1)
        if weights.travel > 0:
            losses["travel"] = self.auxiliary.travel_loss(states, own, objects, view)
        if weights.pace > 0:
            losses["pace"] = self.auxiliary.pace_loss(states, own, objects, view)
        if weights.deeds > 0:
            losses["deeds"] = self.auxiliary.deeds_loss(states, own, objects)

    def _segment(
        self,
        clip: Clip,
        masks: np.ndarray,
        prompts: Tensor,
        keyframes: Sequence[int],
        config: ForwardConfig,
        weights: LossWeights,
        random: np.random.Generator,
        losses: Losses,
    ) -> None:
        size = self.segmenter.image_size
        frames = clip.frames
        if config.segment.window == 1 and config.segment.candidates == 0 and not _learns(self.segmenter.image_encoder):
            used = sorted(set(keyframes))  # no other frame is used
            frames, masks, keyframes = frames[used], masks[:, used], [used.index(frame) for frame in keyframes]
        truth = square_masks(masks, size).to(prompts.device)
        features = encode_frames(self.segmenter, frames)
        if (
            weights.auxiliary > 0
            and self.auxiliary is not None
            and clip.objects is not None
            and features.s16.requires_grad
        ):
            named = self._read_maps(features.s16, clip.objects, losses)
            losses["auxiliary"] = losses["auxiliary"] + named if "auxiliary" in losses else named
        output = segment(self.segmenter, features, prompts, keyframes, truth, config.segment, random)
        logits, wanted = compared(output, masks, truth, clip.ignored, size, config.segment)
        shown = wanted.flatten(1).amax(1) > 0.5
        every = torch.ones_like(shown)
        covered, overlapped = {"all": (every, every), "bce": (every, shown), "none": (shown, shown)}[
            config.segment.empty_masks
        ]
        losses["bce"] = bce_loss(logits[covered], wanted[covered])
        losses["dice"] = dice_loss(logits[overlapped], wanted[overlapped])
        if weights.presence > 0:
            losses["presence"] = presence_loss(output.object_logit, shown)
        with torch.no_grad():
            losses |= ious(output, logits, wanted, shown)

    def _image_tokens(self, frames: np.ndarray) -> tuple[Tensor, Tensor, list[Level]]:
        """The frames' tokens in the prompt (n, K, D), the tower's patches (n, N, C), and the merging of patches to tokens."""
        pixels = tower_input(frames, self.language.config.tower)
        with torch.set_grad_enabled(_learns(self.language.vision_tower)):
            patches = self.language.patch_features(pixels)
            levels = cluster(patches, self.language.config.clustering)
        return self.language.in_order(*self.language.project(patches, levels)), patches, levels

    def _suffix_states(
        self, prompts: Sequence[Prompt], tokens: Tensor, share: bool
    ) -> tuple[list[Tensor], KeyValues | None]:
        """Last hidden states after the last frame of each prompt, one (rows, D) each from row `prefix_rows` on.

        Also returns the keys and values of the shared prefix; None where it is not shared.
        """
        if not share:
            return [self.language.hidden_states(prompt, tokens)[prompt.prefix_rows :] for prompt in prompts], None
        prefix = self.language.run_prefix(prompts[0], tokens)
        return self.language.suffix_states(prefix, prompts, whole=True), prefix


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def ious(output: Segmented, logits: Tensor, truth: Tensor, shown: Tensor) -> Losses:
    """Measures without a graph.

    Returns:
        `iou` and `iou_tracked`: mean IoU of prompted and of tracked masks whose truth is not empty; NaN for none.
        `object_accuracy`: share of outputs whose object score has the right sign.
    """
    mask, wanted = logits > 0, truth > 0.5
    overlap, union = (mask & wanted).flatten(1).sum(1), (mask | wanted).flatten(1).sum(1)
    each = overlap / union.clamp(min=1)
    return {
        "iou": each[shown & output.prompted].mean(),
        "iou_tracked": each[shown & ~output.prompted].mean(),
        "object_accuracy": ((output.object_logit > 0) == shown).float().mean(),
    }
