"""A stand-in for the hub: an HTTP server on loopback that answers what huggingface_hub asks, and counts it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

# Files that the hub keeps apart from git and states the sha256 of.
_LARGE = (".safetensors", ".bin", ".model")


@dataclass(frozen=True)
class Repository:
    """A repository: the content of its files by name, and the licence of its card."""

    files: dict[str, bytes]
    licence: str | None

    @property
    def commit(self) -> str:
        """40 hexadecimal digits that depend on the files."""
        states = sorted((name, hashlib.sha256(content).hexdigest()) for name, content in self.files.items())
        return hashlib.sha1(repr(states).encode()).hexdigest()

    def about(self, name: str) -> dict[str, Any]:
        """A file's entry in the answer to `model_info`."""
        content = self.files[name]
        entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_hash(content)}
        if name.endswith(_LARGE):
            entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry


def git_hash(content: bytes) -> str:
    """The id that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer:
    """Serves repositories inside a `with` block.

    Attributes:
        repositories: by their ids; may be changed at any time.
        requests: number of requests by (method, path without query).
        sent: bytes of file contents that were sent, by "repository/file".
        damaged: files, as in `sent`, that arrive with other content than the hub states.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: Counter[tuple[str, str]] = Counter()
        self.sent: Counter[str] = Counter()
        self.damaged: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def address(self) -> str:
        """The server's address, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def store(self) -> str:
        """The address of the store for large files: another host, as that of the hub is."""
        return self.address.replace("127.0.0.1", "localhost")

    def add(self, repository: str, folder: Path, licence: str | None, leave_out: str = "\0") -> None:
        """Serves the files of a folder, but for those whose names begin with `leave_out`."""
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        files = {name: path.read_bytes() for name, path in paths.items() if not name.startswith(leave_out)}
        self.repositories[repository] = Repository(files, licence)

    def environment(self, home: Path) -> dict[str, str]:
        """Environment variables with which a process uses this server, and caches of its own under `home`."""
        return {"HF_ENDPOINT": self.address, "HF_HOME": str(home / "hub"), "VRSHQ_CACHE": str(home / "models")}

    @contextmanager
    def reached(self, home: Path) -> Iterator[None]:
        """Sends this process to this server, as a machine whose caches lie under `home`."""
        constants = huggingface_hub.constants
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment(home).items():
                patch.setenv(name, value)
            # the client reads its variables when it is imported
            patch.setattr(constants, "ENDPOINT", self.address)
            template = self.address + "/{repo_id}/resolve/{revision}/{filename}"
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub" / "hub"))
            yield

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests[self.command, path] += 1
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._about("/".join(parts[2:4]), tree=parts[4:5] == ["tree"])
        elif parts[0] == "store":
            self._content(parts[1], "/".join(parts[2:]))
        else:
            self._resolve("/".join(parts[:2]), "/".join(parts[4:]))

    def _about(self, name: str, *, tree: bool) -> None:
        """What `model_info` asks, and what `list_repo_tree` does."""
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._send(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return
        card = {"license": repository.licence} if repository.licence else {}
        files = [repository.about(file) for file in repository.files]
        if tree:
            listed = [
                {"type": "file", "path": file["rfilename"], "size": file["size"], "oid": file["blobId"]}
                | ({"lfs": {**file["lfs"], "oid": file["lfs"]["sha256"]}} if "lfs" in file else {})
                for file in files
            ]
            self._send(200, {"Content-Type": "application/json"}, json.dumps(listed).encode())
            return
        answer = {"id": name, "modelId": name, "sha": repository.commit, "siblings": files, "cardData": card}
        self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _resolve(self, name: str, file: str) -> None:
        """Small files come from here; large ones from a store, with what the hub states of them."""
        repository = self.hub.repositories.get(name)
        if repository is None or file not in repository.files:
            self._send(404, {"X-Error-Code": "EntryNotFound"})
            return
        about, content = repository.about(file), repository.files[file]
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{about["blobId"]}"'}
        if "lfs" in about:
            sha256 = about["lfs"]["sha256"]
            linked = {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
            self._send(302, headers | linked | {"Location": f"{self.hub.store}/store/{name}/{file}"})
            return
        self._file(f"{name}/{file}", headers, content)

    def _content(self, owner: str, rest: str) -> None:
        name, _, file = rest.partition("/")
        self._file(f"{owner}/{name}/{file}", {}, self.hub.repositories[f"{owner}/{name}"].files[file])

    def _file(self, key: str, headers: dict[str, str], content: bytes) -> None:
        if self.command == "GET":
            self.hub.sent[key] += len(content)
        self._send(200, headers, content[::-1] if key in self.hub.damaged else content)

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
