"""`vrshq app` over a large run: time to the first page and to the last one, memory of the server and of the page.

    python -m tests.benchmarks.bench_app [--instructions 100000] [--folder FOLDER]

The run is made without a model: real clips, made masks, 12 frames each. With --folder it is kept and used again. The page's own
times and memory are measured where there is a Chromium.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import pyarrow as pa

from tests.support import clips
from tests.support.made_runs import unit_id
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.masks.rle import encode
from vrshq.pipelines.label.tables.schema import MANIFEST, MASKS, SCHEMA_VERSION, TRACKS

FRAMES, SIZE, EACH, FILES = 12, (240, 320), 16, 8
COMMAND = [sys.executable, "-c", "from vrshq.pipelines.cli.main import main; main()", "app"]


def make(folder: Path, instructions: int) -> str:
    """Writes the run, if it is not there already: units of 16 instructions, merged as after a finished `vrshq label`."""
    uri = str(folder / "run")
    if (folder / "made").exists():
        return uri
    random = np.random.default_rng(1)
    files = [clips.h264(folder / f"clip-{n}.mp4", frames=FRAMES, height=SIZE[0], width=SIZE[1]) for n in range(FILES)]
    boxes = np.zeros((EACH, FRAMES, *SIZE), bool)
    for place in range(EACH):
        for frame in range(FRAMES - place % 4):
            boxes[place, frame, 20 + place : 90 + 5 * place, 10 * frame : 10 * frame + 60 + place] = True
    codes = [encode(masks) for masks in boxes]
    units = -(-instructions // EACH)
    run = RunDirectory(uri)
    run.open({"made": True}, {})
    names = [f"set-{number // 1000}/video-{number:06d}.mp4" for number in range(units)]
    ids = [[str(place) for place in range(min(EACH, instructions - EACH * number))] for number in range(units)]
    words = ["red cup", "car that turns left", "second dog", "person who leaves", "ball below the table"]
    texts = [
        [f"the {words[(number + int(one)) % 5]}, {number * EACH + int(one)}" for one in own]
        for number, own in enumerate(ids)
    ]
    where = [str(files[number % FILES]) for number in range(units)]
    about = {"unit_id": [unit_id(number) for number in range(units)], "video_id": names, "video_uri": where}
    carried: list[list[str]] = [[] for _ in range(units)]
    nothing = {"carried": carried, "start": [None] * units, "end": [None] * units}
    run.write_manifest(pa.table(about | {"instruction_ids": ids, "texts": texts} | nothing, schema=MANIFEST))
    for number in range(units):
        places = range(len(ids[number]))
        tracks = [_track(names[number], where[number], place, texts[number][place], random) for place in places]
        rows = [(place, frame, codes[place][frame]) for place in places for frame in range(FRAMES)]
        masks = {
            "video_id": [names[number]] * len(rows),
            "instruction_id": [str(place) for place, _, _ in rows],
            "object_id": [0] * len(rows),
            "frame_index": [frame for _, frame, _ in rows],
            "height": [SIZE[0]] * len(rows),
            "width": [SIZE[1]] * len(rows),
            "rle": [code.rle for _, _, code in rows],
            "area": [code.area for _, _, code in rows],
            "bbox": [list(code.bbox) for _, _, code in rows],
            "object_score": random.normal(2, 2, len(rows)).astype(np.float32),
        }
        tables = {"masks": pa.table(masks, schema=MASKS), "tracks": pa.Table.from_pylist(tracks, schema=TRACKS)}
        run.commit_unit(unit_id(number), tables)
    run.compact(about["unit_id"], to_the_end=True)
    (folder / "made").touch()
    return uri


def _track(name: str, where: str, place: int, text: str, random: np.random.Generator) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(TRACKS.names)
    return row | {
        "video_id": name,
        "video_uri": where,
        "instruction_id": str(place),
        "text": text,
        "status": "ok",
        "num_frames": FRAMES,
        "num_objects": 1,
        "height": SIZE[0],
        "width": SIZE[1],
        "keyframe_index": 5,
        "sampled_frames": [0, 5, 11],
        "presence": random.random(),
        "flicker": random.random(),
        "attempts": 1,
        "schema_version": SCHEMA_VERSION,
    }


class Server:
    """The command as a process, and a client from its page."""

    def __init__(self, uri: str, folder: Path) -> None:
        begin = time.perf_counter()
        command = [*COMMAND, uri, "--port", "0", "--questions", str(folder / "questions")]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = next(line for line in self.process.stdout if line.startswith("open "))
        self.address = line.removeprefix("open ").strip()
        self.started = time.perf_counter() - begin
        origin = self.address.partition("/?")[0]
        self.client = httpx2.Client(base_url=origin, headers={"Origin": origin}, timeout=600, trust_env=False)
        assert self.client.get(self.address).status_code == 200
        self.first_page = time.perf_counter() - begin

    def memory(self) -> str:
        return f"{psutil.Process(self.process.pid).memory_info().rss / 2**20:.0f} MiB"

    def rows(self, **query: Any) -> Any:
        answer = self.client.get("/api/runs/main/rows", params={"limit": 48, **query})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def pictures(self, rows: list[dict[str, Any]]) -> None:
        """What the page fetches for its cards."""
        listed = ",".join(str(row["row"]) for row in rows)
        assert len(self.client.get("/api/runs/main/thumbnails", params={"rows": listed}).json()) == len(rows)
        for row in rows:
            query = {"id_video": row["video_id"], "id_instruction": row["instruction_id"], "number": 5, "size": 320}
            assert self.client.get("/api/runs/main/frame", params=query).status_code == 200


def timed(act: Callable[[], Any]) -> tuple[str, Any]:
    begin = time.perf_counter()
    found = act()
    return f"{time.perf_counter() - begin:.2f} s", found


def in_browser(address: str) -> list[tuple[str, str]]:
    """Times and memory of the page itself."""
    from playwright.sync_api import sync_playwright

    from tests.support.browser import Watched, chromium

    assert sync_playwright is not None
    with chromium() as browser:
        watched = Watched(browser, viewport={"width": 1440, "height": 900})
        page = watched.page

        def first() -> None:
            page.goto(address)
            page.wait_for_selector(".card canvas[data-drawn]")

        def last() -> None:
            page.click("[data-page=last]")
            page.wait_for_function("() => document.querySelector('[data-page=last]').disabled")
            page.wait_for_selector(".card canvas[data-drawn]")

        times = [
            (name, timed(act)[0]) for name, act in (("page: first card drawn", first), ("page: last page drawn", last))
        ]
        metrics = page.context.new_cdp_session(page)
        metrics.send("Performance.enable")
        values = {one["name"]: one["value"] for one in metrics.send("Performance.getMetrics")["metrics"]}
        assert watched.faults == [], watched.faults
        return [*times, ("page: JavaScript heap", f"{values['JSHeapUsedSize'] / 2**20:.1f} MiB")]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        made, uri = timed(lambda: make(folder, given.instructions))
        print(f"{given.instructions:,} instructions of {FRAMES} frames, made in {made}", flush=True)
        server = Server(uri, folder)
        try:
            lines = [("start of the command to its address", f"{server.started:.2f} s")]
            lines += [("start of the command to the first page", f"{server.first_page:.2f} s")]
            facts = server.client.get("/api/runs/main").json()
            assert facts["instructions"] == given.instructions, json.dumps(facts)
            took, page = timed(server.rows)
            lines += [
                ("rows of the first page", took),
                ("its 48 pictures and masks", timed(lambda: server.pictures(page["rows"]))[0]),
            ]
            lines += [("memory of the server", server.memory())]
            end = (given.instructions - 1) // 48 * 48
            took, page = timed(lambda: server.rows(offset=end))
            lines += [
                ("rows of the last page", took),
                ("its pictures and masks", timed(lambda: server.pictures(page["rows"]))[0]),
            ]
            queries: dict[str, dict[str, Any]] = {
                "a part of a text": {"text": "left, 77"},
                "least presence first": {"sort": "presence"},
                "most flicker first, last page": {"sort": "flicker", "offset": end},
                "emptiest first, the first time": {"sort": "empty"},
                "emptiest first, again": {"sort": "empty"},
            }
            for name, query in queries.items():
                took, page = timed(functools.partial(server.rows, **query))
                lines += [(name, took)]
            lines += [("48 pictures and masks of scattered units", timed(lambda: server.pictures(page["rows"]))[0])]
            lines += [("memory of the server afterwards", server.memory())]
            lines += in_browser(server.address)
        finally:
            server.process.terminate()
            server.process.wait()
    print("\n| what | measured |\n| --- | --- |")
    for name, value in lines:
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
