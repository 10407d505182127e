"""`vrshq plan --on`: plans for GPUs that are not here, of models whose files are not here, without a network."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.clips import h264
from vrshq.cluster.ray.gpus import known_gpus
from vrshq.pipelines.cli.main import main
from vrshq.pipelines.cli.terminal import console
from vrshq.pipelines.estimate.sizes import sized_models
from vrshq.pipelines.label.planning import costs
from vrshq.pipelines.label.planning.forecast import Corpus, cheapest, forecasts
from vrshq.pipelines.label.planning.lengths import Lengths
from vrshq.pipelines.label.settings import Settings, load_settings
from vrshq.pipelines.label.tables.schema import STAGES

Command = Callable[..., tuple[int, dict[str, list[str]], str]]
# A thousand reference units: 300 frames, 16 instructions.
CORPUS = Corpus(1000, 16, Lengths(looked=64, videos=1000, frames=300, frame_instructions=4800))
NAMED = ("1xRTX4090-24GB", "1xA100-40GB", "8xH100-80GB")


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Plans two instructions on a clip of 30 frames; returns the exit code, the lines under each heading, and stderr."""

    def refuse(*_: object) -> None:
        raise AssertionError("a plan for other machines asked the network")

    monkeypatch.setattr(console, "width", 500)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    h264(tmp_path / "clip.mp4", frames=30)
    rows = [{"video_uri": "clip.mp4", "instruction_id": name, "text": "the cup"} for name in "ab"]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*arguments: str) -> tuple[int, dict[str, list[str]], str]:
        line = ["vrshq", "plan", str(tmp_path / "t.jsonl"), "--output", str(tmp_path / "run"), *arguments]
        monkeypatch.setattr("sys.argv", line)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        output, errors = capsys.readouterr()
        said: dict[str, list[str]] = {}
        for printed in output.splitlines():
            heading, _, text = printed.partition(" ")
            said.setdefault(heading, []).append(text.strip())
        assert not (tmp_path / "run").exists()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said, errors

    return run


def test_a_plan_for_named_gpus_says_what_fits_by_part_how_long_it_takes_and_which_is_cheapest(plan: Command) -> None:
    code, said, errors = plan("--model", "vrs-hq-7b", *(word for name in NAMED for word in ("--on", name)))
    assert (code, errors) == (0, "")
    assert said["work"] == ["1 unit to do, about 60 object-frames"]
    assert [line.split(",")[0] for line in said["on"]] == [f"{name} in bfloat16" for name in NAMED]
    assert all(line.startswith("21.4 GiB of GPU memory: weights of the language model 12.9, ") for line in said["gpu"])
    for line in said["cost"]:
        assert [one.split()[0] for one in line.split(", of a unit")[0].split(", ")] == list(STAGES)
        assert line.endswith(
            "of a unit of 30 frames (headers of 1 of 1 videos); estimated from operations and bytes, not measured"
        )
    assert said["whole"][2].endswith(" GPU-hours, about 0.69 s on 8 GPUs, and the start")
    assert said["cheapest"] == ["8xH100-80GB: the fewest GPU-hours of those on which it fits"]


def test_where_it_fits_nowhere_the_error_says_so_for_each_machine(plan: Command) -> None:
    code, said, errors = plan("--set", "model=vrs-hq-13b", "--on", "RTX4090-24GB", "--on", "2xT4-16GB")
    assert code == 1
    assert "cheapest" not in said
    assert said["refused"] == [
        "needs 34.0 GiB of GPU memory, the GPU has 24.0 GiB, and the weights alone take 25.8 GiB; take a larger GPU",
        "needs 64.6 GiB of GPU memory, the GPU has 15.0 GiB, and the weights alone take 51.6 GiB; take a larger GPU",
    ]
    assert errors == f"error: RTX4090-24GB: {said['refused'][0]}; 2xT4-16GB: {said['refused'][1]}\n"


@pytest.mark.parametrize("name", ["H100", "0xH100-80GB", "8x", "x", "8xh100-80gb-pcie"])
def test_a_wrong_name_is_one_line_with_the_known_ones(name: str, plan: Command) -> None:
    code, said, errors = plan("--model", "vrs-hq-7b", "--on", name)
    assert (code, said) == (1, {})
    assert errors == f"error: --on {name}: no such GPU; expected COUNTx and one of {', '.join(known_gpus())}\n"


def test_a_model_without_known_needs_is_one_line(plan: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vrshq.pipelines.label.planning.forecast.sizes_of", lambda _: None)
    code, _, errors = plan("--model", "untrained-tiny", "--on", "T4-16GB")
    assert (code, errors) == (1, "error: --on: the needs of models of the family vrs-hq on a GPU are not known\n")


@pytest.mark.parametrize(
    ("model", "needs", "fits"),
    [
        ("vrs-hq-7b", (21.4, 21.4, 21.4), (True, True, True)),
        ("vrs-hq-13b", (34.0, 34.0, 34.0), (False, True, True)),
        ("sa2va-qwen3-vl-4b", (17.4, 17.4, 17.4), (True, True, True)),
    ],
)
def test_what_fits_where(model: str, needs: tuple[float, ...], fits: tuple[bool, ...]) -> None:
    made = forecasts(NAMED, load_settings(None, [], model=model), CORPUS)
    assert [sum(one.memory.values()) / 2**30 for one in made] == pytest.approx(needs, abs=0.05)
    assert tuple(not one.refused for one in made) == fits
    best = cheapest(made)
    assert best is not None
    assert best.name == "8xH100-80GB"


def test_all_models_with_known_sizes_fit_on_some_gpu() -> None:
    for model in sized_models():
        assert cheapest(forecasts(list(known_gpus()), Settings(model=model), CORPUS)) is not None


def test_gpus_without_bfloat16_take_float32_and_the_refusal_names_float16() -> None:
    (auto,) = forecasts(["V100-32GB"], Settings(model="vrs-hq-7b"), CORPUS)
    assert auto.dtype == "float32"
    assert auto.refused.endswith(", or set dtype=float16, or take a larger GPU")
    (half,) = forecasts(["V100-32GB"], Settings(model="vrs-hq-7b", dtype="float16"), CORPUS)
    assert half.refused == ""
    (wrong,) = forecasts(["V100-32GB"], Settings(model="vrs-hq-7b", dtype="bfloat16"), CORPUS)
    assert wrong.refused == "V100-32GB does not compute in bfloat16; set dtype=float16 or float32"


def test_smaller_batches_fit_where_the_default_ones_do_not() -> None:
    """A 4090 with 16 instructions of Sa2VA-4B fits; what is left after weights decides, and the settings that lower it."""
    changed = Settings.model_validate(
        {"model": "vrs-hq-7b", "resources": {"instruction_batch": 4, "feature_cache_mib": 1024}}
    )
    before, after = (forecasts(["L4-24GB"], one, CORPUS)[0] for one in (Settings(model="vrs-hq-7b"), changed))
    assert sum(after.memory.values()) < sum(before.memory.values()) - (2 << 30)


def test_hours_are_those_of_all_units_and_more_gpus_change_the_wall_clock_alone() -> None:
    one, eight = forecasts(["H100-80GB", "8xH100-80GB"], Settings(model="vrs-hq-7b"), CORPUS)
    assert one.gpu_hours == eight.gpu_hours == pytest.approx(1000 * 15.5 / 3600, rel=0.01)
    assert CORPUS.object_frames == 4_800_000
    assert Corpus(10, 2, None).object_frames == 10 * 100 * 2


def test_a_measured_row_of_the_table_goes_before_the_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = "model,device,dtype,stage,unit,frame,instruction,frame_instruction,measured\n"
    rows = [f"vrs-hq-7b,H100-80GB,bfloat16,{stage},1,,,,a bench\n" for stage in STAGES]
    (tmp_path / "costs.csv").write_text(header + "".join(rows))
    monkeypatch.setattr(costs, "TABLE", tmp_path / "costs.csv")
    costs._table.cache_clear()
    try:
        measured, other = forecasts(["H100-80GB", "H200-141GB"], Settings(model="vrs-hq-7b"), CORPUS)
    finally:
        costs._table.cache_clear()
    assert (measured.expected.source, other.expected.source) == ("a bench", costs.COMPUTED)
    assert measured.gpu_hours == pytest.approx(1000 * len(STAGES) / 3600)
