"""The language side against the kit: inputs, pre-sampling, prompts, clustering, LLaMA states, [SEG] and [TAK]."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from tests.support.parity import (
    KIT,
    Case,
    check,
    clip_weights,
    each_case,
    language_weights,
    load_case,
    model_config,
    needs_kit,
)
from vrshq.operators.models.clip import image_embeddings, image_text_logits, text_embeddings
from vrshq.operators.models.clip_network import Clip
from vrshq.operators.models.clip_tokens import ClipTokenizer
from vrshq.operators.models.preprocess import clip_input, sam2_input
from vrshq.operators.models.vrs_hq.clustering import cluster
from vrshq.operators.models.vrs_hq.network import ChatUniVi
from vrshq.operators.models.vrs_hq.prompt import Prompt, PromptTokenizer, conversation, expanded, normalize, question
from vrshq.operators.video.sampling import grid

pytestmark = needs_kit


@cache
def clip(device: str) -> Clip:
    network = Clip(model_config().clip).eval()
    network.load_state_dict(clip_weights())
    return network.to(device)


@cache
def language(device: str) -> ChatUniVi:
    network = ChatUniVi(model_config()).eval()
    network.load_state_dict(language_weights())
    return network.to(device)


class CaseVideo:
    def __init__(self, case: Case) -> None:
        self.array = case["frames"]
        self.num_frames = len(self.array)

    def stream(self, start: int, stop: int) -> np.ndarray:
        return self.array[start:stop]


def prompt_of(case: Case) -> Prompt:
    network = model_config().language
    tokenizer = PromptTokenizer(str(KIT / "model" / "tokenizer.model"), network.seg_token_id, network.tak_token_id)
    return tokenizer.encode(normalize(case.info["expression_raw"]), len(case["frame_ids"]))


@cache
def sampled_image_tokens(case_id: str, device: str) -> torch.Tensor:
    case = load_case(case_id)
    with torch.inference_mode():
        return language(device).image_tokens(clip_input(case["frames"][case["frame_ids"]], 224).to(device))


@each_case
def test_preprocessing_parity(case_id: str) -> None:
    case = load_case(case_id)
    first_sampled = case["frames"][case["frame_ids"][:1]]
    pixels, resized_hw = sam2_input(first_sampled, model_config().sam2.image_size)
    check(case, "sam_pixel_values_first", pixels[0])
    check(case, "resized_hw", resized_hw)
    check(case, "vt_pixel_values_first", clip_input(first_sampled, model_config().tower.image_size)[0])
    check(case, "clip_pixel_values_first", clip_input(case["frames"][:1], model_config().clip.vision.image_size)[0])


@each_case
def test_presampling_parity(case_id: str, device: str) -> None:
    case = load_case(case_id)
    ids = ClipTokenizer(KIT / "clip").ids(normalize(case.info["expression_raw"]))
    check(case, "clip_text_input_ids", [ids])
    with torch.inference_mode():
        images = image_embeddings(clip(device), CaseVideo(case), batch_size=4)
        # beside a longer text, so that the case's text is padded
        texts = text_embeddings(clip(device), [ids, [*ids, *ids]], batch_size=2)[:1]
        logits = image_text_logits(clip(device), images, texts)[0]
    check(case, "clip_image_embeds", images)
    check(case, "clip_text_embeds", texts)
    check(case, "clip_logits_per_image", logits)
    probabilities = logits.softmax(0).cpu().numpy()
    check(case, "clip_probs", probabilities)
    check(case, "index_frame", probabilities.argmax())
    sampled = grid(probabilities, 12, np.random.default_rng(0))
    check(case, "frame_ids", sampled)
    check(case, "clip_prob_selected", logits[sampled].softmax(0))


@each_case
def test_prompt_parity(case_id: str) -> None:
    case = load_case(case_id)
    sentence = normalize(case.info["expression_raw"])
    assert sentence == case.info["expression"]
    assert question(sentence) == case.info["question"]
    assert conversation(sentence) == case.info["prompt_template"]
    assert expanded(sentence, len(case["frame_ids"])) == case.info["prompt_expanded"]
    prompt = prompt_of(case)
    check(case, "input_ids", prompt.input_ids)
    check(case, "seg_positions", prompt.seg_positions)
    check(case, "tak_position", prompt.tak_position)
    assert prompt.length == case.info["expanded_length"]


@each_case
@pytest.mark.parametrize("source", ["own features", "stored features"])
def test_clustering_parity(case_id: str, source: str, device: str) -> None:
    case = load_case(case_id)
    features = torch.from_numpy(case["vt_features"]).to(device)
    if source == "own features":
        with torch.inference_mode():
            features = language(device).patch_features(clip_input(case["frames"][case["frame_ids"]], 224).to(device))
        check(case, "vt_features", features)
    levels = cluster(features, model_config().clustering)
    for index, level in enumerate(levels):
        check(case, f"ctm_center_idx_{index}", level.centres, label=source)
        check(case, f"ctm_assign_{index}", level.assignment, label=source)
    check(case, "tokens_pre_projector", torch.cat([level.tokens for level in levels], dim=1), label=source)


@each_case
def test_language_model_parity(case_id: str, device: str) -> None:
    case, network, prompt = load_case(case_id), language(device), prompt_of(load_case(case_id))
    image_tokens = sampled_image_tokens(case_id, device)
    check(case, "tokens_post_projector", image_tokens)
    with torch.inference_mode():
        states = network.hidden_states(prompt, image_tokens)
        check(case, "hidden_last", states)
        seg, tak = states[list(prompt.seg_positions)], states[[prompt.tak_position]]
        check(case, "seg_hidden", seg)
        check(case, "tak_hidden", tak)
        check(case, "seg_embed", network.text_hidden_fcs(seg))
        check(case, "tak_embed", network.text_hidden_fcs(tak))


@each_case
def test_shared_prefix_parity(case_id: str, device: str) -> None:
    case, network, prompt = load_case(case_id), language(device), prompt_of(load_case(case_id))
    image_tokens = sampled_image_tokens(case_id, device)
    with torch.inference_mode():
        (states,) = network.suffix_states(network.run_prefix(prompt, image_tokens), [prompt])
    begin = prompt.prefix_rows
    check(case, "hidden_last", states, case["hidden_last"][begin : begin + len(states)], label="shared prefix")
    result = network.read_out([prompt], image_tokens)[0]
    check(case, "seg_embed", result.seg, label="shared prefix")
    check(case, "tak_embed", result.tak[None], label="shared prefix")
