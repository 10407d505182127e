"""Asks about videos in a process of its own, one video at a time, and tells how far it is."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import signal
import threading
import time
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.errors import UserError
from vrshq.pipelines.export.names import part_of
from vrshq.pipelines.label.settings import Settings

MOST_TEXTS, LONGEST_TEXT = 16, 2000  # of one question; characters


class Busy(UserError):  # noqa: N818 - reads as the sentence that it is
    """Another question is being answered."""


@dataclass
class Question:
    """A video, some texts, and how far their answers are.

    Attributes:
        run: name of the run directory, inside the folder of the asked runs.
        state: running, done, failed or stopped.
        doing: what is done now, in words.
        message: why it failed.
        answers: when it is done, the ids of each text's instruction, its status, and the model's answer.
        began: seconds since the epoch.
        seconds: from the beginning to the end, or to now.
    """

    video: str
    texts: list[str]
    run: str
    state: str = "running"
    doing: str = "starting"
    message: str = ""
    answers: list[dict[str, Any]] = field(default_factory=list)
    began: float = field(default_factory=time.time)
    seconds: float = 0.0


class Asking:
    """Answers one question at a time in a child process, which stays for the next one. Safe for several threads.

    The process has the models' libraries and weights to itself: the page stays quick, and a decoder or a model that crashes
    ends the question alone.

    Args:
        folder: local folder of the run directories, one for each video, model and settings.
        settings: of the runs.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self._settings = folder, settings
        self._lock = threading.Lock()
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._question: Question | None = None

    def runs(self) -> list[str]:
        """Names of the runs of all questions so far, the latest first."""
        found = [path for path in self.folder.glob("*/run.json") if RunDirectory(str(path.parent)).has_manifest()]
        return [path.parent.name for path in sorted(found, key=lambda path: -path.stat().st_mtime)]

    def now(self) -> dict[str, Any] | None:
        """The last question as JSON; None before the first one."""
        with self._lock:
            question = self._question
            if question is None:
                return None
            if question.state == "running":
                question.seconds = time.time() - question.began
            return asdict(question)

    def ask(self, video: str, texts: list[str]) -> None:
        """Begins to answer; `now` tells the rest.

        Args:
            video: a path or uri that may be opened.
            texts: the sentences.

        Raises:
            Busy: another question is being answered. UserError: there is no text, or there are too many.
        """
        texts = [text for text in texts if text.strip()]
        if not 0 < len(texts) <= MOST_TEXTS or any(len(text) > LONGEST_TEXT for text in texts):
            raise UserError(
                f"{len(texts)} sentences: expected 1 to {MOST_TEXTS}, each of {LONGEST_TEXT} characters at most"
            )
        with self._lock:
            if self._question is not None and self._question.state == "running":
                raise Busy("another question is being answered; wait for it, or stop it")
            question = Question(video, texts, self._name(video))
            self._question = question
            try:
                pipe = self._started()
                pipe.send((video, texts, str(self.folder / question.run), self._settings.model_dump_json()))
            except OSError as error:
                question.state, question.message = "failed", f"the worker's process cannot be started: {error}"
                return
        threading.Thread(target=self._follow, args=(question, pipe), daemon=True).start()

    def stop(self) -> None:
        """Ends the question that is being answered. What its run has finished stays."""
        with self._lock:
            if self._question is not None and self._question.state == "running":
                self._question.state = "stopped"
            self._end()

    def close(self) -> None:
        """Ends the process."""
        self.stop()

    def _name(self, video: str) -> str:
        about = json.dumps([video, self._settings.model, self._settings.identity()], sort_keys=True)
        stem = part_of(video.rstrip("/").rpartition("/")[2])[:80]
        return f"{stem}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"

    def _started(self) -> Connection:
        if self._process is None or not self._process.is_alive() or self._pipe is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, other = context.Pipe()
            self._process = context.Process(target=answer_questions, args=(other,), daemon=True)
            self._process.start()
            other.close()
        return self._pipe

    def _end(self) -> None:
        process, self._process = self._process, None
        self._pipe = None  # not closed here: the thread that follows the question may be reading it
        if process is not None:
            process.kill()
            process.join()

    def _follow(self, question: Question, pipe: Connection) -> None:
        """Takes the events of a question until it ends."""
        while True:
            try:
                event: dict[str, Any] = pipe.recv()
            except (EOFError, OSError):
                event = {"state": "failed", "message": "the worker's process died; was it killed for memory?"}
            with self._lock:
                if question.state != "running":
                    return
                for name, value in event.items():
                    setattr(question, name, value)
                if question.state != "running":
                    question.seconds = time.time() - question.began
                    if question.state == "failed" and (self._process is None or not self._process.is_alive()):
                        self._end()
                    return


def answer_questions(pipe: Connection) -> None:
    """The child process: answers questions until the pipe is closed.

    Each is (video, texts, output, settings as JSON). Events are dicts of attributes of `Question`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the app, which ends this process
    with contextlib.suppress(EOFError, OSError):
        while True:
            video, texts, output, settings = pipe.recv()
            pipe.send(_answered(pipe, video, texts, output, settings))


def _answered(pipe: Connection, video: str, texts: list[str], output: str, settings: str) -> dict[str, Any]:
    from vrshq.pipelines.app.telling import Telling
    from vrshq.pipelines.ask.run import ask

    pipe.send({"doing": "looking at the video"})
    try:
        parsed = Settings.model_validate_json(settings)
        replies = ask(video, texts, output, parsed, watcher=Telling(pipe))
    except UserError as error:
        return {"state": "failed", "message": str(error)}
    except Exception as error:  # noqa: BLE001 - the page shows it, and the next question is asked in the same process
        return {"state": "failed", "message": f"{type(error).__name__}: {error}"}
    names = ("video_id", "instruction_id", "text", "status", "answer", "error_message")
    answers = [{name: reply.track[name] for name in names} | {"share": reply.share} for reply in replies]
    return {"state": "done", "doing": "", "answers": answers}
