"""OpenAI's CLIP: the vision transformer, which is the MLLM's tower, too, and the text transformer.

Transformers has these networks, too; its import takes longer than that of torch, and every actor and every `vrshq ask` starts
with it. The parts have the names of the published checkpoint. Tests hold the results against transformers.

Shape letters: B images or texts, N patches, L tokens, C width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrshq.operators.models.config import ClipConfig, ClipTextConfig, VisionConfig

INITIAL_STD = 0.02  # of the embeddings of a model from scratch
_LEGACY_END = 2  # a configured end token that stands for "the largest id", as in OpenAI's weights
_INITIAL_LOGIT_SCALE = 2.6592  # log(1 / 0.07)


class Clip(nn.Module):
    """Both transformers and their projections to the common space."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextTransformer(config.text)
        self.vision_model = VisionTransformer(config.vision)
        self.visual_projection = nn.Linear(config.vision.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(config.text.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(_INITIAL_LOGIT_SCALE))
        _draw_linear(self.visual_projection)
        _draw_linear(self.text_projection)
        for layer in (self.text_projection, self.visual_projection):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.logit_scale.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return self.visual_projection.weight.dtype

    def image_features(self, pixels: Tensor) -> Tensor:
        """Projected class tokens (B, `projection_dim`) of normalised pixels (B, 3, h, w) of the configured size."""
        states = self.vision_model(self.vision_model.embed(pixels))
        features: Tensor = self.visual_projection(self.vision_model.post_layernorm(states[:, 0]))
        return features

    def text_features(self, ids: Tensor) -> Tensor:
        """Projected end tokens (B, `projection_dim`) of token ids (B, L); ids after a text's end token have no influence."""
        states = self.text_model(ids)
        features: Tensor = self.text_projection(states[torch.arange(len(ids), device=ids.device), self._ends(ids)])
        return features

    def _ends(self, ids: Tensor) -> Tensor:
        end = self.config.text.eos_token_id
        return (ids if end == _LEGACY_END else (ids == end)).int().argmax(dim=1)


class VisionTransformer(nn.Module):
    """The vision transformer, up to the states of its last layer."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embeddings = PatchEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(width, eps=config.layer_norm_eps)  # the published spelling
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        _draw(self, config.num_layers)

    def embed(self, pixels: Tensor) -> Tensor:
        """The input (B, 1 + N, C) of the layers: class token and patches with their positions, normalised."""
        embedded: Tensor = self.pre_layrnorm(self.embeddings(pixels))
        return embedded

    def forward(self, states: Tensor) -> Tensor:
        """The states (B, 1 + N, C) after all layers, for `embed`'s."""
        for layer in self.encoder.layers:
            states = layer(states, causal=False)
        return states


class PatchEmbeddings(nn.Module):
    """Patches and their position embeddings, which are interpolated for pixels of another size than the configured one."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.side = config.image_size // config.patch_size
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.patch_embedding = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding(self.side**2 + 1, width)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 1 + N, C) for pixels (B, 3, h, w)."""
        patches = self.patch_embedding(pixels)
        positions = self._positions(*patches.shape[2:])
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + positions

    def _positions(self, rows: int, columns: int) -> Tensor:
        positions = self.position_embedding.weight[None]
        if rows == columns == self.side:
            return positions
        grid = positions[0, 1:].T.reshape(1, -1, self.side, self.side)
        grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class TextTransformer(nn.Module):
    """The text transformer: each token sees itself and those before it."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.embeddings = TokenEmbeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        _draw(self, config.num_layers)

    def forward(self, ids: Tensor) -> Tensor:
        """The last states (B, L, C), normalised, for token ids (B, L)."""
        states = self.embeddings(ids)
        for layer in self.encoder.layers:
            states = layer(states, causal=True)
        normed: Tensor = self.final_layer_norm(states)
        return normed


class TokenEmbeddings(nn.Module):
    """Token and position embeddings."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_positions, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L, C) for token ids (B, L)."""
        embedded: Tensor = self.token_embedding(ids) + self.position_embedding.weight[None, : ids.shape[1]]
        return embedded


class Encoder(nn.Module):
    """The layers; a level of its own for the published names."""

    def __init__(self, config: VisionConfig | ClipTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))


class Layer(nn.Module):
    """One layer: attention and MLP, each after a norm and with a residual connection."""

    def __init__(self, config: VisionConfig | ClipTextConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.self_attn = Attention(width, config.num_heads)
        self.layer_norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = MLP(width, config.intermediate_size)
        self.layer_norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, states: Tensor, *, causal: bool) -> Tensor:
        """States (B, L, C) after the layer."""
        states = states + self.self_attn(self.layer_norm1(states), causal=causal)
        after: Tensor = states + self.mlp(self.layer_norm2(states))
        return after


class Attention(nn.Module):
    """Multi-head attention."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, states: Tensor, *, causal: bool) -> Tensor:
        """(B, L, C) for states (B, L, C); `causal`: a row sees itself and those before it."""
        queries, keys, values = (
            projection(states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    """Two linear layers with CLIP's quick GELU, x * sigmoid(1.702 x), between them."""

    def __init__(self, width: int, intermediate: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, intermediate)
        self.fc2 = nn.Linear(intermediate, width)

    def forward(self, states: Tensor) -> Tensor:
        """(..., C) for states (..., C)."""
        hidden = self.fc1(states)
        out: Tensor = self.fc2(hidden * torch.sigmoid(1.702 * hidden))
        return out


def _draw(network: nn.Module, num_layers: int) -> None:
    """Draws the weights of a model from scratch with transformers' spreads, inner parts first.

    Weights of attention and MLP are drawn twice, as there, so that a seed gives the same model with both.
    """
    for module in _inner_first(network):
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            _draw_linear(module)
        elif isinstance(module, Attention):
            width = module.q_proj.in_features
            for projection in (module.q_proj, module.k_proj, module.v_proj):
                nn.init.normal_(projection.weight, std=width**-0.5 * (2 * num_layers) ** -0.5)
            nn.init.normal_(module.out_proj.weight, std=width**-0.5)
        elif isinstance(module, MLP):
            width = module.fc1.in_features
            nn.init.normal_(module.fc1.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(module.fc2.weight, std=width**-0.5 * (2 * num_layers) ** -0.5)
        elif isinstance(module, PatchEmbeddings):
            nn.init.normal_(module.class_embedding, std=len(module.class_embedding) ** -0.5)
            _draw_linear(module.patch_embedding)
            _draw_linear(module.position_embedding)
        elif isinstance(module, TokenEmbeddings):
            _draw_linear(module.token_embedding)
            _draw_linear(module.position_embedding)


def _draw_linear(module: nn.Linear | nn.Conv2d | nn.Embedding) -> None:
    nn.init.normal_(module.weight, std=INITIAL_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _inner_first(network: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = []
    network.apply(found.append)
    return found
