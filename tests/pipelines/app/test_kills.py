"""The app is killed at random while somebody judges: no judgement is lost, and none is stored twice."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipelines.app.conftest import instructions
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.app.run import serve
from vrshq.pipelines.app.state import Options
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.reviews import Reviews

# A server that has the libraries already and forks: an app of its own starts in tens of milliseconds.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["vrshq.pipelines.app.run", "vrshq.pipelines.app.routes", "uvicorn"])


def serve_app(run: str, questions: str, pipe: Connection) -> None:
    options = Options(run, Settings(), (), questions, "ann", 1)
    serve(options, "127.0.0.1", 0, pipe.send)


class App:
    """The app as a process of its own, and a client that comes from its page."""

    def __init__(self, run: str, questions: Path) -> None:
        here, there = processes.Pipe()
        self.process = processes.Process(target=serve_app, args=(run, str(questions), there), daemon=True)
        self.process.start()
        address = here.recv()
        origin = address.partition("/?")[0]
        self.client = httpx2.Client(base_url=origin, headers={"Origin": origin}, timeout=30, trust_env=False)
        for _ in range(200):  # the address is printed when the socket listens, just before the first answer
            try:
                assert self.client.get(address).status_code == 200
                return
            except httpx2.TransportError:
                time.sleep(0.02)
        raise AssertionError("the app does not answer")

    def kill(self) -> None:
        self.process.kill()
        self.process.join(30)
        self.client.close()


@pytest.mark.parametrize("most", [5, pytest.param(20, marks=pytest.mark.long)])
def test_judging_killed_at_random_loses_and_doubles_nothing(most: int, run: str, tmp_path: Path) -> None:
    keys = [(video, str(place)) for video, made in instructions().items() for place in range(len(made))]
    chance = random.Random(27)
    number = kills = unanswered = 0
    app = App(run, tmp_path / "questions")
    die = time.monotonic() + chance.uniform(0.1, 0.5)
    while kills < most:
        video, instruction = keys[number % len(keys)]
        body = {"part": f"{number + 1:032x}", "video": video, "instruction": instruction, "judge": "ann"}
        body |= {"verdict": chance.choice(["accept", "reject", "unsure"]), "comment": str(number)}
        while True:  # as the page: the same judgement again until it is confirmed
            killer = None
            if time.monotonic() > die:  # in the middle of the request: around its arrival, the write and the answer
                killer = threading.Timer(chance.uniform(0, 0.03), app.process.kill)
                killer.start()
            try:
                answer = app.client.post("/api/runs/main/reviews", json=body)
                assert answer.status_code == 200, answer.text
                done = True
            except httpx2.TransportError:
                done = False
                unanswered += 1
            if killer is not None:
                killer.join()
                app.kill()
                kills += 1
                app = App(run, tmp_path / "questions")
                die = time.monotonic() + chance.uniform(0.1, 0.5)
            if done:
                break
        number += 1
    app.kill()

    directory = RunDirectory(run)
    names = directory.folder.list("reviews")
    parts = [pq.read_table(pa.BufferReader(directory.folder.read_bytes(name))) for name in names]
    assert sorted(int(row["comment"]) for row in pa.concat_tables(parts).to_pylist()) == list(range(number))
    assert number > most
    latest = Reviews(directory).latest
    for place, key in enumerate(keys):
        assert int(latest[key]["ann"].comment) == max(range(place, number, len(keys)))
    print(f"{kills} kills, {number} judgements, {unanswered} requests without an answer")
