"""Checkpoints of a stage's trainer and the weights at a stage's end, as files of the run's folder.

Only what reads or writes tensors imports torch: the processes that make samples and the controller of Ray Train do without.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrshq.cluster.storage.fetch import fetch_to_local
from vrshq.cluster.storage.folder import Folder

if TYPE_CHECKING:
    import torch

KEPT = 2  # checkpoints of a stage


def save_checkpoint(folder: Folder, stage: str, step: int, state: dict[str, Any]) -> None:
    """Writes the checkpoint of a step and removes all but the last `KEPT` checkpoints of the stage."""
    _save(folder, f"checkpoints/{stage}/{step:08d}.pt", state)
    for old in _names(folder, stage)[:-KEPT]:
        folder.remove(old)


def latest_checkpoint(folder: Folder, stage: str) -> dict[str, Any] | None:
    """The state in a stage's last checkpoint; None before the first."""
    names = _names(folder, stage)
    return _load(folder, names[-1]) if names else None


def latest_step(folder: Folder, stage: str) -> int:
    """The step of a stage's last checkpoint; 0 before the first."""
    names = _names(folder, stage)
    return int(Path(names[-1]).stem) if names else 0


def is_finished(folder: Folder, stage: str) -> bool:
    """Whether the weights at the stage's end are written."""
    return folder.exists(_final(stage))


def save_weights(folder: Folder, stage: str, weights: dict[str, torch.Tensor]) -> None:
    """Writes the weights at the stage's end, which marks the stage as finished."""
    _save(folder, _final(stage), {"model": weights})


def load_weights(folder: Folder, stage: str) -> dict[str, torch.Tensor]:
    """The weights at the end of a finished stage, by parameter name, on the CPU."""
    weights: dict[str, torch.Tensor] = _load(folder, _final(stage))["model"]
    return weights


def _final(stage: str) -> str:
    return f"stages/{stage}.pt"


def _names(folder: Folder, stage: str) -> list[str]:
    """A stage's checkpoints, oldest first: step numbers have a fixed width."""
    return sorted(name for name in folder.list(f"checkpoints/{stage}") if name.endswith(".pt"))


def _save(folder: Folder, name: str, state: dict[str, Any]) -> None:
    """Writes a file of torch. `Folder` writes it whole or not at all, so that no reader sees a part of it."""
    import torch

    with tempfile.NamedTemporaryFile(prefix="vrshq-", suffix=".pt") as file:
        torch.save(state, file)
        file.flush()
        folder.write_file(name, file.name)


def _load(folder: Folder, name: str) -> dict[str, Any]:
    import torch

    with fetch_to_local(folder.uri_of(name), tempfile.gettempdir()) as path:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
