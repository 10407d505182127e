"""Retries: which failures are transient, for how long an operation is retried, and the error at the end.

Transient failures are throttling, 5xx answers, cut or refused connections, timeouts and short answers. They are retried
with pauses that double up to 10 s; the length of each pause is randomized. Three layers could each retry a request:

* botocore: up to 3 attempts of a request, a second or two apart. `uris.py` sets its "standard" mode; the default makes 5
  attempts. With 3 attempts a file of many parts survives one bad request.
* s3fs: 5 attempts around each of those by default. They are switched off, because the product of the three layers would
  have no useful bound.
* this module: retries the operation (or one range of a download, or one page of a listing) until `patience_s` seconds
  after its first failure.

An operation on a store that does not answer therefore ends after `patience_s` and at most one more round of 3 attempts.
Each attempt is cut off after 5 s without a connection or 15 s without a byte. gcsfs and adlfs keep their own few retries
inside these.
"""

from __future__ import annotations

import http.client
import itertools
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from vrshq.cluster.storage.errors import StorageError, StorageNotFoundError, one_line
from vrshq.cluster.storage.uris import is_remote
from vrshq.errors import UserError

T = TypeVar("T")

# Seconds after its first failure during which an operation is retried.
PATIENCE_S = 20.0

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0

_NO_BUCKET = re.compile(
    r"NoSuchBucket|(bucket|container) (you specified )?(does not exist|was not found)", re.IGNORECASE
)

# Transient errors whose HTTP status is neither 429 nor 5xx. NoSuchUpload: the answer to "complete this upload" was lost,
# and the repeated request finds it completed; it is safe to write everything again. InternalError: of one object in the answer
# to a bulk request. ConditionalRequestConflict: another conditional write of the object was under way.
_TRANSIENT_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "NoSuchUpload",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentSHA256Mismatch",
}
_PERMANENT_STATUSES = {501, 505, 507}
# Names and not classes, because fsspec imports the packages that define them only when it needs them.
_TRANSIENT_TYPES = {
    "ClientConnectionError",  # aiohttp
    "ClientPayloadError",
    "ConnectionError",  # Python's, and one of botocore's that is not an OSError
    "HTTPClientError",  # botocore: connection reset, answer cut off, no answer in time
    "IncompleteRead",  # http.client, urllib3
    "IncompleteReadError",  # botocore
    "ResponseParserError",
    "ServiceRequestError",  # azure
    "ServiceResponseError",
    "TimeoutError",  # Python's
    "TransportError",  # google.auth
}
# What a user can do about an answer of a web server. Stores answer 403 to a signed address whose time is over.
_ADVICE = {
    401: "; it asks for a login, which an address can only give as http://NAME:PASSWORD@HOST/...",
    403: "; the address may be signed and have expired: make a new one, or check the rights of the file",
    410: "; the address may be signed and have expired: make a new one, or the file was removed for good",
    429: "; it is asked too often: use fewer actors, or copy the files to a bucket",
}


def retry(uri: str, action: str, patience_s: float, act: Callable[[], T]) -> T:
    """Calls `act` until it succeeds, fails permanently, or `patience_s` seconds have passed since its first failure.

    Args:
        uri: the file or folder, for the message.
        action: the verb for the message: "read", "write", ...
        patience_s: seconds.
        act: the operation. It must be safe to repeat.

    Returns:
        the result of `act`.

    Raises:
        StorageError: names the uri, the action and the reason. The exceptions of the backends do not get through.
    """
    started, deadline = time.monotonic(), 0.0
    for attempt in itertools.count():
        try:
            return act()
        except UserError:  # said in its own words, here or in what was called
            raise
        except Exception as error:
            now = time.monotonic()
            transient = is_transient(error)
            deadline = deadline or now + patience_s
            if not transient or now >= deadline:
                raise _explained(uri, action, error, now - started if transient else None) from error
            pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(attempt, 10)) * random.uniform(0.5, 1)
            time.sleep(min(pause, deadline - now))
    raise AssertionError("unreachable: the loop has no end of its own")


def is_transient(error: BaseException) -> bool:
    """Whether another try may succeed, judged by the server's answer or by the failure of the connection."""
    for cause in _causes(error):
        if "certificate" in str(cause).lower():
            return False
        # Types come first: aiohttp gives an answer that was cut off the status 400.
        if not _TRANSIENT_TYPES.isdisjoint(kind.__name__ for kind in type(cause).__mro__):
            return True
        code, status = _answer(cause)
        if code in _TRANSIENT_CODES:
            return True
        if status is not None and status >= 300:
            return status in (408, 425, 429) or (status >= 500 and status not in _PERMANENT_STATUSES)
    return False


def is_missing(error: BaseException) -> bool:
    """Whether the store says that nothing is there. Other refusals of a web server come as FileNotFoundError too."""
    status = _web_status(error)
    if status is not None:
        return status == http.HTTPStatus.NOT_FOUND
    return isinstance(error, FileNotFoundError) and not is_transient(error)


def is_refused_creation(error: BaseException) -> bool:
    """Whether the store says that the file that was to be created is there already."""
    if isinstance(error, FileExistsError):
        return True
    return any(_answer(cause)[1] == http.HTTPStatus.PRECONDITION_FAILED for cause in _causes(error))


def is_unsupported(error: BaseException) -> bool:
    """Whether the server does not know what it was asked for."""
    return any(_answer(cause)[1] == http.HTTPStatus.NOT_IMPLEMENTED for cause in _causes(error))


def _causes(error: BaseException) -> list[BaseException]:
    """The exception, the one that it was raised from, and so on."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    return causes


def _web_status(error: BaseException) -> int | None:
    """The status by which a web server refused; None for any other failure. fsspec makes a FileNotFoundError of each."""
    named = (cause for cause in _causes(error) if type(cause).__name__ == "ClientResponseError")
    return next((status for cause in named if (status := _answer(cause)[1])), None)


def _answer(error: BaseException) -> tuple[str | None, int | None]:
    """The store's error code and the HTTP status that an exception carries; None where it has none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return response.get("Error", {}).get("Code"), status if isinstance(status, int) else None
    named = (getattr(error, name, None) for name in ("status", "status_code", "code"))  # aiohttp, azure, gcsfs
    return None, next((value for value in named if isinstance(value, int)), None)


def _explained(uri: str, action: str, error: Exception, tried_s: float | None) -> StorageError:
    """The StorageError for `error`. `tried_s` is None where the failure is permanent."""
    if tried_s is not None:
        return StorageError(f"{uri}: cannot {action}: {_reason(error)}; tried for {tried_s:.0f} s")
    if is_missing(error):
        no_bucket = _NO_BUCKET.search(one_line(error))
        reason = "the bucket does not exist" if no_bucket and is_remote(uri) else "no such file or folder"
        return StorageNotFoundError(f"{uri}: cannot {action}: {reason}")
    return StorageError(f"{uri}: cannot {action}: {_reason(error)}")


def _reason(error: BaseException) -> str:
    status = _web_status(error)
    if status is not None:
        return f"the server answers {status} {http.client.responses.get(status, '')}{_ADVICE.get(status, '')}"
    kind = type(error).__name__
    if "Credentials" in kind:
        return "no credentials; set them as for the store's own command line (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...)"
    if "EndpointConnection" in kind or "ConnectTimeout" in kind:
        return f"no server answers ({one_line(error)})"
    if isinstance(error, PermissionError):
        return f"permission denied ({one_line(error)})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{kind}: {one_line(error)}"
