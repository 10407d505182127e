"""`vrshq compact`: merges the parts of a run, one per unit, into files of a size that suits query engines."""

from __future__ import annotations

from vrshq.cluster.storage.lease import Lease
from vrshq.cluster.storage.run_directory import RunDirectory


def compact(run_uri: str) -> dict[str, tuple[int, int]]:
    """Merges the parts of finished units without errors. No other command may write into the run meanwhile.

    While units are missing, parts that do not fill a file of the usual size are left unmerged.

    Returns:
        (number of merged parts, number of files), by table.

    Raises:
        InUseError: another command works on the run.
        StorageNotFoundError: the run has no manifest.
        StorageError: the run cannot be read or written.
    """
    run = RunDirectory(run_uri)
    unit_ids = run.read_manifest()["unit_id"].to_pylist()
    with Lease(run.folder, "compact"):
        complete = run.finished_units().issuperset(unit_ids)
        return run.compact(unit_ids, to_the_end=complete)
