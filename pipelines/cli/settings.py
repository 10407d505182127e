"""`vrshq settings`."""

from __future__ import annotations

import difflib
from typing import Annotated

import typer
from rich.padding import Padding
from rich.text import Text

from vrshq.pipelines.cli.terminal import console, say
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.config.describe import Section, Setting, describe

# Sections of other commands than `label`, by the first part of their names.
_TRAIN, _PRESENCE, _SYNTH = "train", "presence", "synth"
_OTHERS = (_TRAIN, _PRESENCE, _SYNTH)


def settings(
    section: Annotated[
        str,
        typer.Argument(
            metavar="SECTION",
            help="A section or a setting, such as keyframe, resources.pools or masks.presence; train, train.stages, "
            "presence (a presence head's training) or synth for the settings of those commands; default: all of label.",
        ),
    ] = "",
) -> None:
    """Explain every setting of --config and --set: type, default, meaning, and an example."""
    first, _, rest = section.partition(".")
    found = [_narrowed(group, rest if first in _OTHERS else section) for group in _sections(first)]
    shown = [group for group in found if group is not None]
    if not shown:
        names = [group.path for group in _sections(first) if group.path]
        near = difflib.get_close_matches(section, [*names, *_OTHERS], n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise SettingsError(
            f"vrshq settings {section}: no such section; {meant}expected one of {', '.join(names)}, or {', '.join(_OTHERS)}"
        )
    for place, group in enumerate(shown):
        if place:
            say("")
        _print(group)


def _sections(first: str) -> list[Section]:
    if first == _TRAIN:
        from vrshq.pipelines.train.settings import TrainSettings

        return describe(TrainSettings)
    if first == _PRESENCE:
        from vrshq.pipelines.train.presence_settings import PresenceSettings

        return describe(PresenceSettings)
    if first == _SYNTH:
        from vrshq.operators.synth.config import SynthConfig

        return describe(SynthConfig)
    from vrshq.pipelines.label.settings import Settings

    return describe(Settings)


def _narrowed(group: Section, wanted: str) -> Section | None:
    """The section if it is `wanted` or lies inside it, with the wanted setting alone if that is one of its settings."""
    if not wanted or group.path == wanted or group.path.startswith(f"{wanted}."):
        return group
    mine = tuple(setting for setting in group.settings if setting.path == wanted)
    return Section(group.path, group.about, mine) if mine else None


def _print(group: Section) -> None:
    console.print(group.path or "The run", style="bold", highlight=False)
    console.print(group.about, highlight=False)
    for setting in group.settings:
        _print_setting(setting)


def _print_setting(setting: Setting) -> None:
    plain = (
        f"{setting.type}; default {setting.default}" if setting.default != "required" else f"{setting.type}; required"
    )
    console.print(Text.assemble(("\n" + setting.path, "bold"), "  ", (plain.replace("`", ""), "dim")), soft_wrap=True)
    lines = [setting.meaning]
    if setting.example:
        quote = "'" if set(setting.example) & set(" [{") else ""
        lines.append(f"--set {quote}{setting.path}={setting.example}{quote}")
    for line in lines:
        console.print(Padding(Text(line.replace("`", "")), (0, 0, 0, 4)), soft_wrap=not console.is_terminal)
