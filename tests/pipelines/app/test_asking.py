"""Questions: one at a time, in a process whose death ends the question alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.app.conftest import Serve
from vrshq.errors import UserError
from vrshq.pipelines.app.asking import MOST_TEXTS, Asking, Busy
from vrshq.pipelines.label.settings import Settings

SETTINGS = Settings(model="untrained-tiny")


def wait(asking: Asking, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    for _ in range(1200):
        now = asking.now()
        if now is not None and until(now):
            return now
        time.sleep(0.05)
    raise AssertionError(f"not yet: {asking.now()}")


def test_one_question_at_a_time_and_a_dead_worker_ends_it_alone(videos: Path, tmp_path: Path) -> None:
    asking = Asking(tmp_path, SETTINGS)
    assert asking.now() is None
    asking.ask(str(videos / "cups.mp4"), ["the block"])
    with pytest.raises(Busy):
        asking.ask(str(videos / "street.mp4"), ["the car"])
    assert asking._process is not None
    asking._process.kill()
    died = wait(asking, lambda now: now["state"] != "running")
    assert (died["state"], died["message"]) == ("failed", "the worker's process died; was it killed for memory?")
    asking.ask(str(videos / "street.mp4"), ["the car"])  # in a new process
    wait(asking, lambda now: now["doing"] != "starting")
    asking.stop()
    assert wait(asking, lambda now: now["state"] != "running")["state"] == "stopped"
    assert asking._process is None


def test_what_cannot_be_answered_is_said_and_the_next_question_is_answered(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    asking = Asking(tmp_path / "questions", SETTINGS)
    asking.ask(str(tmp_path / "broken.mp4"), ["the block"])
    done = wait(asking, lambda now: now["state"] != "running")
    assert [answer["status"] for answer in done["answers"]] == ["error"]
    assert "is not a video" in done["answers"][0]["error_message"]
    worker = asking._process
    asking.ask(str(videos / "cups.mp4"), ["the block", "  ", "the ball"])
    done = wait(asking, lambda now: now["state"] != "running")
    assert asking._process is worker
    assert done["state"] == "done", done
    assert [answer["text"] for answer in done["answers"]] == ["the block", "the ball"]
    assert asking.runs()[0] == done["run"]
    assert len(asking.runs()) == 2
    assert done["seconds"] > 0
    asking.close()


@pytest.mark.parametrize("texts", [[], ["", " "], ["it"] * (MOST_TEXTS + 1), ["x" * 2001]])
def test_a_question_has_some_sentences_and_not_too_many(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(UserError, match="sentences: expected 1 to 16"):
        Asking(tmp_path, SETTINGS).ask("x.mp4", texts)


def test_the_page_is_told_that_another_question_is_answered(serve: Serve, videos: Path) -> None:
    client = serve(None, videos)
    question = {"video": "cups.mp4", "texts": ["the block"]}
    assert client.post("/api/question", json=question).json()["question"]["state"] == "running"
    assert client.post("/api/question", json=question).status_code == 409
    assert client.delete("/api/question").json()["question"]["state"] == "stopped"
    assert client.post("/api/question", json=question | {"texts": []}).status_code == 400
