"""`vrshq compact`: merges the parts of a run, one per unit, into files of a size that suits query engines."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from vrshq.cluster.ray.merges import where_it_pays
from vrshq.cluster.ray.session import ray_session
from vrshq.cluster.storage.compaction import Compaction
from vrshq.cluster.storage.lease import Lease
from vrshq.cluster.storage.merging import TARGET_BYTES
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.planning.types import cluster_of


@dataclass(frozen=True)
class Compacted:
    """What a compaction merged, and what it left.

    Attributes:
        tables: (number of merged parts, number of files), by table.
        units: units of the run.
        unfinished: units that are not finished.
        errored: finished units with errors.
    """

    tables: dict[str, tuple[int, int]]
    units: int
    unfinished: int
    errored: int

    def left(self) -> list[str]:
        """Why parts were left as they are, one line for each reason."""
        lines = []
        if self.unfinished:
            lines.append(
                f"{self.unfinished} of {self.units} units are unfinished: until the run is complete, only parts that fill "
                f"a file of {TARGET_BYTES >> 20} MiB are merged"
            )
        if self.errored:
            lines.append(f"{self.errored} units with errors keep their parts, so that --retry-errors can replace them")
        if not lines and not any(parts for parts, _ in self.tables.values()):
            lines.append("nothing is left to merge")
        return lines


def compact(run_uri: str, *, address: str | None = None, use_ray: bool = True) -> Compacted:
    """Merges the parts of finished units without errors. No other command may write into the run meanwhile.

    Args:
        run_uri: the run directory.
        address: Ray cluster whose machines do the work; default: RAY_ADDRESS, the cluster of the surrounding job, else this
            process.
        use_ray: False: this process in any case.

    While units are missing, parts that do not fill a file of the usual size are left unmerged.

    Raises:
        InUseError: another command works on the run.
        LeaseLostError: another command has taken the run over.
        StorageNotFoundError: the run has no manifest.
        StorageError: the run cannot be read or written.
        ConnectionError: no cluster answers at the address.
    """
    run = RunDirectory(run_uri)
    unit_ids = run.read_manifest()["unit_id"].to_pylist()
    cluster = cluster_of(address, use_ray=use_ray)
    session = ray_session(cluster) if cluster else contextlib.nullcontext()
    with Lease(run.folder, "compact") as lease, session:
        compaction = Compaction(run.folder)
        finished = compaction.finished.intersection(unit_ids)
        unfinished = len(unit_ids) - len(finished)
        tables = compaction.merge(unit_ids, to_the_end=not unfinished, check=lease.check, spread=where_it_pays)
        return Compacted(tables, len(unit_ids), unfinished, len(compaction.errored & finished))
