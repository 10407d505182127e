"""Files of web servers: whether a server may be called, and a download whose size is bounded while it runs.

An instruction table is untrusted, and the machines that read it often reach more than its author does: databases,
dashboards, the cloud's service for credentials. A name is judged by the address that is connected to, at the moment of the
connection, so that neither a redirect nor a name server that changes its mind leads elsewhere.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec.asyn

from vrshq.cluster.storage.errors import StorageError
from vrshq.cluster.storage.retry import retry

_CHUNK_BYTES = 2**20
_CONNECT_S, _SILENCE_S = 10, 60
# Networks behind a translator: the last 32 bits are the IPv4 address that is reached.
_TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))
# A public address by number, but each machine in Azure reaches its own host's service there.
_HOST_SERVICES = frozenset({ipaddress.ip_address("168.63.129.16")})


@dataclass(frozen=True)
class WebAccess:
    """Which web servers may be called.

    Attributes:
        allowed: whether any may be.
        private: whether also those at addresses of this machine and of private networks.
    """

    allowed: bool = False
    private: bool = False


NO_ACCESS = WebAccess()


class AddressRefusedError(StorageError):
    """A web server may not be called. The one-line message names the setting that allows it."""


class _PrivateAddress(Exception):  # noqa: N818 - no OSError, which aiohttp would take for a failed connection
    """An address that is not public was about to be connected to."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet: not to this machine, a private network, or many machines."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and any(ip in network for network in _TRANSLATED):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved) and ip not in _HOST_SERVICES


def download(
    uri: str, target: Path, patience_s: float, *, access: WebAccess, check: Callable[[int, int], object]
) -> None:
    """Copies a file of a web server into the local file `target`, with one request and the redirects that it leads to.

    Args:
        uri: `http://` or `https://`.
        target: is replaced.
        patience_s: as for `Folder`.
        access: which servers may be called.
        check: is called with 1 and the size in bytes that the server states, then with the bytes that have come; it raises
                a UserError when they are too many.

    Raises:
        AddressRefusedError: `access` does not allow the address, or that of a redirect. StorageError: it cannot be fetched.
        What `check` raises.
    """
    if not access.allowed:
        raise AddressRefusedError(
            f"{uri}: cannot fetch: web servers are not called; set limits.allow_http=true if the table's addresses may be"
        )
    loop = fsspec.asyn.get_loop()  # in a thread of its own: the caller's may have a loop that runs, as in a notebook
    retry(uri, "fetch", patience_s, lambda: fsspec.asyn.sync(loop, _get, uri, target, access, check))


async def _get(uri: str, target: Path, access: WebAccess, check: Callable[[int, int], object]) -> None:
    import aiohttp  # here, because most runs read no web server

    connector = aiohttp.TCPConnector(
        socket_factory=None if access.private else _public_socket,
        happy_eyeballs_delay=None,  # one address after the other, so that the first refusal ends the request
    )
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, raise_for_status=True) as session,
            # A compressed answer would state another size than it has.
            session.get(uri, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            check(1, answer.content_length or 0)
            come = 0
            with target.open("wb") as file:
                async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                    come += len(chunk)
                    check(1, come)
                    file.write(chunk)
    except _PrivateAddress as error:
        raise AddressRefusedError(
            f"{uri}: cannot fetch: it leads to {error}, which is not a public address; set "
            "limits.allow_private_addresses=true if the table may call machines of this network"
        ) from None


def _public_socket(about: Any) -> socket.socket:
    """The socket for an entry of `socket.getaddrinfo`; aiohttp connects it to the entry's address and to no other."""
    family, kind, protocol, _, address = about
    if not is_public(address[0]):
        raise _PrivateAddress(address[0])
    return socket.socket(family, kind, protocol)
