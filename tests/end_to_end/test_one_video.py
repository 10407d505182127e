"""Many instructions on one video: its units share what was fetched, decoded and encoded, and the tables are the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.support import clips
from tests.support.label_runs import content, instruction, write_table
from tests.support.sa2va_tiny import MODEL, QUESTIONS, write_frames
from vrshq.cluster.storage.fetch import fetch_to_local
from vrshq.operators.models import clip
from vrshq.pipelines.label import loop
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.work import videos

FRAMES = 8


def settings(per_unit: int, model: str = "untrained-tiny", **more: Any) -> Settings:
    pools = [{"operators": ["presample", "tokens", "fuse", "keyframe", "propagate"], "cpus": 1}]
    given = {"model": model, "max_instructions_per_unit": per_unit, "resources": {"pools": pools, **more}}
    return Settings.model_validate(given)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six instructions on one video, and two each on two others."""
    folder = tmp_path_factory.mktemp("videos")
    for name in "abc":
        clips.h264(folder / f"{name}.mp4", frames=FRAMES)
    rows = [instruction(f"{name}.mp4", number, f"the {name} {number}") for name in "aac" for number in range(2)]
    rows = [instruction("b.mp4", number, f"block {number}") for number in range(6)] + rows[2:]
    return write_table(folder / "table.jsonl", rows)


def counts(run: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((run / "stats.json").read_text())["commands"][0]["counts"]
    return found


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        return self.function(*arguments, **named)


def test_units_of_one_video_fetch_decode_and_encode_it_once(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: Counted = Counted(fetch_to_local)
    embedded: Counted = Counted(clip.image_embeddings)
    monkeypatch.setattr(videos, "fetch_to_local", fetched)
    monkeypatch.setattr("vrshq.operators.presample.image_embeddings", embedded)
    label(table, str(tmp_path / "many"), settings(1), use_ray=False)
    many = counts(tmp_path / "many")
    assert (many["units"], many["errors"]) == (10, 0)
    assert fetched.calls == embedded.calls == 3, "one for each video"
    assert (many["decode_passes"], many["encoder_calls"]) == (3, 3 * FRAMES)
    monkeypatch.setattr(loop, "_with_more", lambda units: units)  # as if no other unit followed
    label(table, str(tmp_path / "alone"), settings(1), use_ray=False)
    assert (fetched.calls, counts(tmp_path / "alone")["encoder_calls"]) == (3 + 10, 10 * FRAMES)
    assert content(str(tmp_path / "many")) == content(str(tmp_path / "alone"))


def test_what_does_not_fit_into_the_budget_is_encoded_again_and_the_tables_are_the_same(
    table: str, tmp_path: Path
) -> None:
    label(table, str(tmp_path / "all"), settings(4), use_ray=False)
    label(table, str(tmp_path / "some"), settings(4, feature_cache_mib=1, frame_cache_mib=0), use_ray=False)
    assert counts(tmp_path / "some")["encoder_calls"] > counts(tmp_path / "all")["encoder_calls"] == 3 * FRAMES
    assert content(str(tmp_path / "all")) == content(str(tmp_path / "some"))


def test_the_tower_of_sa2va_sees_each_frame_of_a_video_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vrshq.operators.models.sa2va.network import Sa2vaLanguage

    seen: list[int] = []
    see = Sa2vaLanguage.see

    def counted(self: Sa2vaLanguage, pictures: Any) -> Any:
        seen.append(len(pictures))
        return see(self, pictures)

    write_frames("q2", tmp_path / "q2")
    rows = [instruction("q2", number, f"{QUESTIONS['q2']} {number}") for number in range(3)]
    monkeypatch.setattr(Sa2vaLanguage, "see", counted)
    label(write_table(tmp_path / "t.jsonl", rows), str(tmp_path / "run"), settings(1, MODEL), use_ray=False)
    assert counts(tmp_path / "run")["ok"] + counts(tmp_path / "run")["empty"] == 3
    of_units, seen[:] = sum(seen), []
    label(write_table(tmp_path / "t.jsonl", rows), str(tmp_path / "one"), settings(16, MODEL), use_ray=False)
    assert of_units == sum(seen) > 0


def test_a_video_that_cannot_be_fetched_fails_in_each_of_its_units(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(uri: str, *arguments: Any) -> AbstractContextManager[str]:
        if uri.endswith("b.mp4"):
            raise OSError("gone")
        return fetch_to_local(uri, *arguments)

    monkeypatch.setattr(videos, "fetch_to_local", refuse)
    label(table, str(tmp_path / "run"), settings(4), use_ray=False)
    assert (counts(tmp_path / "run")["errors"], counts(tmp_path / "run")["units"]) == (6, 4)


@pytest.mark.ray
@pytest.mark.usefixtures("shared_ray")
def test_on_ray_one_actor_works_through_the_units_of_a_video(table: str, tmp_path: Path) -> None:
    label(table, str(tmp_path / "run"), settings(1))
    found = counts(tmp_path / "run")
    assert (found["units"], found["errors"]) == (10, 0)
    assert (found["decode_passes"], found["encoder_calls"]) == (3, 3 * FRAMES)
