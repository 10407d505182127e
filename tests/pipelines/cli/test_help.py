"""What a user finds by asking the program: choices, other names, the version, settings, examples, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.support.label_runs import vrshq
from vrshq.operators.synth import SPLITS
from vrshq.operators.synth.config import SynthConfig
from vrshq.pipelines.cli.main import app
from vrshq.pipelines.config.describe import describe, suggestion
from vrshq.pipelines.evaluate.datasets import ALIASES as DATASET_ALIASES
from vrshq.pipelines.evaluate.datasets import DatasetError, benchmark_names, open_benchmark
from vrshq.pipelines.export.formats import ALIASES as FORMAT_ALIASES
from vrshq.pipelines.export.formats import FORMATS
from vrshq.pipelines.label.settings import Settings, load_settings
from vrshq.pipelines.synth.settings import FORMATS as SYNTH_FORMATS
from vrshq.pipelines.train.presence_settings import PresenceSettings
from vrshq.pipelines.train.settings import TrainSettings, load_train_settings, packaged_configs

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
# What an option's value may be called in help.
PLACEHOLDERS = {
    *(
        "TABLE",
        "RUN",
        "URI",
        "FOLDER",
        "FILE",
        "SOURCE",
        "MODEL",
        "DATASET",
        "NAME",
        "URL",
        "HOST:PORT",
        "TYPE",
        "DATE",
    ),
    *("KEY=VALUE", "KEY=VALUES", "KIND=NAME", "SHARE", "COUNT", "NUMBER", "FORMAT", "SECTION"),
    *("VIDEO", "TEXT...", "FRAME", "ADDRESS", "PORT", "MIB", "OUTCOME", "ORDER", "WHICH", "GPUS"),
}


def helped(command: str, parameter: str) -> str:
    """The help text of a parameter."""
    (text,) = [item.help for item in COMMANDS[command].params if item.name == parameter]
    return str(text)


def test_help_lists_the_choices() -> None:
    assert all(name in helped("export", "format_") for name in FORMATS)
    for command in ("evaluate", "ablate"):
        assert all(name in helped(command, "dataset") for name in benchmark_names())
    assert all(name in helped("synth", "split") for name in SPLITS)
    assert all(name in helped("synth", "form") for name in SYNTH_FORMATS)
    assert all(name in helped("train", "config") for name in packaged_configs())


def test_every_value_in_help_has_a_placeholder_of_one_list() -> None:
    for name, command in COMMANDS.items():
        for item in command.params:
            if item.name != "help" and not getattr(item, "is_flag", False):
                assert item.metavar in PLACEHOLDERS, (name, item.name, item.metavar)


@pytest.mark.parametrize("name", COMMANDS)
def test_short_and_long_help_are_the_same_and_name_the_shared_options(name: str) -> None:
    short, long = vrshq(name, "-h"), vrshq(name, "--help")
    assert (short.returncode, short.stdout) == (0, long.stdout)
    assert all(option in short.stdout for option in ("--quiet", "--verbose", "--log-file"))


def test_the_version_is_printed() -> None:
    assert vrshq("--version").stdout == f"vrshq {version('vrshq')}\n"


def test_the_shell_completes_commands_and_options() -> None:
    program = str(Path(sys.executable).parent / "vrshq")
    for words, number, expected in (
        ("vrshq comp", "1", {"compact", "compare"}),
        ("vrshq label --retry", "2", {"--retry-errors"}),
    ):
        environment = os.environ | {"_VRSHQ_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": number}
        done = subprocess.run([program], env=environment, capture_output=True, text=True, check=True)
        assert set(done.stdout.split()) == expected


def test_common_names_of_data_sets_and_formats_are_known() -> None:
    assert set(FORMAT_ALIASES.values()) <= set(FORMATS)
    assert not set(FORMAT_ALIASES) & set(FORMATS)
    assert set(DATASET_ALIASES.values()) <= set(benchmark_names())
    with pytest.raises(DatasetError, match="/nowhere"):
        open_benchmark("refytvos", "/nowhere")


# ---- settings ---------------------------------------------------------------------------------------------------------


def test_settings_prints_type_default_meaning_and_an_example() -> None:
    shown = vrshq("settings", "keyframe").stdout.splitlines()
    assert shown[:3] == ["keyframe", "The choice of the keyframe: TKS or one of its baselines.", ""]
    assert shown[3].startswith("keyframe.method  tks or clip or similarity or object_score or ")
    assert shown[3].endswith("; default tks")
    assert shown[5:] == [
        "    --set keyframe.method=clip",
        "",
        "keyframe.seed  integer or none, at least 0; default none",
        "    Seed of method random; default: sampling.seed.",
        "    --set keyframe.seed=1",
    ]
    pools = vrshq("settings", "resources.pools").stdout
    assert "--set 'resources.pools=[{operators: [presample, tokens], gpus: 1}, " in pools
    assert "resources.pools.N.max_actors  integer or none, at least 1; default none" in pools
    one = vrshq("settings", "masks.presence").stdout
    assert "masks.presence" in one
    assert "masks.hole_area" not in one


def test_settings_knows_those_of_every_command() -> None:
    for kind, words in (
        (Settings, []),
        (TrainSettings, ["train"]),
        (PresenceSettings, ["presence"]),
        (SynthConfig, ["synth"]),
    ):
        printed = vrshq("settings", *words).stdout
        assert all(f"\n{setting.path}  " in printed for section in describe(kind) for setting in section.settings)
    assert "\nstages.N.optimiser.rate  number; default 0.0003\n" in vrshq("settings", "train.stages").stdout


def test_an_unknown_section_is_one_line_with_the_nearest() -> None:
    wrong = vrshq("settings", "keyfram")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith(
        "error: vrshq settings keyfram: no such section; did you mean keyframe? expected one of samp"
    )


def test_every_example_of_a_setting_is_accepted() -> None:
    examples = [(one.path, one.example) for section in describe(Settings) for one in section.settings if one.example]
    assert len(examples) > 25
    for path, value in examples:
        values: Any = load_settings(None, [f"{path}={value}"])
        for name in path.split("."):
            values = getattr(values, name)
        assert values is not None


@pytest.mark.parametrize(
    ("kind", "given", "meant"),
    [
        (Settings, "keyframe.metod", "keyframe.method"),
        (Settings, "keyfram.method", "keyframe.method"),
        (Settings, "method", "keyframe.method"),
        (Settings, "resources.pools.0.actor", "resources.pools.0.actors"),
        (Settings, "zzz", ""),
        (TrainSettings, "stages.3.optimizer.rate", "stages.3.optimiser.rate"),
        (TrainSettings, "stages.0.data.mine.file.root", "stages.0.data.mine.files.root"),
        (SynthConfig, "short_side", "short_sides"),
    ],
)
def test_a_misspelt_name_is_near_the_one_that_was_meant(kind: type[Any], given: str, meant: str) -> None:
    assert suggestion(kind, given) == meant


def test_the_example_configuration_is_printed_and_can_be_used(tmp_path: Path) -> None:
    printed = vrshq("train", "--example").stdout
    (tmp_path / "my.yaml").write_text(printed)
    settings = load_train_settings(str(tmp_path / "my.yaml"), [])
    assert settings == load_train_settings("example", [])
    assert (settings.workers, settings.start.bundle) == (0, "tiny")
    assert yaml.safe_load(printed)["stages"][0]["steps"] == settings.stages[0].steps
    neither = vrshq("train", "--config", "example")
    assert (neither.returncode, neither.stderr.count("\n")) == (1, 1)
    assert "vrshq train --example prints one to begin with" in neither.stderr
