"""After Ctrl-C a command says in one line what is finished, ends with exit code 130, and the same line continues."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import clips
from tests.support.label_runs import instruction, vrshq, write_table
from vrshq.pipelines.label.loop import in_process
from vrshq.pipelines.models.known import KnownModel


def test_label_tells_the_finished_units_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips.h264(tmp_path / "v.mp4", frames=6)
    rows = [instruction("v.mp4", 0, "it", video_id=f"v{number}") for number in range(3)]
    line = ["label", write_table(tmp_path / "t.jsonl", rows), "--output", f"{tmp_path}/run", "--no-ray"]
    line += ["--model", "untrained-tiny"]

    def interrupted(*arguments: Any) -> Iterator[dict[str, Any]]:
        for number, receipt in enumerate(in_process(*arguments)):
            if number == 2:
                raise KeyboardInterrupt
            yield receipt

    with monkeypatch.context() as patch:
        patch.setattr("vrshq.pipelines.label.run.in_process", interrupted)
        stopped = vrshq(*line)
    assert stopped.returncode == 130
    assert stopped.stderr.strip() == "interrupted: 2 of 3 units are finished; the same command continues"
    again = vrshq(*line)
    assert again.returncode == 0
    assert "of 3" in again.stdout
    assert "3 answered, 0 errors, of 3 instructions" in again.stdout


def test_a_command_that_does_not_continue_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> dict[str, KnownModel]:
        raise KeyboardInterrupt

    monkeypatch.setattr("vrshq.pipelines.models.known.known_models", interrupted)
    stopped = vrshq("models")
    assert stopped.returncode == 130
    assert stopped.stderr.strip() == "interrupted"
