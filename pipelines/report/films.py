"""Overlay videos beside the contact sheets of a report."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.export.answers import Answer, ExportSummary, RunVideo, read_answers
from vrshq.pipelines.export.films import Source, each_answer
from vrshq.pipelines.export.overlay import write_overlay
from vrshq.pipelines.label.decoding import decode_config
from vrshq.pipelines.label.settings import Limits
from vrshq.pipelines.label.tables.moved import VideoPlaces
from vrshq.pipelines.report.names import film_name
from vrshq.pipelines.report.sheets import Track


def write_films(
    run: RunDirectory, shown: Sequence[Track], places: VideoPlaces, folder: Folder, limits: Limits
) -> dict[tuple[str, str], str]:
    """Writes `report/NAME.mp4` for each shown instruction that has an answer and whose video can be read.

    Holds one film at a time on local disk. Costs one decode of the video for each instruction.

    Returns:
        the paths below the report's folder, by (video_id, instruction_id).
    """
    wanted = {(track["video_id"], track["instruction_id"]) for track in shown if track["status"] != "error"}
    written: dict[tuple[str, str], str] = {}

    def write(place: Path, video: RunVideo, answer: Answer, source: Source) -> None:
        key = video.video_id, answer.instruction_id
        film = write_overlay(place, video, answer, source)
        if film is not None:
            name = film_name(*key)
            folder.write_file(name, film)
            film.unlink()
            written[key] = name

    summary = ExportSummary(run.uri, "overlay-mp4", decode_config(run, limits))
    with tempfile.TemporaryDirectory(prefix="vrshq-report-") as scratch:
        answers = read_answers(run, summary, places, lambda video, instruction: (video, instruction) in wanted)
        each_answer(answers, Path(scratch), summary, "overlay", write, limits)
    return written
