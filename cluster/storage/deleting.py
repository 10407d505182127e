"""Many objects of an S3 bucket removed by one request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

DELETED_AT_ONCE = 1000  # what S3 takes in a request


class RefusedError(Exception):
    """The store did not remove an object. `response` is what botocore's errors hold."""

    def __init__(self, refused: dict[str, str]) -> None:
        super().__init__(f"{refused.get('Code')} for {refused.get('Key')}: {refused.get('Message', '')}")
        self.response = {"Error": refused}


def delete_objects(fs: Any, paths: Sequence[str]) -> None:
    """Removes up to `DELETED_AT_ONCE` objects of one bucket; those that do not exist are no failure.

    fsspec's own `rm` takes brackets and stars in names for patterns, and does not say which objects stayed.

    Raises:
        RefusedError: the store refused some of the objects; the first refusal.
    """
    split = [fs.split_path(path) for path in paths]
    wanted = {"Objects": [{"Key": key} for _, key, _ in split], "Quiet": True}
    answer = fs.call_s3("delete_objects", Bucket=split[0][0], Delete=wanted)
    refused = [one for one in answer.get("Errors", []) if one.get("Code") != "NoSuchKey"]
    if refused:
        raise RefusedError(refused[0])
