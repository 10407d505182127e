"""Opens and checks benchmarks by name."""

from __future__ import annotations

from vrshq.cluster.storage.errors import StorageError
from vrshq.cluster.storage.folder import Folder
from vrshq.pipelines.evaluate.datasets.base import Benchmark, DatasetError, Expression, Folders, Kind, Video
from vrshq.pipelines.evaluate.datasets.check import check_files
from vrshq.pipelines.evaluate.datasets.long_rvos import LongRvos
from vrshq.pipelines.evaluate.datasets.mevis import Lvvis, Mevis, MevisV2
from vrshq.pipelines.evaluate.datasets.png_tree import PngTree
from vrshq.pipelines.evaluate.datasets.problems import Problem, Report
from vrshq.pipelines.evaluate.datasets.reasonvos import ReasonVos
from vrshq.pipelines.evaluate.datasets.revos import Revos
from vrshq.pipelines.evaluate.datasets.truth import FileBenchmark
from vrshq.pipelines.evaluate.datasets.youtube_vos import RefDavis, RefDavisOfficial, RefYoutubeVos

__all__ = [
    "Benchmark",
    "DatasetError",
    "Expression",
    "Folders",
    "Kind",
    "Problem",
    "Report",
    "Video",
    "benchmark_names",
    "check_benchmark",
    "open_benchmark",
]

_READERS: dict[str, type[FileBenchmark]] = {
    reader.name: reader
    for reader in (
        *(Revos, Mevis, MevisV2, RefYoutubeVos, RefDavis, RefDavisOfficial, ReasonVos, LongRvos),
        *(Lvvis, PngTree),
    )
}
# Names that people use for these data sets.
ALIASES = {
    "refytvos": "ref-youtube-vos",
    "davis": "ref-davis17",
    "ref-davis": "ref-davis17",
    "davis17": "ref-davis17",
    "lv-vis": "lvvis",
    "mevisv2": "mevis-v2",
    "mevis2": "mevis-v2",
    "longrvos": "long-rvos",
    "long_rvos": "long-rvos",
}


def benchmark_names() -> list[str]:
    """The names that `open_benchmark` knows, without the `ALIASES`."""
    return sorted(_READERS)


def open_benchmark(name: str, root: str, *, split: str | None = None, folders: Folders | None = None) -> FileBenchmark:
    """Opens a benchmark and reads its metadata. Masks are read later, one video at a time.

    Args:
        name: one of `benchmark_names()` or `ALIASES`.
        root: the data set's folder, local or in a bucket.
        split: default: the split of the published scores (valid; MeViS: valid_u).
        folders: names inside `root` that differ from the layout's.

    Raises:
        DatasetError: the name or the split is unknown, the metadata cannot be read, or it holds an unusable entry. The
            one-line message names the first; `check_benchmark` lists all.
    """
    benchmark = open_files(name, root, split, folders or Folders(), Report(name, root))
    for problem in benchmark.report.problems:
        if problem.code in ("bad-entry", "unsafe-id"):
            raise DatasetError(
                f"{root}: {problem.count} unusable entries, the first: {problem.examples[0]} ({problem.meaning}); "
                f"vrshq evaluate {name} --root {root} --check lists what is wrong"
            )
    return benchmark


def check_benchmark(name: str, root: str, *, split: str | None = None, folders: Folders | None = None) -> Report:
    """Counts every inconsistency of a data set, with examples.

    A data set that cannot be opened gives a report of one problem.

    Args:
        name: one of `benchmark_names()`.
        root: the data set's folder, local or in a bucket.
        split: as for `open_benchmark`.
        folders: as for `open_benchmark`.

    Raises:
        DatasetError: the name or the split is unknown, which is no fault of the data.
    """
    name = ALIASES.get(name, name)
    report = Report(name, root)
    known = _READERS.get(name)
    if known is None or (split is not None and split not in known.splits):
        open_files(name, root, split, folders or Folders(), report)
    try:
        check_files(open_files(name, root, split, folders or Folders(), report), report)
    except DatasetError as error:
        report.add("cannot-open", str(error))
    return report


def open_files(name: str, root: str, split: str | None, folders: Folders, report: Report) -> FileBenchmark:
    """Opens a benchmark like `open_benchmark`, but adds unusable entries to `report` and leaves them out."""
    name = ALIASES.get(name, name)
    if name not in _READERS:
        raise DatasetError(f"no data set {name!r}; expected one of {', '.join(benchmark_names())}")
    try:
        return _READERS[name](Folder(root), split, folders, report)
    except StorageError as error:
        raise DatasetError(str(error)) from error
