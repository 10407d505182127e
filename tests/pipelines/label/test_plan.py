"""Promises of `vrshq plan` and of the refusals of `vrshq label`, on a real Ray with GPUs that exist in its books alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vrshq.pipelines.cli.main import main
from vrshq.pipelines.cli.terminal import console
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import load_settings
from vrshq.pipelines.label.tables.schema import STAGES

Said = dict[str, list[str]]
Command = Callable[..., tuple[int, Said, str]]

TWO_GPUS = (
    "resources.pools=[{operators: [presample, tokens, fuse], actors: 2, cpus: 0.1, gpus: 1}, "
    "{operators: [keyframe, propagate], cpus: 0.1}]"
)
WIDE = "resources.pools=[{operators: [presample, tokens, fuse]}, {operators: [keyframe, propagate], cpus: 4}]"


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of two machines: 3 CPUs and 2 GPUs, 3 CPUs."""
    size = {"num_cpus": 3, "object_store_memory": 100 << 20}
    from ray.cluster_utils import Cluster  # here, because it makes Ray read its environment

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


@pytest.fixture
def vrshq(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process; returns the exit code, the lines under each heading, and stderr."""
    monkeypatch.setattr(console, "width", 500)

    def run(*arguments: str) -> tuple[int, Said, str]:
        monkeypatch.setattr("sys.argv", ["vrshq", *arguments, "--model", "untrained-tiny"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        output, errors = capsys.readouterr()
        said: Said = {}
        for line in output.splitlines():
            heading, _, text = line.partition(" ")
            said.setdefault(heading, []).append(text.strip())
        assert isinstance(ended.value.code, int)
        return ended.value.code, said, errors

    return run


def test_a_plan_for_this_machine_says_what_the_work_takes_and_how_that_is_known(
    vrshq: Command, table: str, tmp_path: Path
) -> None:
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


def test_a_model_that_was_never_measured_has_no_numbers(vrshq: Command, table: str, tmp_path: Path) -> None:
    code, said, _ = vrshq("plan", table, "--output", str(tmp_path / "run"), "--set", "dtype=bfloat16")
    assert code == 0
    assert said["cost"] == ["not measured for untrained-tiny in bfloat16 on this device"]
    assert "whole" not in said


@pytest.mark.ray
def test_a_plan_looks_at_the_cluster_and_label_refuses_with_the_same_line(
    vrshq: Command, cluster: str, table: str, tmp_path: Path
) -> None:
    line = [table, "--output", str(tmp_path / "run"), "--address", cluster]
    code, said, errors = vrshq("plan", *line)
    assert (code, errors) == (0, "")
    assert said["on"][0].startswith("2 machines with 6 CPUs, 2 GPUs, ")
    assert [pool.partition(", about ")[0] for pool in said["pool"]] == [
        "presample + tokens + fuse + keyframe + propagate: 2 actors, each 1 CPU, 1 GPU",
    ]
    # the cluster has GPUs, so `dtype: auto` is bfloat16
    assert said["cost"][0].endswith(
        "of a unit of 100 frames (assumed); estimated from operations and bytes, not measured"
    )
    (gpu,) = said["gpu"]
    assert re.match(r"\d\.\d GiB of GPU memory: weights of the language model 0\.0, weights of SAM2 0\.0, ", gpu)
    code, said, errors = vrshq("plan", *line, "--set", WIDE)
    assert code == 1
    assert said["missing"] == ["pool keyframe+propagate: 4 CPUs on one machine, the largest has 3"]
    assert errors == f"error: {said['missing'][0]}\n"
    assert not (tmp_path / "run").exists()
    code, said, errors = vrshq("label", *line, "--set", WIDE)
    assert code == 1
    assert said["missing"] == ["pool keyframe+propagate: 4 CPUs on one machine, the largest has 3"]
    assert errors.endswith(f"error: {said['missing'][0]}\n")


def test_missing_gpus_are_a_line_and_exit_code_1(vrshq: Command, table: str, tmp_path: Path) -> None:
    code, said, errors = vrshq("plan", table, "--output", str(tmp_path / "run"), "--set", TWO_GPUS)
    assert code == 1
    assert said["missing"] == ["needs 2 GPUs, the cluster has 0"]
    assert errors == "error: needs 2 GPUs, the cluster has 0\n"


def test_where_nothing_is_left_to_do_nothing_is_missing(vrshq: Command, table: str, tmp_path: Path) -> None:
    """The videos do not exist: all units end at once, with error rows."""
    run = str(tmp_path / "run")
    settings = load_settings(None, ["resources.device=cpu"], model="untrained-tiny")
    assert label(table, run, settings, use_ray=False).counts["units"] == 20
    code, said, errors = vrshq("plan", table, "--output", run, "--set", TWO_GPUS)
    assert (code, errors) == (0, "")
    assert said["done"] == ["20 units, 0 to do"]
    assert not {"pool", "cost", "missing"} & set(said)
    (command,) = json.loads(Path(run, "stats.json").read_text())["commands"]
    assert (command["device"], command["pools"]) == ("cpu", [list(STAGES[1:])])
