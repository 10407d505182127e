"""Reads the metadata format of most benchmarks: `{"videos": {video: {"frames": [...], "expressions": {id: {...}}}}}`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vrshq.cluster.storage.errors import StorageError
from vrshq.cluster.storage.folder import Folder
from vrshq.pipelines.evaluate.datasets.base import DatasetError, Expression, Kind, Video
from vrshq.pipelines.evaluate.datasets.problems import Report

# (expression's id, its entry) -> the expression
ExpressionRule = Callable[[str, Mapping[str, Any]], Expression]


def read_json(folder: Folder, name: str, report: Report | None = None) -> Any:
    """The content of a JSON file of the data set. Keys that occur twice in an object are added to `report`.

    Raises:
        DatasetError: the file is missing or is not JSON.
    """
    try:
        data = folder.read_bytes(name)
    except (StorageError, ValueError) as error:
        raise DatasetError(f"{error}; expected the data set's file {name}") from error

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if report is not None and len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            for key in found:
                if keys.count(key) > 1:
                    report.add("key-twice", f"{name}: {key}", keys.count(key) - 1)
        return found

    try:
        return json.loads(data, object_pairs_hook=unique if report is not None else None)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{folder.uri_of(name)} is not JSON: {' '.join(str(error).split())[:200]}") from error


def video_entries(folder: Folder, name: str, report: Report) -> dict[str, dict[str, Any]]:
    """The entries under `videos` of a metadata file, in its order.

    Entries of another type and entries with an unsafe id are added to `report` and left out.

    Raises:
        DatasetError: the file is missing, is not JSON, or has no object "videos".
    """
    content = read_json(folder, name, report)
    videos = content.get("videos") if isinstance(content, dict) else None
    if not isinstance(videos, dict):
        raise DatasetError(f'{folder.uri_of(name)} has no object "videos"; expected {{"videos": {{id: {{...}}}}}}')
    entries: dict[str, dict[str, Any]] = {}
    for video_id, entry in videos.items():
        if not is_inside(video_id):
            report.add("unsafe-id", f"video {video_id!r}")
        elif not isinstance(entry, dict):
            report.add("bad-entry", f"video {video_id}: {type(entry).__name__} instead of an object")
        else:
            entries[video_id] = entry
    return entries


def expression_entries(video_id: str, entry: Mapping[str, Any], report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (id, entry) of a video's expressions in the order of the file. Other entries are added to `report`."""
    expressions = entry.get("expressions")
    if isinstance(expressions, list):  # some converted copies have a list without ids
        expressions = {str(place): expression for place, expression in enumerate(expressions)}
    if not isinstance(expressions, dict):
        if expressions is not None:
            report.add("bad-entry", f"video {video_id}: expressions are {type(expressions).__name__}, not an object")
        return
    for expression_id, expression in expressions.items():
        if isinstance(expression, dict) and is_text(expression_id):
            yield expression_id, expression
        else:
            report.add("bad-entry", f"{video_id}, expression {expression_id!r}: {type(expression).__name__}")


def frame_names(video_id: str, entry: Mapping[str, Any], report: Report) -> tuple[str, ...]:
    """The names of a video's frames in the order of the metadata. Unsafe and malformed names are added to `report`."""
    frames = entry.get("frames")
    if not isinstance(frames, list):
        if frames is not None:
            report.add("bad-entry", f"video {video_id}: frames are {type(frames).__name__}, not a list")
        return ()
    names = []
    for frame in frames:
        if not isinstance(frame, str | int) or isinstance(frame, bool):
            report.add("bad-entry", f"video {video_id}: frame {frame!r}")
        elif not is_inside(str(frame)) or "/" in str(frame):
            report.add("unsafe-id", f"video {video_id}, frame {frame!r}")
        else:
            names.append(str(frame))
    return tuple(names)


def build_videos(
    entries: Mapping[str, Mapping[str, Any]],
    report: Report,
    rule: ExpressionRule,
    *,
    frames_folder: str,
    suffix: str = "",
    source: Callable[[str, Mapping[str, Any]], str | None] = lambda _video_id, _entry: None,
) -> list[Video]:
    """The videos of a metadata file in its order.

    Args:
        entries: the entries by video id.
        report: receives malformed entries, which are left out.
        rule: builds an expression from its id and its entry.
        frames_folder: folder of all videos' frames, relative to the root; "" is the root.
        suffix: of the videos' files; "": each video is a folder of frames.
        source: gives the collection of a video from its id and its entry.
    """
    return [
        Video(
            video_id,
            frame_names(video_id, entry, report),
            tuple(rule(key, found) for key, found in expression_entries(video_id, entry, report)),
            uri=join(frames_folder, video_id) + suffix,
            source=source(video_id, entry),
            height=_pixels(entry.get("height")),
            width=_pixels(entry.get("width")),
        )
        for video_id, entry in entries.items()
    ]


def text_of(entry: Mapping[str, Any], *keys: str) -> str:
    """The text of the first of `keys` that holds one; "" if none does, which is no error for a reader.

    Unpaired surrogates, which JSON can hold but UTF-8 cannot, become "?".
    """
    text: str = next((entry[key] for key in keys if isinstance(entry.get(key), str)), "")
    return text.encode(errors="replace").decode()


def ids_of(entry: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The ids of an entry as str; the file may hold a list, a single id or null."""
    value = entry.get(key)
    values: Sequence[Any] = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(str(item) for item in values if isinstance(item, int | str))


def plain_rule(expression_id: str, found: Mapping[str, Any]) -> Expression:
    """An expression of the common format.

    `type_id` (ReVOS) gives its kind; `asks` and `subtype` (`vrshq synth`) give the attribute that it asks for.
    """
    asks, subtype = (text_of(found, key) or None for key in ("asks", "subtype"))
    return Expression(expression_id, text_of(found, "exp"), kind_of(found), ids_of(found, "obj_id"), asks, subtype)


def kind_of(entry: Mapping[str, Any]) -> Kind | None:
    """The kind of ReVOS's `type_id`: 0 referring, 1 reasoning, 2 no target; None for any other value."""
    kinds: dict[int, Kind] = {0: "referring", 1: "reasoning", 2: "no-target"}
    type_id = entry.get("type_id")
    return kinds.get(type_id) if isinstance(type_id, int) and not isinstance(type_id, bool) else None


def is_inside(name: str) -> bool:
    """Whether a name of the data set, which may hold slashes, stays inside its folder."""
    return is_text(name) and "\\" not in name and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def is_text(text: str) -> bool:
    """Whether a text can be written as UTF-8; a JSON string may hold unpaired surrogates."""
    return text == text.encode(errors="replace").decode()


def join(*parts: str) -> str:
    """The path parts that are not empty, joined by slashes."""
    return "/".join(part for part in parts if part)


def _pixels(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
