"""How a run read its videos, for tools that read them again."""

from __future__ import annotations

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.errors import UserError
from vrshq.operators.video.files import DecodeConfig
from vrshq.pipelines.label.settings import Decoding, Limits

KEPT_BYTES = 128 * 2**20


def decode_config(run: RunDirectory, limits: Limits) -> DecodeConfig:
    """How the run read its videos, so that its masks lie on the same frames; the defaults for a run that does not tell.

    An open video keeps `KEPT_BYTES` of decoded frames.
    """
    try:
        decoding = Decoding.model_validate(run.read_json("run.json")["identity"]["settings"]["decode"])
    except (UserError, ValueError, KeyError, TypeError):
        decoding = Decoding()
    return DecodeConfig(**limits.sizes(), **decoding.model_dump(), frame_cache_bytes=KEPT_BYTES)
