"""A whole unit on a pretended GPU: from the bytes of its frames to the codes of its masks, nothing is left on the CPU.

`tests.support.pretend_gpu` computes real values on tensors that say that they lie on a GPU. All branches for a GPU are taken:
frames resized and normalised there, fused attention, holes, changes packed before the copy. The true sizes are checked under
fake tensors, in `tests/operators/models/test_fake_device*.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.support import sa2va_tiny
from tests.support.array_video import ArrayVideo, unit_batch
from tests.support.pretend_gpu import Away, pretend_gpu
from vrshq.operators import propagate
from vrshq.operators.batch import Batch, Operator, run_operators
from vrshq.operators.masks import rle
from vrshq.operators.models import shared
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.work.worker import load_operator

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which the tests marked gpu run")

STAGES = ("presample", "tokens", "fuse", "keyframe", "propagate")
MODELS = {"vrs_hq": "untrained-tiny", "sa2va": sa2va_tiny.MODEL}


@pytest.fixture
def device() -> Iterator[str]:
    """A pretended GPU, whose networks no other test gets."""
    with pretend_gpu():
        yield "cuda"
    for cached in (shared.shared_network, shared.shared_segmenter):
        cached.cache_clear()


def answered(family: str, device: str, dtype: str = "float32") -> Batch:
    settings = Settings.model_validate({"model": MODELS[family], "dtype": dtype})
    configs = settings.operator_configs(MODELS[family], device)
    operators: list[Operator] = [load_operator(name)(configs[name]) for name in STAGES]
    if family == "sa2va":
        video, texts = sa2va_tiny.case_video("q3"), [sa2va_tiny.QUESTIONS[one] for one in ("q3", "q2")]
    else:
        video, texts = ArrayVideo(9, 48, 80), ["the red car", "what moves first?"]
    batch = run_operators(operators, unit_batch(video, texts))
    assert batch["errors"] == [[None, None]]
    return batch


@pytest.fixture(scope="module", params=list(MODELS))
def on_cpu(request: pytest.FixtureRequest) -> tuple[str, Batch]:
    return request.param, answered(request.param, "cpu")


def test_a_unit_on_a_gpu_has_the_masks_of_the_cpu(on_cpu: tuple[str, Batch], device: str) -> None:
    family, want = on_cpu
    got = answered(family, device)
    for column in ("sampled_frames", "answers", "keyframes", "num_objects", "areas", "bboxes"):
        assert got[column] == want[column], column
    for column in ("object_scores", "seg", "frame_scores"):
        for one, other in zip(got[column][0], want[column][0], strict=True):
            np.testing.assert_allclose(np.ravel(one), np.ravel(other), atol=1e-3)
    assert any(area for row in got["areas"][0][0] for area in row)


@pytest.mark.parametrize("family", [pytest.param("sa2va", marks=pytest.mark.long), "vrs_hq"])
def test_a_unit_is_answered_in_bfloat16_on_a_gpu(family: str, device: str) -> None:
    assert answered(family, device, "bfloat16")["errors"] == [[None, None]]


def test_a_tensor_left_on_the_cpu_is_reported(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter: Segmenter = shared.shared_network("untrained-tiny", "segmenter", device, "float32")
    side = segmenter.config.image_size
    features = segmenter.encode(torch.zeros(1, 3, side, side, device=device))
    assert isinstance(features.s16, Away)
    with pytest.raises(RuntimeError, match="two devices"):
        segmenter.decode_prompt(features, torch.zeros(1, segmenter.config.d_model))
    with pytest.raises(TypeError, match="copy it to the host first"):
        rle.encode((features.s4[0] > 0).numpy())
    monkeypatch.setattr(propagate, "fill_holes", lambda low_res, _: torch.where(torch.zeros(64, 64) > 0, 0.1, low_res))
    with pytest.raises(AssertionError, match="two devices"):
        answered("vrs_hq", device)
