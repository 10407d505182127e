"""`vrshq compact`: the parts of a run, one a unit, merged into files of a size that query engines like."""

from __future__ import annotations

from vrshq.cluster.storage.lease import Lease
from vrshq.cluster.storage.run_directory import RunDirectory


def compact(run_uri: str) -> dict[str, tuple[int, int]]:
    """Merges the parts of finished units without errors; nothing else may write into the run meanwhile.

    While units are missing, what is too little for a file of the usual size stays as it is.

    Returns:
        for each table, how many parts were merged, into how many files.

    Raises:
        InUseError: another command works on the run. StorageNotFoundError: it has no manifest. StorageError.
    """
    run = RunDirectory(run_uri)
    unit_ids = run.read_manifest()["unit_id"].to_pylist()
    with Lease(run.folder, "compact"):
        complete = run.finished_units().issuperset(unit_ids)
        return run.compact(unit_ids, to_the_end=complete)
