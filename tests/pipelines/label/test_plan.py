"""Promises of `vrshq plan` and of the refusals of `vrshq label`, on a real Ray with GPUs that exist in its books alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from vrshq.pipelines.label.schema import STAGES

pytestmark = pytest.mark.ray

TWO_GPUS = (
    "resources.pools=[{operators: [presample, tokens, fuse], actors: 2, cpus: 0.1, gpus: 1}, "
    "{operators: [keyframe, propagate], cpus: 0.1}]"
)
WIDE = "resources.pools=[{operators: [presample, tokens, fuse]}, {operators: [keyframe, propagate], cpus: 4}]"


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of two machines: 3 CPUs and 2 GPUs, 3 CPUs."""
    size = {"num_cpus": 3, "object_store_memory": 100 << 20}
    running = Cluster(initialize_head=True, head_node_args=size | {"num_gpus": 2})
    running.add_node(**size)
    try:
        yield str(running.address)
    finally:
        running.shutdown()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Forty instructions on twenty videos that nobody has to open."""
    rows = [
        {"video_uri": f"{number // 2}.mp4", "instruction_id": str(number % 2), "text": "the cup"}
        for number in range(40)
    ]
    path = tmp_path_factory.mktemp("table") / "table.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def vrshq(*arguments: str) -> tuple[int, dict[str, list[str]], str]:
    """Exit code, what is said under each heading, and the errors."""
    code = "from vrshq.pipelines.cli.main import main; main()"
    command = [sys.executable, "-c", code, *arguments, "--model", "untrained-tiny"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=os.environ | {"COLUMNS": "500"}
    )
    said: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        heading, _, text = line.partition(" ")
        said.setdefault(heading, []).append(text.strip())
    return done.returncode, said, done.stderr


def test_a_plan_for_this_machine_says_what_the_work_takes_and_how_that_is_known(table: str, tmp_path: Path) -> None:
    code, said, errors = vrshq("plan", table, "--output", str(tmp_path / "run"), "--set", "resources.device=cpu")
    assert (code, errors) == (0, "")
    assert said["on"][0].startswith("1 machine with ")
    (pool,) = said["pool"]
    assert pool.startswith("presample + tokens + fuse + keyframe + propagate: ")
    assert re.search(r": [12]?\d actors?, each \S+ CPU, about \d\.\d GiB and the weights$", pool)
    (cost,) = said["cost"]
    assert [one.split()[0] for one in cost.split(", of a unit")[0].split(", ")] == list(STAGES)
    assert "of a unit of 100 frames (assumed); python -m tests.benchmarks.bench_costs on " in cost
    assert said["whole"][0].endswith(" for 20 units of this length, and the start")
    assert "missing" not in said


def test_a_model_that_was_never_measured_has_no_numbers(table: str, tmp_path: Path) -> None:
    code, said, _ = vrshq("plan", table, "--output", str(tmp_path / "run"), "--set", "dtype=bfloat16")
    assert code == 0
    assert said["cost"] == ["not measured for untrained-tiny in bfloat16 on this device"]
    assert "whole" not in said


def test_a_plan_looks_at_the_cluster(cluster: str, table: str, tmp_path: Path) -> None:
    line = ["plan", table, "--output", str(tmp_path / "run"), "--address", cluster]
    code, said, errors = vrshq(*line)
    assert (code, errors) == (0, "")
    assert said["on"][0].startswith("2 machines with 6 CPUs, 2 GPUs, ")
    assert [pool.partition(", about ")[0] for pool in said["pool"]] == [
        "presample: 2 actors, each 0.37 CPU, 1/4 GPU",
        "tokens + fuse: 2 actors, each 0.37 CPU, 1/2 GPU",
        "keyframe + propagate: 2 actors, each 0.37 CPU, 1/4 GPU",
    ]
    assert said["cost"] == ["not measured for untrained-tiny in float32 on this device"]
    code, said, errors = vrshq(*line, "--set", WIDE)
    assert code == 1
    assert said["missing"] == ["pool keyframe+propagate: 4 CPUs on one machine, the largest has 3"]
    assert errors == f"error: {said['missing'][0]}\n"
    assert not (tmp_path / "run").exists()


def test_what_is_missing_is_a_line_and_exit_code_1_and_label_says_the_same(table: str, tmp_path: Path) -> None:
    line = [table, "--output", str(tmp_path / "run"), "--set", TWO_GPUS]
    code, said, errors = vrshq("plan", *line)
    assert code == 1
    assert said["missing"] == ["needs 2 GPUs, the cluster has 0"]
    assert errors == "error: needs 2 GPUs, the cluster has 0\n"
    code, said, refused = vrshq("label", *line)
    assert (code, refused) == (1, errors)
    assert said["missing"] == ["needs 2 GPUs, the cluster has 0"]


def test_where_nothing_is_left_to_do_nothing_is_missing(table: str, tmp_path: Path) -> None:
    """Videos that are not there: all done at once, with error rows."""
    run = str(tmp_path / "run")
    code, said, _ = vrshq("label", table, "--output", run, "--set", "resources.device=cpu")
    assert code == 0
    assert "20 to do" in said["done"][0]
    code, said, errors = vrshq("plan", table, "--output", run, "--set", TWO_GPUS)
    assert (code, errors) == (0, "")
    assert said["done"] == ["20 units, 0 to do"]
    assert not {"pool", "cost", "missing"} & set(said)
    (command,) = json.loads(Path(run, "stats.json").read_text())["commands"]
    assert (command["device"], command["pools"]) == ("cpu", [list(STAGES[1:])])
