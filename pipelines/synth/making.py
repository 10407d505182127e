"""Makes the unfinished videos of a run, on Ray or in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from vrshq.cluster.ray.engine import Lost, stream_receipts
from vrshq.cluster.ray.errors import WorkerError
from vrshq.cluster.ray.pool import ActorPool
from vrshq.cluster.ray.resources import cluster_resources, local_resources
from vrshq.cluster.ray.session import ray_session
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import is_remote
from vrshq.operators.synth import SynthConfig
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.synth.files import JSON, MADE, MAKING, record_name, write_json
from vrshq.pipelines.synth.settings import Where
from vrshq.pipelines.synth.tables import read_records
from vrshq.pipelines.synth.worker import SynthWorker


def claim_folder(target: Folder, output: str, settings: dict[str, Any]) -> None:
    """Records the settings in a new folder, or compares them with the recorded settings of an existing one.

    A folder with fewer videos becomes an unfinished one of the given number. The records of its videos are written before
    the mark of a complete folder goes, so the change can be interrupted at any point.

    Raises:
        SettingsError: the folder holds other files, or videos of other settings. The message names the differences.
    """
    name = next(filter(target.exists, (MADE, f"{MAKING}/settings.json")), None)
    if name is None:
        if not target.is_empty():
            raise SettingsError(f"OUT {output}: exists and is not empty; give a new folder")
        target.check_writable()
        write_json(target, f"{MAKING}/settings.json", settings)
        return
    target.remove_abandoned()
    there, given = (_flat(json.loads(text)) for text in (target.read_bytes(name), JSON.encode(settings)))
    if _grows(there, given):
        if name == MADE:
            for video, record in read_records(target).items():
                write_json(target, record_name(video), record)
        write_json(target, f"{MAKING}/settings.json", settings)
        target.remove(MADE)
        return
    differing = [f"{key} is {there.get(key)}, not {value}" for key, value in given.items() if there.get(key) != value]
    if differing:
        raise SettingsError(
            f"OUT {output}: holds videos of other settings ({'; '.join(differing)}); give those to continue, or a new folder"
        )


def make_videos(
    target: Folder, settings: dict[str, Any], config: SynthConfig, where: Where, on_video: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Makes the videos that are not finished yet; returns the records of all videos by id, in order."""
    units = {
        f"{name}_{index:06d}": (name, index) for name, count in settings["videos"].items() for index in range(count)
    }
    whole = {name.rpartition("/")[2].removesuffix(".json") for name in target.list(f"{MAKING}/videos")}
    left = {name: unit for name, unit in units.items() if name not in whole}
    manifest = pa.table(
        {
            "unit_id": pa.array(left, pa.string()),
            "split": pa.array([name for name, _ in left.values()], pa.string()),
            "index": pa.array([index for _, index in left.values()], pa.int64()),
        }
    )
    arguments = {"output": target.uri, "seed": settings["seed"], "form": settings["format"], "config": config}
    records: dict[str, dict[str, Any]] = {}
    if left:
        rows = _on_ray(manifest, arguments, where) if where.use_ray else _in_process(manifest, arguments)
        for row in rows:
            records[row["unit_id"]] = json.loads(row["record"])
            on_video(row["unit_id"])
    for name in whole:
        records[name] = json.loads(target.read_bytes(record_name(name)))
    return {name: records[name] for name in units}


def remove_records(target: Folder) -> None:
    """Removes the records of single videos, which a finished folder no longer needs."""
    for name in target.list(MAKING):
        target.remove(name)
    if not is_remote(target.uri):
        shutil.rmtree(
            Path(target.uri) / MAKING, ignore_errors=True
        )  # removes the empty folders, which buckets do not have


def _grows(there: dict[str, Any], given: dict[str, Any]) -> bool:
    """Whether the settings differ in the numbers of videos alone, and no split shrinks."""
    if there == given or there | {"videos": given["videos"]} != given:
        return False
    return all(given["videos"].get(split, 0) >= count for split, count in there["videos"].items())


def _flat(about: dict[str, Any]) -> dict[str, Any]:
    """Recorded settings by their names on the command line; those that did not exist then have their defaults."""
    defaults = json.loads(JSON.encode(asdict(SynthConfig())))
    given = {key: about.get(key) for key in ("version", "seed", "format", "videos")}
    return {**given, **defaults, **about.get("config", {})}


def _on_ray(manifest: pa.Table, arguments: dict[str, Any], where: Where) -> Iterator[dict[str, Any]]:
    """The worker's rows from actors on Ray."""
    cpus = (
        max(2, int(local_resources().cpus)) if where.workers is None else where.workers + 1
    )  # one process feeds the workers
    with ray_session(where.address, num_cpus=cpus):
        actors = where.workers or max(1, int(cluster_resources().cpus) - 1)
        pool = ActorPool(name="synth", worker=SynthWorker, arguments=arguments, actors=min(actors, manifest.num_rows))
        for row in stream_receipts(manifest, [pool], attempts=2):
            if isinstance(row, Lost):
                raise WorkerError(f"video {row.row['unit_id']} could not be made: {row.reason}")
            yield row


def _in_process(manifest: pa.Table, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The worker's rows from this process."""
    worker = SynthWorker(**arguments)
    for row in range(manifest.num_rows):
        yield from worker(manifest.slice(row, 1)).to_pylist()
