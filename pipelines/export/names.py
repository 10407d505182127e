"""File names out of untrusted ids, and the names of a video's frames."""

from __future__ import annotations

import hashlib
import re

from vrshq.cluster.storage.errors import StorageError
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import is_web, parent_and_name
from vrshq.operators.batch import InputError
from vrshq.operators.video.frame_names import in_order, is_image_name

# "%" itself, control characters, and what Windows and zip readers take for something else
_UNSAFE = re.compile(r'[%\\:*?"<>|\x00-\x1f\x7f]')
_RESERVED = re.compile(r"\.(?=(png|json|xml|zip)$)", re.IGNORECASE)
_LONGEST = 200  # bytes; file systems allow 255 for a part, suffix included


def part_of(text: str) -> str:
    """One part of a path, without slashes, for an id; different ids give different parts.

    Harmless ids stay as they are. Unsafe characters become %XX as in a URL, so do the dots of "." and "..", and the last
    dot of what looks like a file's name; an empty id becomes "%"; a very long one keeps its beginning and ends in a hash.
    """
    part = _UNSAFE.sub(_escape, text).replace("/", "%2F")
    part = part.replace(".", "%2E") if part in (".", "..") else _RESERVED.sub("%2E", part)
    if len(part.encode()) > _LONGEST:
        beginning = part.encode()[: _LONGEST - 40].decode(errors="ignore")
        part = f"{beginning}%~{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    return part or "%"


def path_of(text: str) -> str:
    """A relative path for an id whose slashes are folders, as in ReVOS; never leads outside its folder."""
    return "/".join(part_of(part) for part in text.split("/"))


def number_names(count: int) -> list[str]:
    """00000, 00001, ..."""
    return [f"{index:05d}" for index in range(count)]


def safe_video(video_id: str) -> str:
    """A video's id as the path of its frames in a file that other tools read: unescaped, so that it names what exists.

    An id that would lead outside the folder of videos is escaped as in `path_of`.
    """
    parts = video_id.split("/")
    return path_of(video_id) if {"", ".", ".."} & set(parts) else video_id


def source_files(video_uri: str, count: int) -> list[str] | None:
    """The names of a folder's frames with their suffixes, in the order of the frames.

    None where `video_uri` is not a folder of `count` such frames (any more). Costs one listing.
    """
    if is_video_file(video_uri):
        return None
    try:
        names = Folder(video_uri).list()
    except (StorageError, ValueError):
        return None
    try:
        # the rule that gave the frames their indices
        files = in_order("the folder", filter(is_image_name, names))
    except InputError:
        return None
    return files if len(files) == count else None


def is_video_file(video_uri: str) -> bool:
    """Whether there is a file, not a folder, at a video's uri. A web server is not asked: it has no folders of frames."""
    if is_web(video_uri):
        return True
    try:
        folder, name = parent_and_name(video_uri.rstrip("/"))
        return Folder(folder).exists(name)
    except (StorageError, ValueError):
        return False


def _escape(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"
