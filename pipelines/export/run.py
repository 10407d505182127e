"""`vrshq export`: a run's masks in the formats of other tools and of the benchmarks' servers.

read the manifest, tracks and masks a few units at a time -> one writer -> export.json, which says what was written.
"""

from __future__ import annotations

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.cluster.storage.uris import is_remote, local_path
from vrshq.pipelines.export.answers import ExportSummary, read_answers
from vrshq.pipelines.export.errors import ExportError
from vrshq.pipelines.export.formats import ALIASES, FORMATS
from vrshq.pipelines.export.sinks import to_json
from vrshq.pipelines.label.decoding import decode_config
from vrshq.pipelines.label.settings import Limits
from vrshq.pipelines.label.tables.moved import VideoPlaces
from vrshq.pipelines.label.tables.reviews import EVERYTHING, ByOutcome


def export(
    run_uri: str, format_name: str, output: str, *, videos: str | None = None, judged: ByOutcome = EVERYTHING
) -> ExportSummary:
    """Writes a run's masks in another format.

    Args:
        run_uri: the run directory, local or in a bucket, finished or not.
        format_name: one of `FORMATS` or `ALIASES`; each writer's docstring says what its files are.
        output: a new or empty local folder.
        videos: folder where the videos lie now (`VideoPlaces`); default: where the run found them.
        judged: which instructions are written, by what people judged of them; default: all.

    Returns:
        what was written and what could not be; the same is in `export.json`, which is written last. The same run gives the
        same bytes.

    Frames are named as the source's own files where the video is a folder of frames, else by number: 00000, 00001, ... An
    instruction that failed has empty masks where its video's size and length are known; where they are not, and where the
    run did not finish it, it is left out; both are listed. Ids never lead outside the output: see `names.part_of`.

    Cost: memory for the masks of some units or, for davis-official, revos-json and fiftyone, of one video; one listing per
    folder of frames.

    Raises:
        ExportError: an unknown format, or an output that is not a new local folder. StorageError: there is no such run.
        MovedVideosError: `videos` holds none of the videos. ReviewError: nobody has judged the run.
    """
    format_name = ALIASES.get(format_name, format_name)
    if format_name not in FORMATS:
        raise ExportError(f"no format {format_name!r}; expected one of {', '.join(FORMATS)}")
    if is_remote(output):
        raise ExportError(f"--output {output}: exports are written to a local folder; copy them from there")
    folder = local_path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"--output {output} is not empty; give a new folder")
    run = RunDirectory(run_uri)
    uris = run.read_manifest()["video_uri"].to_pylist()  # no run, no folder
    places = VideoPlaces(videos, uris)
    chosen = judged.chooser(run)
    folder.mkdir(parents=True, exist_ok=True)
    summary = ExportSummary(run.uri, format_name, decode_config(run, Limits()), notes=judged.notes())
    FORMATS[format_name](read_answers(run, summary, places, chosen), folder, summary)
    (folder / "export.json").write_text(to_json(summary.as_dict()) + "\n", encoding="utf-8")
    return summary
