"""What made a run, beside its settings: versions of the program, the tracker and the packages that decide about pixels."""

from __future__ import annotations

import importlib.metadata

from vrshq.pipelines.label.planning.plan import Plan

PACKAGES = ("av", "numpy", "pillow", "sam2", "torch", "transformers")


def open_run(plan: Plan) -> None:
    """Opens the run directory of a plan. The details in `run.json` are not part of the run's identity.

    Raises:
        ConfigurationDiffers: the directory belongs to a run with another identity.
    """
    details = {
        "version": importlib.metadata.version("vrshq"),
        "model": plan.settings.model,
        "tracker": None if plan.model is None else plan.model.bundle.family.tracker,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    plan.run.open(plan.identity, details)
