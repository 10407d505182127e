"""Every path through the networks runs on a GPU without a tensor left on the CPU, at the true sizes, in both types.

Under fake tensors (`tests.support.fake_device`) nothing is computed: an operator with tensors of two devices or unfit types
is an error. Widths, image sizes and lengths are those of VRS-HQ-7B, CLIP-L/336 and Sa2VA-4B; the depth is cut where a layer
repeats. `test_fake_device_sam2` has SAM2. What needs the values of pixels on the host (resizing, holes, codes, and the choice
of keyframes) has none here; `test_pretend_gpu` runs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from tests.support.array_video import ArrayVideo
from tests.support.fake_device import TWO_DEVICES, TYPES, Values, WrongDevice, fake_device, on_fake_device, there
from tests.support.sa2va_sizes import sa2va_4b
from vrshq.operators.models import clip
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.clip_network import Clip
from vrshq.operators.models.config import ClipConfig, LanguageConfig, ModelConfig, TowerConfig, VisionConfig
from vrshq.operators.models.preprocess import CLIP_SCALE, Pixels
from vrshq.operators.models.sa2va.network import Sa2vaLanguage, Seen
from vrshq.operators.models.sa2va.pictures import Picture
from vrshq.operators.models.sa2va.prompt import Prefix
from vrshq.operators.models.vrs_hq.clustering import cluster
from vrshq.operators.models.vrs_hq.network import ChatUniVi
from vrshq.operators.models.vrs_hq.prompt import Prompt

# Two layers each; the tower's last one is never run.
VRS_HQ_7B = ModelConfig(language=LanguageConfig(num_layers=2), tower=TowerConfig(num_layers=3))
CLIP_L = ClipConfig(vision=VisionConfig(image_size=336, num_layers=2), text=ModelConfig().clip.text)
FRAMES, TEXTS = 11, ("the red car", "which animal reacts first, and why does it?")

both = pytest.mark.parametrize("dtype", TYPES, ids=["float32", "bfloat16"])


@pytest.fixture
def device() -> Iterator[tuple[FakeTensorMode, Values]]:
    with fake_device() as modes:
        yield modes


def prompts(frames: int = FRAMES) -> list[Prompt]:
    with _disable_current_modes():
        tokenizer = open_bundle("untrained-tiny").prompt_tokenizer()
    return [tokenizer.encode(text, frames) for text in TEXTS]


@both
def test_tower_clusters_and_projector_run_on_the_device(dtype: torch.dtype, device: Any) -> None:
    network = on_fake_device(lambda: ChatUniVi(VRS_HQ_7B), device[0], dtype)
    pixels = torch.empty(8, 3, 224, 224, dtype=dtype, device="cuda")
    there(network.patch_features(pixels), 8, 256, 1024, dtype=dtype)
    levels = cluster(network.patch_features(pixels), VRS_HQ_7B.clustering)
    for level, count in zip(levels, VRS_HQ_7B.clustering.clusters, strict=True):
        there(level.tokens, 8, count, 1024, dtype=dtype)
    there(network.image_tokens(pixels), 8, 112, 4096, dtype=dtype)
    there(network.image_tokens(torch.empty(2, 3, 168, 294, device="cuda")), 2, 112, 4096, dtype=dtype)


@both
def test_prefix_suffix_and_read_out_run_on_the_device(dtype: torch.dtype, device: Any) -> None:
    network = on_fake_device(lambda: ChatUniVi(VRS_HQ_7B), device[0], dtype)
    tokens = torch.empty(FRAMES, 112, 4096, dtype=dtype, device="cuda")
    asked = prompts() * 8
    there(network.hidden_states(asked[0], tokens), asked[0].length, 4096, dtype=dtype)
    states = network.suffix_states(network.run_prefix(asked[0], tokens), asked)
    assert len(states) == 16
    there(states[0], len(states[0]), 4096, dtype=dtype)
    for read in network.read_out(asked, tokens):
        there(read.seg, FRAMES, 256, dtype=torch.float32)
        there(read.tak, 256, dtype=torch.float32)


@both
def test_pre_sampling_runs_on_the_device(dtype: torch.dtype, device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def inputs(frames: Any, size: int, *_: Any) -> Pixels:
        return Pixels(torch.empty(len(frames), size, size, 3, dtype=torch.uint8), CLIP_SCALE)

    # resizing needs the bytes of frames
    monkeypatch.setattr(clip, "clip_pixels", inputs)
    monkeypatch.setattr(clip, "ahead", lambda read, batches: map(read, batches))
    monkeypatch.setattr(Pixels, "staged", lambda self, _: self)
    network: Any = on_fake_device(lambda: Clip(CLIP_L), device[0], dtype)
    images = clip.image_embeddings(network, ArrayVideo(20, 16, 16), 16)
    texts = clip.text_embeddings(network, [[49406, 7, 49407], [49406, *[5] * 75, 49407]], 16)
    there(images, 20, 768, dtype=torch.float32)
    there(texts, 2, 768, dtype=torch.float32)
    there(clip.image_text_logits(network, images, texts), 2, 20, dtype=torch.float32)


@both
def test_sa2va_sees_reads_and_answers_on_the_device(dtype: torch.dtype, device: Any) -> None:
    config = sa2va_4b(2)
    network = on_fake_device(lambda: Sa2vaLanguage(config), device[0], dtype)
    grid = (1, 28, 50)  # a 480p frame
    pictures = [Picture(torch.empty(28 * 50, 2 * 3 * 16 * 16), grid) for _ in range(5)]
    seen = network.see(pictures[:4]) + network.see(pictures[4:])
    there(seen[0].tokens, 350, 2560, dtype=dtype)
    there(seen[0].deepstack[2], 350, 2560, dtype=dtype)
    length = 5 * 350
    ids = [1, 2, 3, *[config.image_token_id] * length, 4]
    places = [*range(3), *range(3, 3 + length), 3 + length]
    prefix = Prefix(ids, (places, places, places), [False] * 3 + [True] * length + [False])
    cache = network.run_prefix(prefix, Seen.concatenate(seen))
    # the untrained answer is token 0, again and again; a [SEG] in the instruction is projected
    answers = network.answers(prefix, cache, [[5, 99, 6], [7], [99, 8]], seg_id=99, max_new_tokens=3)
    assert [answer.ids for answer in answers] == [[0, 0, 0]] * 3
    assert [tuple(answer.embeddings.shape) for answer in answers] == [(1, 256), (0, 256), (1, 256)]
    assert {answer.embeddings.device.type for answer in answers} == {"cpu"}


def test_a_tensor_left_on_the_cpu_is_reported(device: Any) -> None:
    """Faults planted in paths that were just shown to run: pictures, an attention's mask, a type."""
    network = on_fake_device(lambda: ChatUniVi(VRS_HQ_7B), device[0])
    with pytest.raises(RuntimeError, match=TWO_DEVICES):
        network.hidden_states(prompts(2)[0], torch.empty(2, 112, 4096))
    query = torch.empty(1, 2, 3, 4, device="cuda")
    with pytest.raises(WrongDevice, match="cpu"):
        F.scaled_dot_product_attention(query, query, query, attn_mask=torch.ones(3, 3).bool())
    with pytest.raises(WrongDevice, match="bfloat16"):
        F.scaled_dot_product_attention(query, query, query.bfloat16())
