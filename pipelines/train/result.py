"""The result of a training run: a bundle that `vrshq label --model` takes, and the LoRA adapters alone."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from vrshq.cluster.storage.folder import Folder
from vrshq.operators.training.start import write_adapter, write_bundle
from vrshq.pipelines.train.identity import dump_settings
from vrshq.pipelines.train.log import TrainingLog
from vrshq.pipelines.train.settings import TrainSettings
from vrshq.pipelines.train.weights import model_before, presence_of, start_bundle


def write_result(settings: TrainSettings, output: str) -> str:
    """Writes the bundle of all stages' weights, and the folder of the LoRA adapters if there are any; returns its uri."""
    model = model_before(settings, len(settings.stages), output)
    folder, start = Folder(output), start_bundle(settings, output)
    provenance = {"command": "vrshq train", "settings": json.loads(dump_settings(settings))}
    with tempfile.TemporaryDirectory(prefix="vrshq-train-") as scratch:
        dtype = getattr(torch, settings.bundle_dtype)
        write_bundle(
            model,
            start,
            Path(scratch) / "bundle",
            name=settings.name,
            dtype=dtype,
            extras=("heads",),
            presence=presence_of(settings, start),
            provenance=provenance,
        )
        (Path(scratch) / "bundle" / "training.jsonl").write_text(_whole_log(settings, folder), encoding="utf-8")
        if settings.start.lora.rank:
            write_adapter(model, Path(scratch) / "adapter")
        for path in sorted(Path(scratch).rglob("*")):
            if path.is_file():
                folder.write_file(path.relative_to(scratch).as_posix(), path)
    return folder.uri_of("bundle")


def _whole_log(settings: TrainSettings, folder: Folder) -> str:
    """The rows of all stages' logs, each with its stage's name, as JSON lines."""
    rows = [
        {"stage": stage.name, **row}
        for stage in settings.stages
        for row in TrainingLog(folder, stage.name, local=False).rows
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)
