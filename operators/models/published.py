"""Sizes of VRS-HQ's language model in the files beside its published weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Name in config.json -> name in `LanguageConfig`.
_SIZES = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_key_value_heads",
    "max_position_embeddings": "max_positions",
    "vocab_size": "vocab_size",
}
_NUMBERS = {"rms_norm_eps": "rms_norm_eps", "rope_theta": "rope_theta"}
_TOKENS = {"[SEG]": "seg_token_id", "[TAK]": "tak_token_id"}


def language_sizes(config: Mapping[str, Any], added_tokens: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of `LanguageConfig` that a checkpoint's own files give.

    Args:
        config: content of config.json.
        added_tokens: content of added_tokens.json; empty where there is none.

    Raises:
        ValueError: a value cannot be used; the message names it and what was expected.
    """
    if config.get("rope_scaling"):
        raise ValueError("rope_scaling is not supported; expected null")
    given: dict[str, Any] = {}
    for values, names in ((config, _SIZES), (added_tokens, _TOKENS)):
        for theirs, ours in names.items():
            if (value := values.get(theirs)) is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < (0 if values is added_tokens else 1):
                raise ValueError(f"{theirs} {value!r}, expected a whole number")
            given[ours] = value
    for theirs, ours in _NUMBERS.items():
        if (value := config.get(theirs)) is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{theirs} {value!r}, expected a number above 0")
        given[ours] = float(value)
    if "num_heads" in given:
        given.setdefault("num_key_value_heads", given["num_heads"])
        if "hidden_size" in given and given["hidden_size"] % given["num_heads"]:
            raise ValueError(
                f"hidden_size {given['hidden_size']}, expected a multiple of the {given['num_heads']} heads"
            )
    return given
