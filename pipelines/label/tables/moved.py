"""The videos of a run that lie in another place than when they were labelled."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from vrshq.cluster.storage.errors import StorageError
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import join_uri, parent_and_name
from vrshq.errors import UserError

# Videos of which one at least must lie below the new root.
_LOOKED_FOR = 20


class MovedVideosError(UserError):
    """Below the root that `--videos` names lies no video of the run."""


class VideoPlaces:
    """Where the videos of a run lie now.

    A run keeps the address at which it found each video. Below another root, a video is the longest end of that address that
    exists there: `/data/old/a/cup.mp4` is `ROOT/a/cup.mp4`, or else `ROOT/cup.mp4`. Costs one request for a video in a
    tree that was moved whole.

    Args:
        root: folder, local or in a bucket; None: the videos lie where they lay.
        uris: addresses of the run's videos.

    Raises:
        MovedVideosError: none of the first videos lies below the root.
    """

    def __init__(self, root: str | None, uris: Iterable[str]) -> None:
        self._root = root
        self._dropped = 1  # leading parts of an address that the root replaces, as found for the last video
        if root is None:
            return
        first = list(itertools.islice(dict.fromkeys(uris), _LOOKED_FOR))
        if first and all(self._found(uri) is None for uri in first):
            raise MovedVideosError(
                f"--videos {root}: holds none of the run's videos, such as {first[0]} or an end of that path; give the "
                "folder that the videos lie in now"
            )

    def now(self, uri: str) -> str:
        """The address of a video now; one that is not there ends in the video's name."""
        if self._root is None:
            return uri
        return self._found(uri) or join_uri(self._root, _parts(uri)[-1])

    def _found(self, uri: str) -> str | None:
        parts = _parts(uri)
        for dropped in dict.fromkeys([min(self._dropped, len(parts) - 1), *range(len(parts))]):
            if ".." in parts[dropped:]:
                continue  # it may lead outside the root
            place = join_uri(self._root, "/".join(parts[dropped:]))
            if _exists(place):
                self._dropped = dropped
                return place
        return None


def _parts(uri: str) -> list[str]:
    return [part for part in uri.rpartition("://")[2].split("/") if part]


def _exists(uri: str) -> bool:
    """Whether a file, or a folder with files, lies there."""
    try:
        folder, name = parent_and_name(uri)
        return Folder(folder).exists(name) or not Folder(uri).is_empty()
    except (StorageError, ValueError):
        return False
