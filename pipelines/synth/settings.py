"""The settings of a synthesis: `--config`, `--set`, and the arguments for the number of videos and their split."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from vrshq.operators.synth import SPLITS, VERSION, SynthConfig
from vrshq.pipelines.config.assignments import SettingsError, assign, read_yaml, validated

FORMATS = ("jpeg", "mp4", "both")
# Of every ten videos, when no split is named, these go to other splits than train: more videos take nothing from a split.
TENTHS = {7: "valid", 8: "test", 9: "test_unseen"}


@dataclass(frozen=True)
class Where:
    """The place where the videos are made. It has no influence on their bytes.

    Attributes:
        address: Ray cluster; None: RAY_ADDRESS, the cluster of the surrounding job, else a local one.
        workers: processes; None: one per CPU.
        use_ray: False makes one video after the other in this process.
    """

    address: str | None = None
    workers: int | None = None
    use_ray: bool = True


def load_config(config: str | None, assignments: list[str]) -> SynthConfig:
    """A configuration from a YAML file and `key=value` assignments, over the defaults.

    Raises:
        SettingsError: one line that names the file or the key, the value given, and the value expected.
    """
    values = read_yaml(config) if config else {}
    assign(values, assignments, "frames=[8, 16]")
    return validated(SynthConfig, values, "vrshq settings synth")


def run_settings(videos: int, seed: int, split: str | None, form: str, config: SynthConfig) -> dict[str, Any]:
    """The settings that decide the bytes of a run, as `synth.json` records them.

    Raises:
        SettingsError: an argument cannot be used.
    """
    counts = _counts(videos, split)
    if seed < 0:
        raise SettingsError(f"--seed {seed}: expected 0 or more")
    if form not in FORMATS:
        raise SettingsError(f"--format {form}: expected jpeg, mp4 or both")
    return {"version": VERSION, "seed": seed, "config": asdict(config), "format": form, "videos": counts}


def _counts(videos: int, split: str | None) -> dict[str, int]:
    """The number of videos of each split, in the order of `SPLITS`; splits without videos are left out."""
    if videos < 1:
        raise SettingsError(f"--videos {videos}: expected 1 or more")
    if split is not None and split not in SPLITS:
        raise SettingsError(f"--split {split}: expected one of {', '.join(SPLITS)}")
    if split is not None:
        return {split: videos}
    counts = Counter(TENTHS.get(number % 10, "train") for number in range(videos))
    return {name: counts[name] for name in SPLITS if counts[name]}
