"""Promise 2, by breaking things: whatever is killed, the same line again gives the tables of an undisturbed run."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.fault_kit import Command, Nodes, accounted, checksums, nodes, wait_until, write_corpus
from tests.support.faulty_proxy import FaultyProxy
from tests.support.s3_server import S3_BUCKET, S3Server
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings

pytestmark = pytest.mark.ray


@dataclass(frozen=True)
class Size:
    """Size of the experiment: videos of the corpus, kills of the driver and of actors."""

    videos: int
    driver_kills: int
    actor_kills: int


MODEL = ["--model", "untrained-tiny"]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(Size(videos=8, driver_kills=2, actor_kills=1), id="8 videos"),
        pytest.param(Size(videos=56, driver_kills=20, actor_kills=3), id="56 videos", marks=pytest.mark.long),
    ],
)
def size(request: pytest.FixtureRequest) -> Size:
    """The small experiment of every run, and the large one of `make test-long`."""
    chosen: Size = request.param
    return chosen


@pytest.fixture(scope="module")
def corpus(size: Size, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The instruction table of the corpus, beside its videos."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), size.videos)


@pytest.fixture(scope="module")
def undisturbed(size: Size, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checksums of the for-loop's tables."""
    output = str(tmp_path_factory.mktemp("undisturbed") / "run")
    summary = label(str(corpus), output, Settings(model="untrained-tiny"), use_ray=False)
    assert (summary.counts["units"], summary.counts["errors"], summary.incomplete) == (size.videos, 0, 0)
    return checksums(output)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(server: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.port, seed=4) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(server: S3Server, proxy: FaultyProxy) -> Iterator[Nodes]:
    """A head and a worker node that know the way to the S3 server: through the proxy."""
    with server.reached(proxy.port), nodes(workers=1) as running:
        yield running


def finished(run: str) -> int:
    return len(RunDirectory(run).finished_units())


def wait_for_units(run: str, number: int, command: Command) -> None:
    """Until so many units are finished, or the command has ended."""
    wait_until(lambda: finished(run) >= number or command.process.poll() is not None, 240, f"{number} units")


def test_four_actors_on_two_nodes_and_a_shuffled_table_give_identical_tables(
    corpus: Path, undisturbed: dict[str, str], cluster: Nodes, tmp_path: Path
) -> None:
    lines = corpus.read_text().splitlines(keepends=True)
    shuffled = tmp_path / "shuffled.jsonl"
    shuffled.write_text("".join(random.Random(3).sample(lines, len(lines))))
    run = str(tmp_path / "run")
    everything = "[presample,tokens,fuse,keyframe,propagate]"
    pools = f"resources.pools=[{{operators: {everything}, actors: 4, cpus: 0.5}}]"
    line = ["label", str(shuffled), "--videos", str(corpus.parent), "--output", run, *MODEL, "--set", pools]
    command = Command(*line, "--address", cluster.address)
    assert command.end(600) == 0, command.output
    assert checksums(run) == undisturbed
    stats = json.loads(Path(run, "stats.json").read_text())
    assert (stats["unfinished"], stats["commands"][0]["workers"]) == (0, 4)
    assert stats["commands"][0]["counts"]["encoder_calls"] == stats["commands"][0]["counts"]["frames"]


@pytest.mark.timeout(1800)
def test_kills_of_driver_actors_and_a_node_at_random_moments_then_resume_gives_identical_tables(
    size: Size, corpus: Path, undisturbed: dict[str, str], cluster: Nodes, tmp_path: Path
) -> None:
    chance = random.Random(11)
    runs = [str(tmp_path / "run-0")]
    before = len(cluster.units_begun())
    kills = actors = machines = 0
    while kills < size.driver_kills or actors < size.actor_kills or machines < 1:
        run = runs[-1]
        line = ["label", str(corpus), "--output", run, *MODEL, "--address", cluster.address]
        command = Command(*line)
        done = finished(run)
        if chance.random() < 0.7 and done < size.videos:
            # in the middle of the work
            wait_for_units(run, done + 1, command)
            if actors < size.actor_kills:
                for process in chance.sample(cluster.actors(), 1):
                    process.send_signal(signal.SIGKILL)
                    actors += 1
                time.sleep(chance.uniform(0, 3))
            elif machines < 1:
                cluster.kill_worker_node()
                machines += 1
                wait_for_units(run, finished(run) + 1, command)
            time.sleep(chance.uniform(0, 1.5))
        else:
            # while it starts: reading, planning, connecting, loading
            time.sleep(chance.uniform(0, 8))
        if command.kill():
            kills += 1
        else:
            # on a fast machine it outruns the kills: the rest of them hit a further run
            assert finished(run) == size.videos, command.output
            runs.append(str(tmp_path / f"run-{len(runs)}"))
    for run in runs:
        last = Command("label", str(corpus), "--output", run, *MODEL, "--address", cluster.address)
        assert last.end(600) == 0, last.output
        assert checksums(run) == undisturbed
        counts = accounted(run)
        assert (len(counts), set(counts.values())) == (size.videos, {1})
    assert (actors, machines) == (size.actor_kills, 1)
    begun, units = len(cluster.units_begun()) - before, size.videos * len(runs)
    print(
        f"{kills} kills of the driver, {actors} of actors, {machines} of a machine; "
        f"{units} units, begun {begun} times: {begun - units} of them again"
    )
    # each kill costs at most the calls of two actors: units of about two seconds together, and a unit takes half of one
    assert begun <= units + 2 * 4 * (kills + actors + machines)


@pytest.mark.timeout(1200)
def test_a_bucket_that_fails_in_every_way_gives_identical_tables(
    size: Size,
    corpus: Path,
    undisturbed: dict[str, str],
    cluster: Nodes,
    server: S3Server,
    proxy: FaultyProxy,
) -> None:
    """Videos and run directory on S3; 503s, cut connections, a server that dies and comes back, a driver that dies."""
    run = f"s3://{S3_BUCKET}/kills-{size.videos}/run"
    (server.served / S3_BUCKET / "videos").mkdir(exist_ok=True)
    for file in corpus.parent.iterdir():
        (server.served / S3_BUCKET / "videos" / file.name).write_bytes(file.read_bytes())
    table = f"s3://{S3_BUCKET}/videos/{corpus.name}"
    line = ["label", table, "--output", run, *MODEL, "--address", cluster.address]
    proxy.rate_503 = proxy.rate_cut_before_answer = proxy.rate_cut_in_body = 0.06
    proxy.rate_cut_upload = 0.1  # a small corpus has few uploads
    first = Command(*line)
    stored = str(server.served / S3_BUCKET / f"kills-{size.videos}/run")

    wait_until(
        lambda: finished(stored) >= size.videos // 5 or first.process.poll() is not None, 240, "a fifth of the units"
    )
    assert first.kill(), first.output
    second = Command(*line)
    wait_until(
        lambda: finished(stored) >= size.videos * 3 // 5 or second.process.poll() is not None,
        240,
        "three fifths of the units",
    )
    server.kill()
    time.sleep(5)
    server.start()
    assert second.end(600) == 0, second.output
    proxy.rate_503 = proxy.rate_cut_before_answer = proxy.rate_cut_in_body = proxy.rate_cut_upload = 0.0
    # identical but for where the videos lie
    assert checksums(run)["masks"] == undisturbed["masks"]
    counts = accounted(run)
    assert (len(counts), set(counts.values())) == (size.videos, {1})
    assert "0 errors" in second.output
    print(f"requests {sum(proxy.counts.values())}, faults {dict(proxy.faults)}")
    assert set(proxy.faults) >= {"503", "cut_before_answer", "cut_in_body", "cut_upload"}
