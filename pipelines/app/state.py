"""What the app holds while it runs: the run, those of questions, the worker, the uploads."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrshq.pipelines.app.asking import Asking
from vrshq.pipelines.app.open_run import OpenRun
from vrshq.pipelines.app.roots import Roots
from vrshq.pipelines.app.uploads import Uploads
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.opened import NoSuchRow

MAIN = "main"  # the name of the run that the command names
_OPEN_QUESTIONS = 4  # runs of questions that stay open


@dataclass(frozen=True)
class Options:
    """What the app is started with.

    Attributes:
        run: run directory to look through; None: questions alone.
        settings: of questions; its `limits` hold for all videos.
        videos: folders below which videos may be opened. None given: those of the run where it found them, and for questions
            the current folder.
        questions: local folder of the runs of questions and of uploads.
        judge: the name that the page proposes to its user.
        most_upload: bytes of one upload at most.
    """

    run: str | None
    settings: Settings
    videos: tuple[str, ...]
    questions: str
    judge: str
    most_upload: int


class State:
    """Opens what the options name; see `Options`. Safe for several threads.

    Raises:
        UserError: there is no such run, or none of its videos lies inside the roots.
    """

    def __init__(self, options: Options, scratch: str) -> None:
        self._options, self._scratch = options, scratch
        folder = Path(options.questions).absolute()
        self.asking = Asking(folder, options.settings)
        self.uploads = Uploads(folder / "uploads", options.most_upload, options.settings.limits)
        self.roots = Roots([*(options.videos or [str(Path.cwd())]), str(self.uploads.folder)])
        self._lock = threading.Lock()
        self._runs: dict[str, OpenRun] = {}
        if options.run is not None:
            self._runs[MAIN] = self._opened(options.run, list(options.videos))

    def about(self) -> dict[str, Any]:
        """What the page must know at its start."""
        return {
            "main": MAIN if MAIN in self._runs else None,
            "questions": self.asking.runs(),
            "model": self._options.settings.model,
            "roots": self.roots.uris[:-1],
            "judge": self._options.judge,
            "most_upload": self._options.most_upload,
        }

    def run(self, name: str) -> OpenRun:
        """An open run: `MAIN`, or one of a question by its name.

        Raises:
            NoSuchRow: there is none of this name.
        """
        with self._lock:
            found = self._runs.get(name)
            if found is None and name in self.asking.runs():
                found = self._opened(str(self.asking.folder / name), [])
                self._runs[name] = found
                for old in [key for key in self._runs if key != MAIN][:-_OPEN_QUESTIONS]:
                    self._runs.pop(old).close()
        if found is None:
            raise NoSuchRow(f"no run {name!r}")
        return found

    def allowed(self, video: str) -> str:
        """The address of a video that a question may be about.

        Raises:
            NotAllowed: it lies outside the roots and is no upload.
        """
        return self.roots.checked(video)

    def close(self) -> None:
        """Ends the worker and closes all videos."""
        self.asking.close()
        for run in self._runs.values():
            run.close()

    def _opened(self, uri: str, roots: list[str]) -> OpenRun:
        return OpenRun(uri, roots, self._options.settings.limits, self._scratch)
