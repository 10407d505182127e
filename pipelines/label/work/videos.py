"""The video of a unit on local disk: fetched within the limits of the settings, and no more of it than is read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from vrshq.cluster.storage.errors import StorageError
from vrshq.cluster.storage.fetch import Wanted, fetch_to_local
from vrshq.cluster.storage.retry import PATIENCE_S
from vrshq.cluster.storage.uris import is_remote, local_path
from vrshq.cluster.storage.web import WebAccess
from vrshq.operators.video.files import check_limit
from vrshq.operators.video.frame_names import may_be_image
from vrshq.pipelines.label.settings import Limits


def local_video(
    uri: str,
    scratch: str,
    limits: Limits,
    patience_s: float = PATIENCE_S,
    tell: Callable[[int], None] = lambda _: None,
) -> AbstractContextManager[str]:
    """A local path for the video at `uri` for the time of a `with`, as `fetch_to_local` gives it.

    Of a remote folder only what may be an image is fetched. Sizes are compared with `limits` before the first byte: those that
    the store lists, and those that a web server states; of a web server also the bytes that come.

    Args:
        uri: a video file or a folder of frames, local or remote; untrusted.
        scratch: as for `fetch_to_local`.
        limits: of the run.
        patience_s: as for `Folder`.
        tell: told the size in bytes, where it is known, before the first byte is fetched.

    Raises:
        InputError: it is above a limit. StorageError: it cannot be fetched, or may not be. Both when it is entered.
    """

    def check(files: int, size: int) -> None:
        check_limit(uri, files, limits.max_frames, "frames", "limits.max_frames")
        check_limit(uri, size, limits.max_bytes, "bytes", "limits.max_bytes")
        if size:
            tell(size)

    if not is_remote(uri) and (size := size_of_file(uri)):
        tell(size)
    access = WebAccess(allowed=limits.allow_http, private=limits.allow_private_addresses)
    return fetch_to_local(uri, scratch, patience_s, Wanted(name=may_be_image, check=check, access=access))


def size_of_file(uri: str) -> int:
    """The size of a local file in bytes; 0 for a folder, and where there is none."""
    try:
        path = local_path(uri)
        return path.stat().st_size if path.is_file() else 0
    except (OSError, ValueError, StorageError):
        return 0
