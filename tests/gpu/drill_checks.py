"""Drills: too little GPU memory for a unit, and an error after which a process cannot use its GPU any more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pyarrow as pa
import torch

from tests.gpu.context import Context, Result
from tests.gpu.machine_checks import smi
from tests.support.label_runs import content
from vrshq.cluster.ray.engine import stream_receipts
from vrshq.cluster.ray.pool import ActorPool
from vrshq.cluster.ray.session import ray_session
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.pipelines.label.run import label

FRACTION = 0.2  # of the GPU's memory in the drill


def memory_drill(context: Context) -> Result:
    """A unit that is too large for the memory at first ends ok with smaller batches, never as an error of a first try."""
    output = str(context.folder / "memory")
    with _little_memory(context) as sizes:
        label(context.table(8, 4), output, context.settings(), use_ray=False)
    rows = content(output)["tracks"]
    statuses = [row["status"] for row in rows]
    said = (
        f"{len(rows)} tracks, {statuses.count('error')} errors; steps of at most {max(sizes, default=0)} objects fitted"
    )
    kept = "error" not in statuses or min(row["attempts"] for row in rows) > 1
    return Result.of(kept and len(rows) == 4, said, statuses=statuses, sizes=sizes)


@contextmanager
def _little_memory(context: Context) -> Iterator[list[int]]:
    """A fifth of the GPU's memory; when dry, a tracking step that finds memory for two objects alone."""
    sizes: list[int] = []
    track = Segmenter.track

    def limited(self: Segmenter, features: Any, conditioning: Any, *rest: Any, **named: Any) -> Any:
        objects = len(conditioning[0].pointer)
        if context.dry and objects > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        found = track(self, features, conditioning, *rest, **named)
        sizes.append(objects)
        return found

    with mock.patch.object(Segmenter, "track", limited):
        if not context.dry:
            torch.cuda.set_per_process_memory_fraction(FRACTION)
        try:
            yield sizes
        finally:
            if not context.dry:
                torch.cuda.set_per_process_memory_fraction(1.0)


class Sticky:
    """A worker whose GPU is spoilt by unit 0 in its first attempt; `device`: torch's name of it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.held = torch.zeros(1 << 26, device=device)

    def __call__(self, table: pa.Table) -> pa.Table:
        from vrshq.cluster.ray.errors import ProcessUnusable

        if table["unit_id"][0].as_py() == "0" and table["attempt"][0].as_py() == 1:
            try:
                self._spoil()
            except RuntimeError as error:
                raise ProcessUnusable(str(error)) from error
        done = float((torch.ones(8, device=self.device) * 2).sum())
        return table.append_column("sum", pa.array([done]))

    def _spoil(self) -> None:
        if self.device == "cpu":
            raise RuntimeError("CUDA error: device-side assert triggered")
        self.held[torch.full((1,), 1 << 40, device=self.device)].cpu()


def sticky_drill(context: Context) -> Result:
    """A device-side assert: the process is replaced, its unit tried again, the others answered, the memory given back."""
    before = smi("memory.used")
    units = pa.table({"unit_id": ["0", "1", "2"]})
    gpus = 0 if context.dry else 1
    pool = ActorPool(name="sticky", worker=Sticky, arguments={"device": context.device}, actors=1, num_gpus=gpus)
    with ray_session(num_cpus=2, object_store_memory=100_000_000):
        rows = list(stream_receipts(units, [pool], attempts=3))
    attempts = {row["unit_id"]: row["attempt"] for row in rows if isinstance(row, dict)}
    said = f"attempts by unit {attempts}; GPU memory {before} MiB before, {smi('memory.used')} after"
    return Result.of(attempts == {"0": 2, "1": 1, "2": 1}, said, attempts=attempts)
