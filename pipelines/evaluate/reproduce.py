"""What others must know to compute an evaluation's numbers again: questions, frames, averages, missing answers, model."""

from __future__ import annotations

import hashlib
import importlib.metadata
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.evaluate.datasets.truth import FileBenchmark
from vrshq.pipelines.evaluate.predictions import Objects
from vrshq.pipelines.evaluate.protocols import Protocol
from vrshq.pipelines.evaluate.section import Section

PACKAGES = ("vrshq", "numpy", "pycocotools", "pillow")  # whose versions can change a score of given masks


def how_to_reproduce(
    benchmark: FileBenchmark,
    protocol: Protocol,
    scores: pa.Table,
    predictions: str,
    objects: Objects,
    command: str | None,
) -> dict[str, Any]:
    """The entry `reproduce` of `scores.json`, as JSON values.

    Args:
        benchmark: the opened data set.
        protocol: its rules.
        scores: rows of `SCORES`.
        predictions: as for `open_predictions`.
        objects: what is scored of an answer with several objects.
        command: the command line; None: called from Python.
    """
    questions = benchmark.folder.read_bytes(benchmark.question_file)
    return {
        "command": command,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "questions": {
            "file": benchmark.question_file,
            "sha256": hashlib.sha256(questions).hexdigest(),
            "split": benchmark.split,
            "videos": len(benchmark.videos),
            "expressions": scores.num_rows,
        },
        "truth": None if benchmark.truth is None else benchmark.truth.name,
        "frames": {"scored": protocol.frames_in_words(), "count": pc.sum(scores["frames"]).as_py() or 0},
        "averages": protocol.averages_in_words(),
        "missing": protocol.missing_in_words(),
        "objects": objects,
        "model": _model(predictions, scores["frames_read"]),
    }


def section(found: dict[str, Any]) -> Section:
    """The same as a table."""
    questions, frames, model = found["questions"], found["frames"], found["model"]
    counts = f"{questions['videos']:,} videos, {questions['expressions']:,} expressions"
    rows = [
        ["command", found["command"] or "none: called from Python, as vrshq ablate does"],
        ["questions", f"{questions['file']}, split {questions['split']}: {counts}"],
        ["sha256 of the questions", questions["sha256"]],
        ["ground truth", found["truth"] or "none"],
        ["frames that are scored", f"{frames['scored']}: {frames['count']:,}"],
        ["order of averages", found["averages"]],
        ["missing masks", found["missing"]],
        ["of several objects", {"first": "the first", "union": "their union"}[found["objects"]]],
        ["packages that score", _versions(found["packages"])],
    ]
    if model is None:
        rows.append(["model", "not known: the masks are files"])
    else:
        seen, sampling = model["frames_seen"], model["settings"]["sampling"]
        rows += [
            ["model", f"{model['given']}; fingerprint of weights and sizes {model['fingerprint']}"],
            ["tracker", model["tracker"] or "not recorded by the version that labelled"],
            ["packages that label", _versions(model["packages"]) or "not recorded by the version that labelled"],
            ["sampler", ", ".join(f"{name} {value}" for name, value in sampling.items())],
            [
                "frames that the model read",
                f"{seen['least']} to {seen['most']} of a video, {seen['mean']:.1f} on average",
            ],
            ["hash of all settings", model["identity_sha256"]],
        ]
    return Section("To compute these numbers again", ["All settings are in scores.json."], ["what", "value"], rows)


def _model(predictions: str, read: pa.ChunkedArray) -> dict[str, Any] | None:
    """The model and the settings of a run; None for masks from files."""
    if predictions.endswith(".json") or not Folder(predictions).exists("run.json"):
        return None
    begun = RunDirectory(predictions).read_json("run.json")
    identity, details = begun["identity"], begun["details"]
    return {
        **identity["model"],
        "given": details.get("model", identity["model"]["name"]),
        "tracker": details.get("tracker"),
        "packages": details.get("packages", {}) | {"vrshq": details["version"]},
        "frames_seen": {
            "least": pc.min(read).as_py() or 0,
            "most": pc.max(read).as_py() or 0,
            "mean": pc.mean(read).as_py() or 0.0,
        },
        "settings": identity["settings"],
        "identity_sha256": begun["identity_sha256"],
    }


def _versions(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
