"""The LLaMA, the CLIP and its tokenizer of this program give what those of transformers give, whose import takes long."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.support.transformers_networks import hf_clip, hf_llama, hf_tower
from vrshq.operators.models.bundle import BUNDLED
from vrshq.operators.models.clip_network import Clip, VisionTransformer
from vrshq.operators.models.clip_tokens import BEGIN, END, ClipTokenizer
from vrshq.operators.models.config import ClipConfig, ClipTextConfig, LanguageConfig, VisionConfig
from vrshq.operators.models.llama import KeyValues, Llama

LANGUAGE = LanguageConfig(
    hidden_size=64, intermediate_size=96, num_layers=3, num_heads=4, num_key_value_heads=4, vocab_size=50
)
GROUPED = LanguageConfig(
    hidden_size=64, intermediate_size=96, num_layers=2, num_heads=4, num_key_value_heads=2, vocab_size=50
)
VISION = VisionConfig(
    hidden_size=48, intermediate_size=80, num_layers=3, num_heads=4, image_size=56, patch_size=14, layer_norm_eps=1e-5
)
TEXT = ClipTextConfig(
    hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, vocab_size=60, max_positions=12, eos_token_id=59
)
CLIP = ClipConfig(projection_dim=24, vision=VISION, text=TEXT)


def seeded(build: Any) -> Any:
    torch.manual_seed(5)
    return build().eval()


def assert_same_weights(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    wanted = {name: value for name, value in theirs.state_dict().items() if not name.endswith("position_ids")}
    found = ours.state_dict()
    assert list(found) == list(wanted)
    different = [name for name, value in found.items() if not torch.equal(value, wanted[name])]
    assert not different


@pytest.mark.parametrize("config", [LANGUAGE, GROUPED], ids=["plain", "grouped"])
@torch.inference_mode()
def test_a_seed_gives_the_weights_and_states_of_transformers_llama(config: LanguageConfig) -> None:
    ours, theirs = seeded(lambda: Llama(config)), seeded(lambda: hf_llama(config))
    assert_same_weights(ours, theirs)
    embeddings = torch.randn(2, 17, config.hidden_size)
    wanted = theirs(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    torch.testing.assert_close(ours(embeddings), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_rows_after_a_shared_prefix_have_the_states_of_the_whole_sequence(dtype: torch.dtype) -> None:
    network, whole = seeded(lambda: Llama(GROUPED)).to(dtype), torch.randn(3, 20, 64, dtype=dtype)
    whole[:, :13] = whole[0, :13]
    prefix: KeyValues = []
    network(whole[:1, :13], kept=prefix)
    before = [(keys.clone(), values.clone()) for keys, values in prefix]
    found = network(whole[:, 13:], prefix)
    atol = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(found, network(whole)[:, 13:], rtol=0, atol=atol)
    assert all(map(torch.equal, sum(prefix, ()), sum(before, ()))), "the prefix was changed"


@pytest.mark.parametrize("size", [(56, 56), (28, 84)], ids=["its own size", "interpolated"])
@torch.inference_mode()
def test_a_seed_gives_the_weights_and_patches_of_transformers_tower(size: tuple[int, int]) -> None:
    ours, theirs = seeded(lambda: VisionTransformer(VISION)), seeded(lambda: hf_tower(VISION))
    assert_same_weights(ours, theirs)
    pixels = torch.randn(2, 3, *size)
    wanted = theirs(pixels, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(ours(ours.embed(pixels)), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("end", [59, 2], ids=["its own end token", "the largest id"])
@torch.inference_mode()
def test_a_seed_gives_the_weights_and_features_of_transformers_clip(end: int) -> None:
    config = ClipConfig(projection_dim=24, vision=VISION, text=ClipTextConfig(**(vars(TEXT) | {"eos_token_id": end})))
    ours, theirs = seeded(lambda: Clip(config)), seeded(lambda: hf_clip(config))
    assert_same_weights(ours, theirs)
    pixels = torch.randn(3, 3, 56, 56)
    wanted: Tensor = theirs.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(ours.image_features(pixels), wanted, rtol=0, atol=1e-5)
    ids = torch.tensor([[58, 4, 5, 59, 59, 59], [58, 7, 3, 9, 11, 59]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
    wanted = theirs.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
    torch.testing.assert_close(ours.text_features(ids), wanted, rtol=0, atol=1e-5)


TOKENIZER = BUNDLED / "untrained-tiny" / "clip"


@pytest.fixture(scope="module")
def theirs() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True)


@given(
    st.lists(
        st.sampled_from(["the red car's", "\u00c5ngstr\u00f6m", " \t\n", "42", BEGIN, END, "?!", "\U0001f600"])
        | st.text()
    )
)
def test_texts_have_the_ids_of_transformers_tokenizer(theirs: Any, pieces: list[str]) -> None:
    text = " ".join(pieces)
    assert ClipTokenizer(TOKENIZER).ids(text) == theirs(text, split_special_tokens=True).input_ids


def test_a_tokenizer_json_alone_gives_the_same_ids(theirs: Any, tmp_path: Path) -> None:
    theirs.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert ClipTokenizer(tmp_path).ids("a red car, left") == ClipTokenizer(TOKENIZER).ids("a red car, left")


def test_the_stages_of_vrs_hq_run_without_transformers() -> None:
    code = (
        "import sys\nfrom vrshq.operators.models.vrs_hq import family\n"
        "from vrshq.operators import presample, tokens, fuse, keyframe, propagate\n"
        "from vrshq.operators.models.bundle import open_bundle\n"
        "from vrshq.operators.models.vrs_hq.load import LOADERS\n"
        "import torch\nbundle = open_bundle('untrained-tiny')\nbundle.clip_tokenizer()\nbundle.prompt_tokenizer()\n"
        "network = [load(bundle, 'cpu', torch.float32) for load in LOADERS.values()][1]\n"
        "side = network.config.image_size\nfeatures = network.encode(torch.zeros(1, 3, side, side))\n"
        "memory = network.condition(features, torch.ones(1, side, side).bool(), 0)[1]\n"
        "network.track(features, [memory], [memory.features] * 6, [memory.pointer] * 15, steady=True)\n"
        "print([name for name in ('transformers', 'torch._dynamo', 'sympy', 'scipy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
