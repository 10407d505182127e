"""Memory attention equals SAM2's own in both implementations: averaging before the projection, and the fused kernel."""

from __future__ import annotations

import pytest
import torch
from sam2.modeling.memory_attention import MemoryAttention

from vrshq.operators.models.config import Sam2Config
from vrshq.operators.models.sam2 import attention as module
from vrshq.operators.models.sam2.attention import NARROW, Rotation, attend_to_memory
from vrshq.operators.models.sam2.segmenter import Segmenter

SMALL = Sam2Config(
    image_size=128,
    d_model=128,
    embed_dim=16,
    num_heads=1,
    stages=(1, 1, 2, 1),
    global_attention_blocks=(3,),
    window_spec=(8, 4, 8, 4),
    memory_attention_layers=2,
    memory_attention_dim_feedforward=64,
)


@pytest.mark.parametrize("memory_dim", [NARROW // 2, NARROW, 2 * NARROW])
@pytest.mark.parametrize("batch", [1, 3])
def test_memory_attention_equals_sam2s_own(memory_dim: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = Sam2Config(**{**vars(SMALL), "memory_dim": memory_dim})
    network = Segmenter(config).eval().memory_attention
    assert isinstance(network, MemoryAttention)
    averaged = 0

    def counted(queries: torch.Tensor, keys: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        nonlocal averaged
        averaged += 1
        return weighted(queries, keys, memory)

    weighted = module._weighted_memories
    monkeypatch.setattr(module, "_weighted_memories", counted)
    tokens, memories, pointers = 64, 3, 8
    image = torch.randn(1, tokens, config.d_model)
    memory = torch.randn(batch, memories * tokens + pointers, memory_dim)
    position = torch.randn(1, memories * tokens, memory_dim)
    padded = torch.cat([position, torch.zeros(1, pointers, memory_dim)], dim=1)
    with torch.inference_mode():
        rotation = Rotation.of(network, image.device, image.dtype)
        ours = attend_to_memory(network, image, memory, padded, pointers, rotation)
        theirs = network(
            curr=image.expand(batch, -1, -1).transpose(0, 1),
            memory=memory.transpose(0, 1),
            curr_pos=torch.zeros(tokens, batch, config.d_model),
            memory_pos=padded.expand(batch, -1, -1).transpose(0, 1),
            num_obj_ptr_tokens=pointers,
        )
    assert averaged == (0 if memory_dim < NARROW else config.memory_attention_layers)
    assert torch.allclose(ours, theirs.transpose(0, 1), atol=2e-5)
