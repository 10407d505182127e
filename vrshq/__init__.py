"""Video reasoning segmentation at corpus scale: videos and instructions in, mask tables out.

The three rooms `operators`, `cluster` and `pipelines` are subpackages. The names below are loaded when they are first used,
so that `import vrshq` starts neither torch nor Ray.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vrshq.cluster.storage.run_directory import RunDirectory
    from vrshq.operators.batch import new_batch, run_operators
    from vrshq.pipelines.ask.run import ask
    from vrshq.pipelines.evaluate.run import evaluate
    from vrshq.pipelines.label.error_policy import ErrorPolicy
    from vrshq.pipelines.label.frames import RunDataset
    from vrshq.pipelines.label.run import label
    from vrshq.pipelines.label.settings import Settings, load_settings
    from vrshq.pipelines.label.tables.opened import Run, open_run
    from vrshq.pipelines.label.watcher import Watcher
    from vrshq.pipelines.synth.run import synth
    from vrshq.pipelines.train.run import train

__version__ = version("vrshq")
__all__ = [
    "ErrorPolicy",
    "Run",
    "RunDataset",
    "RunDirectory",
    "Settings",
    "Watcher",
    "__version__",
    "ask",
    "evaluate",
    "label",
    "load_settings",
    "new_batch",
    "open_run",
    "run_operators",
    "synth",
    "train",
]

_HOMES = {
    "ErrorPolicy": "vrshq.pipelines.label.error_policy",
    "Run": "vrshq.pipelines.label.tables.opened",
    "RunDataset": "vrshq.pipelines.label.frames",
    "RunDirectory": "vrshq.cluster.storage.run_directory",
    "Settings": "vrshq.pipelines.label.settings",
    "Watcher": "vrshq.pipelines.label.watcher",
    "ask": "vrshq.pipelines.ask.run",
    "evaluate": "vrshq.pipelines.evaluate.run",
    "label": "vrshq.pipelines.label.run",
    "load_settings": "vrshq.pipelines.label.settings",
    "new_batch": "vrshq.operators.batch",
    "open_run": "vrshq.pipelines.label.tables.opened",
    "run_operators": "vrshq.operators.batch",
    "synth": "vrshq.pipelines.synth.run",
    "train": "vrshq.pipelines.train.run",
}


def __getattr__(name: str) -> Any:
    """Loads a public name from the module that defines it; an unknown one is an AttributeError."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'vrshq' has no attribute {name!r}")
    return getattr(import_module(home), name)
