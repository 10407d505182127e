"""Which videos the app may open: those inside the chosen roots, or those that the run itself names."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from vrshq.cluster.storage.uris import is_remote, join_uri, local_path
from vrshq.errors import UserError
from vrshq.pipelines.label.tables.moved import MovedVideosError, VideoPlaces


class NotAllowed(UserError):  # noqa: N818 - reads as the sentence that it is
    """A video that the app may not open."""


class Roots:
    """Folders, local or in buckets, below which the app opens videos. Links are followed before the comparison.

    Args:
        uris: the roots.
    """

    def __init__(self, uris: Sequence[str]) -> None:
        self.uris = [uri.rstrip("/") if is_remote(uri) else str(local_path(uri)) for uri in uris]

    def checked(self, uri: str) -> str:
        """The uri with its links resolved, if it, and every file of a folder of frames, lies inside a root.

        Args:
            uri: a file or folder; a relative one lies below the first root.

        Raises:
            NotAllowed: it does not, or it does not exist.
        """
        uri = join_uri(self.uris[0], uri) if self.uris else uri
        if is_remote(uri):
            parts = uri.split("/")
            if any(uri.startswith(f"{root}/") for root in self.uris if is_remote(root)) and not {".", ".."} & set(
                parts
            ):
                return uri
            raise self._refused(uri)
        try:
            found = local_path(uri).resolve(strict=True)
        except (OSError, RuntimeError) as error:
            # whether a file outside exists is not told
            raise self._refused(uri) from error
        inside = [found, *(file.resolve() for file in found.iterdir())] if found.is_dir() else [found]
        if not all(self._holds(path) for path in inside):
            raise self._refused(uri)
        return str(found)

    def _holds(self, path: Path) -> bool:
        return any(path.is_relative_to(Path(root).resolve()) for root in self.uris if not is_remote(root))

    def _refused(self, uri: str) -> NotAllowed:
        return NotAllowed(
            f"{uri}: no such video inside {', '.join(self.uris) or 'the video roots, of which there are none'}"
        )


class RunVideos:
    """Where the videos of a run may be read.

    Without roots a video is read where the run found it, and nothing else is. With roots it must lie inside one: where the run
    found it, or where `VideoPlaces` finds it below a root.

    Args:
        uris: the addresses that the run has.
        roots: the chosen roots; none: the run's own addresses.

    Raises:
        MovedVideosError: none of the first videos lies inside a root.
    """

    def __init__(self, uris: Sequence[str], roots: Sequence[str]) -> None:
        self._roots = Roots(roots) if roots else None
        self._places: list[VideoPlaces] = []
        lost: MovedVideosError | None = None
        for root in roots:
            try:
                self._places.append(VideoPlaces(root, uris))
            except MovedVideosError as error:
                lost = error
        if lost is not None and not self._places:
            raise lost

    @functools.lru_cache(maxsize=512)  # noqa: B019 - for as long as the run
    def now(self, uri: str) -> str:
        """The address at which a video of the run may be read.

        Raises:
            NotAllowed: it lies outside the roots.
        """
        if self._roots is None:
            return uri
        refused: NotAllowed | None = None
        for candidate in (uri, *(places.now(uri) for places in self._places)):
            try:
                return self._roots.checked(candidate)
            except NotAllowed as error:
                refused = refused or error
        assert refused is not None
        raise refused
