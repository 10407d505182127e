"""`vrshq train` with a section `head`: a presence head for a model whose own weights stay as they are.

evidence of each video (`evidence.py`) -> a head trained on `data` -> calibrated on `held_out` -> threshold -> bundle.

    OUTPUT/train.json       the settings; a command with another model or other data is refused
    OUTPUT/evidence/        one file for each video; a run that was killed goes on with the next one
    OUTPUT/presence.json    what was measured on the held-out videos
    OUTPUT/bundle/          the model's files as they are, and its head in `presence/`

Training takes seconds once the evidence is there, so the same folder serves commands with another head.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from vrshq.cluster.storage.differences import differences
from vrshq.cluster.storage.folder import Folder
from vrshq.operators.models.bundle import Bundle, CheckpointError, open_bundle
from vrshq.operators.models.families import VRS_HQ
from vrshq.operators.models.presence import WEIGHTS
from vrshq.operators.models.presence_head import PresenceHead, write_with_head
from vrshq.operators.training.presence import calibrate, threshold_at, train_head
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.evaluate.presence import auroc, brier_score, calibration_error, reliability
from vrshq.pipelines.models.locate import local_model
from vrshq.pipelines.train.evidence import Judged, Part, gather
from vrshq.pipelines.train.presence_settings import PresenceSettings

# Settings that may differ between the commands of one folder: the evidence does not depend on them.
_FREE = ("head", "most_lost", "device", "threads")


def train_presence(
    settings: PresenceSettings,
    output: str,
    *,
    on_begin: Callable[[], None] = lambda: None,
    on_video: Callable[[int, int], None] = lambda _done, _all: None,
) -> tuple[str, dict[str, Any]]:
    """Trains a presence head, in this process.

    Args:
        settings: of the run.
        output: folder of the run, local or in a bucket.
        on_begin: called once the folder is accepted, before the work.
        on_video: called with the number of videos whose evidence is there, and of all.

    Returns:
        The uri of the bundle, and what was measured on the held-out videos.

    Raises:
        SettingsError: the settings do not fit the folder, or the videos cannot teach a head.
        StorageError, CheckpointError, DatasetError: the folder, the model or the data set cannot be read.
    """
    torch.set_num_threads(settings.threads)
    model = local_model(settings.model, "model")
    bundle = open_bundle(model)
    if bundle.family is not VRS_HQ:
        raise CheckpointError(
            f"model {settings.model}: a model of the family {bundle.family.name}; a presence head judges {VRS_HQ.name} alone"
        )
    folder = Folder(output)
    _claim(folder, settings, bundle)
    on_begin()
    parts: tuple[Part, ...] = ("data", "held_out")
    taught, others = (gather(settings, part, model, folder, on_video) for part in parts)
    for name, part in zip(parts, (taught, others), strict=True):
        present = _present(part)
        if not len(present) or present.all() or not present.any():
            raise SettingsError(
                f"{name}: {len(part)} videos have {int(present.sum())} instructions with a target and "
                f"{int((~present).sum())} without; expected some of both"
            )
    head = train_head(_described(taught), _present(taught), settings.head)
    calibrate(head, _described(others), _present(others))
    measured = _measured(head, others, settings.most_lost)
    about = {"settings": _plain(settings), "instructions": len(_present(taught)), "held_out": measured}
    folder.write_bytes("presence.json", (json.dumps(about, indent=1) + "\n").encode())
    with tempfile.TemporaryDirectory(prefix="vrshq-train-") as scratch:
        written = write_with_head(
            bundle, head, Path(scratch) / "bundle", threshold=measured["threshold"], provenance=about
        )
        for path in sorted(written.rglob("*")):
            if path.is_file():
                folder.write_file(path.relative_to(scratch).as_posix(), path)
        shutil.rmtree(written)
    return folder.uri_of("bundle"), measured


def _measured(head: PresenceHead, held_out: Sequence[Judged], most_lost: float) -> dict[str, Any]:
    """What the head makes of the held-out videos, beside the object score alone."""
    present = _present(held_out)
    with torch.inference_mode():
        told = head(torch.from_numpy(_described(held_out))).double().sigmoid().numpy()
    evidence = [one for judged in held_out for one in judged.evidence]
    score = 1 / (1 + np.exp(-np.array([one.scores.max() for one in evidence], np.float64)))
    masked = np.array([one.scores[one.keyframe] > 0 for one in evidence])
    threshold = threshold_at(told, present, masked, most_lost)
    kept = masked & (told > threshold)
    alone = masked & (score > threshold_at(score, present, masked, most_lost))
    return {
        "with_target": int(present.sum()),
        "without": int((~present).sum()),
        "auroc": auroc(present, told),
        "auroc_of_object_score": auroc(present, score),
        "brier_score": brier_score(present, told),
        "calibration_error": calibration_error(reliability(present, told)),
        "threshold": threshold,
        "without_target_with_mask": float(kept[~present].mean()),
        "with_target_without_mask": float((~kept)[present].mean()),
        "without_target_with_mask_by_object_score": float(alone[~present].mean()),
    }


def _described(judged: Sequence[Judged]) -> np.ndarray:
    return np.stack([one.described() for video in judged for one in video.evidence])


def _present(judged: Sequence[Judged]) -> np.ndarray:
    return np.concatenate([video.present for video in judged])


def _plain(settings: PresenceSettings) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(TypeAdapter(PresenceSettings).dump_json(settings))
    return values


def _claim(folder: Folder, settings: PresenceSettings, bundle: Bundle) -> None:
    """Writes `train.json` into a new folder; in a folder that has one, refuses settings that would mix evidence."""
    # an earlier head has no part in the evidence
    sums = {name: checksum for name, checksum in bundle.checksums.items() if name != WEIGHTS}
    given = _of_evidence(settings) | {"weights": replace(bundle, checksums=sums).fingerprint}
    if not folder.exists("train.json"):
        folder.write_bytes("train.json", (json.dumps(given, indent=1) + "\n").encode())
        return
    known = _completed(json.loads(folder.read_bytes("train.json")), settings)
    if different := list(differences(known, given)):
        shown = "; ".join(different[:5])
        raise SettingsError(
            f"{folder.uri}: it holds a run with other settings (its own -> this command's: {shown}); give the same ones, or a "
            "new folder"
        )


def _of_evidence(settings: PresenceSettings) -> dict[str, Any]:
    """The settings that the evidence of a video depends on."""
    values = {name: value for name, value in _plain(settings).items() if name not in _FREE}
    for source in (*values["data"].values(), *values["held_out"].values()):
        (source or {}).pop("videos", None)  # a larger number adds to the evidence that is there
    return values


def _completed(known: dict[str, Any], settings: PresenceSettings) -> dict[str, Any]:
    """What `train.json` recorded, with the defaults of settings that did not exist then; as it is if unusable."""
    weights = {"weights": known.get("weights")}
    recorded = {name: value for name, value in known.items() if name not in weights} | {"head": asdict(settings.head)}
    try:
        return _of_evidence(TypeAdapter(PresenceSettings).validate_python(recorded)) | weights
    except ValueError:
        return known
