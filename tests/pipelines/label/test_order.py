"""The order in which units are begun: the most expensive first, by what is known of their videos."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from vrshq.pipelines.estimate.terms import Terms
from vrshq.pipelines.label import loop
from vrshq.pipelines.label.planning.order import costliest_first
from vrshq.pipelines.label.planning.plan import make_plan
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.schema import MANIFEST
from vrshq.pipelines.label.tables.summary import RunSummary
from vrshq.pipelines.label.watcher import Watcher


def unit(
    name: str, instructions: int, start: int | None = None, end: int | None = None, uri: str = ""
) -> dict[str, Any]:
    texts = [str(number) for number in range(instructions)]
    place = {
        "unit_id": name,
        "video_id": name,
        "video_uri": uri or f"s3://bucket/{name}.mp4",
        "start": start,
        "end": end,
    }
    return place | {"instruction_ids": texts, "texts": texts, "carried": texts}


def order(units: list[dict[str, Any]], known: dict[str, int] | None = None, terms: Terms | None = None) -> list[str]:
    given = [pa.Table.from_pylist([one], schema=MANIFEST) for one in units]
    more = [terms] if terms else []
    found: list[str] = costliest_first(pa.concat_tables(given), known or {}, *more)["unit_id"].to_pylist()
    return found


def test_of_unknown_videos_the_one_with_most_instructions_is_first_and_equal_ones_keep_their_order() -> None:
    assert order([unit("a", 1), unit("b", 4), unit("c", 16), unit("d", 4)]) == ["c", "b", "d", "a"]


def test_headers_go_before_instructions_and_a_span_bounds_them() -> None:
    known = {f"s3://bucket/{name}.mp4": frames for name, frames in {"a": 100, "b": 90_000, "c": 90_000}.items()}
    units = [unit("a", 16), unit("b", 1), unit("c", 1, start=10, end=20), unit("d", 16)]
    # d has the average length, 60,033 frames
    assert order(units, known) == ["d", "b", "a", "c"]


def test_a_stated_span_counts_without_any_header() -> None:
    assert order([unit("a", 1, 0, 10), unit("b", 1, 0, 90), unit("c", 1)]) == ["c", "b", "a"]


def test_local_files_without_a_header_are_guessed_from_their_size(tmp_path: Path) -> None:
    for name, size in {"a": 1_000, "b": 50_000, "c": 4_000}.items():
        (tmp_path / name).write_bytes(bytes(size))
    units = [unit(name, 2, uri=str(tmp_path / name)) for name in ("a", "b", "c", "gone")]
    # 10 bytes a frame: a 100, b 5,000, c 400 frames; what is gone has the average of the known one
    assert order(units, {str(tmp_path / "a"): 100}) == ["b", "c", "a", "gone"]


def test_known_costs_weigh_frames_and_instructions() -> None:
    known = {"s3://bucket/a.mp4": 1000, "s3://bucket/b.mp4": 10}
    units = [unit("a", 1), unit("b", 16)]
    assert order(units, known, Terms(frame=1)) == ["a", "b"]
    assert order(units, known, Terms(instruction=1)) == ["b", "a"]


def test_the_feed_has_every_unit_once_the_longest_first_and_the_manifest_keeps_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("a_short", 1), ("b_long", 9), ("c_middle", 4)]
    lines = [
        f'{{"video_uri": "{video}.mp4", "instruction_id": "{number}", "text": "the cup"}}\n'
        for video, count in rows
        for number in range(count)
    ]
    (tmp_path / "t.jsonl").write_text("".join(lines))
    plan = make_plan(str(tmp_path / "t.jsonl"), str(tmp_path / "run"), Settings(model="untrained-tiny"))
    fed: list[str] = []

    def feed(units: pa.Table, *_: object, **__: object) -> Any:
        fed.extend(units["video_id"].to_pylist())
        return iter(())

    monkeypatch.setattr(loop, "stream_receipts", feed)
    monkeypatch.setattr(loop, "cluster_machines", lambda: list(plan.machines))
    monkeypatch.setattr(loop, "may_grow", lambda: False)
    monkeypatch.setattr(loop, "startable", lambda pools: pools)
    monkeypatch.setattr(loop, "ray_session", lambda *_, **__: contextlib.nullcontext())
    session = contextlib.ExitStack()
    summary = RunSummary(units=3, already_finished=0)
    assert list(loop.on_ray(plan, None, summary, Watcher(), session, lambda: None)) == []
    assert fed == ["b_long.mp4", "c_middle.mp4", "a_short.mp4"]
    assert plan.manifest["video_id"].to_pylist() == ["a_short.mp4", "b_long.mp4", "c_middle.mp4"]
