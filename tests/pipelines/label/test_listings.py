"""A command lists a run once and adds its own receipts; it lists again only where a receipt is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vrshq
from tests.support import clips
from tests.support.label_runs import instruction
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.error_policy import ErrorPolicy
from vrshq.pipelines.label.loop import in_process
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.tables.summary import RunSummary

Label = Callable[..., RunSummary]


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each table's folder was listed."""
    counts: Counter[str] = Counter()
    for act in ("list", "sizes"):
        done = getattr(Folder, act)

        def counted(self: Folder, prefix: str = "", done: Callable[[Folder, str], object] = done) -> object:
            counts[prefix] += prefix in ("masks", "tracks", "tokens", "errors")
            return done(self, prefix)

        monkeypatch.setattr(Folder, act, counted)
    return counts


@pytest.fixture
def labelled(tmp_path: Path) -> Label:
    """Labels one good video and one that is not there, in the same run at each call."""
    clips.h264(tmp_path / "v.mp4", frames=3)
    rows = [instruction(str(tmp_path / name), 0, "it") for name in ("v.mp4", "none.mp4")]
    settings = vrshq.load_settings(None, ["model=untrained-tiny", "resources.compact=false"])
    return lambda **more: label(rows, str(tmp_path / "run"), settings, use_ray=False, **more)


def test_a_command_lists_the_finished_units_once(labelled: Label, listings: Counter[str]) -> None:
    for already in (0, 2):
        listings.clear()
        assert (labelled().already_finished, listings["tracks"], listings["errors"]) == (already, 1, 1)
        assert not listings["masks"] + listings["tokens"]


def test_errors_are_listed_once_more_to_be_tried_again(labelled: Label, listings: Counter[str], tmp_path: Path) -> None:
    labelled()
    listings.clear()
    again = labelled(errors=ErrorPolicy(retry=True))
    assert (again.already_finished, again.counts["errors"], again.incomplete) == (1, 1, 0)
    assert (listings["tracks"], listings["errors"]) == (1, 2)
    assert len(RunDirectory(str(tmp_path / "run")).errored_units()) == 1


def test_after_a_lost_receipt_the_run_is_listed_again(
    labelled: Label, listings: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(*arguments: Any) -> Iterator[dict[str, Any]]:
        for number, receipt in enumerate(in_process(*arguments)):
            if number:
                yield receipt

    monkeypatch.setattr("vrshq.pipelines.label.run.in_process", forgetful)
    summary = labelled()
    assert (summary.counts["units"], summary.incomplete, listings["tracks"]) == (1, 0, 2)
    assert summary.outcome is not None
    assert (summary.outcome.instructions, summary.outcome.finished) == (2, 2)
