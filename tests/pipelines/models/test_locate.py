"""Promises of a node's cache of models, tested with a real S3 server and counted requests."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faulty_proxy import FaultyProxy
from tests.support.s3_server import S3_BUCKET, S3Server
from vrshq.cluster.storage.folder import Folder
from vrshq.operators.models.bundle import CheckpointError
from vrshq.pipelines.models.locate import local_model

MODEL = f"s3://{S3_BUCKET}/model"
FILES = {"model.safetensors": os.urandom(3_000_000), "clip/vocab.json": b"{}", "tokenizer.model": os.urandom(1000)}


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A counting proxy in front of a server; the environment uses it, and the cache is empty."""
    monkeypatch.setenv("VRSHQ_CACHE", str(tmp_path / "cache"))
    with S3Server(tmp_path / "s3") as server, FaultyProxy(server.port) as proxy, server.reached(proxy.port):
        yield proxy


def put(files: dict[str, bytes], checksums: dict[str, str] | None = None) -> None:
    """Writes a model into the bucket; with `checksums`, also a description that lists them."""
    for name, content in files.items():
        Folder(MODEL).write_bytes(name, content)
    if checksums is not None:
        Folder(MODEL).write_bytes("bundle.json", json.dumps({"sha256": checksums}).encode())


def sums(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def content(folder: str) -> dict[str, bytes]:
    """The files of a cached model, without the lock and the description."""
    found = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name[0] != "." and name != "bundle.json"}


def downloads(proxy: FaultyProxy) -> dict[str, int]:
    """Number of requests for each file of the model, by name."""
    prefix = f"/{S3_BUCKET}/model/"
    return {
        path.removeprefix(prefix): count
        for (method, path), count in proxy.counts.items()
        if method == "GET" and path.startswith(prefix) and path != f"{prefix}bundle.json"
    }


FETCHER = """
import sys
from vrshq.pipelines.models.locate import local_model
print("ready", flush=True)
sys.stdin.readline()
print(local_model(sys.argv[1]), flush=True)
"""


def fetcher() -> subprocess.Popen[str]:
    """A process that fetches the model after a line on stdin, and prints its folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", FETCHER, MODEL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_four_processes_that_start_together_fetch_each_file_once(proxy: FaultyProxy) -> None:
    put(FILES, sums(FILES))
    processes = [fetcher() for _ in range(4)]
    proxy.counts.clear()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert len(answers) == 1
    assert content(answers.pop()) == FILES
    assert downloads(proxy) == dict.fromkeys(FILES, 1)


def test_a_killed_downloader_leaves_nothing_that_looks_complete_and_blocks_nobody(
    proxy: FaultyProxy, tmp_path: Path
) -> None:
    put(FILES, sums(FILES))
    asked: list[str] = []

    def hold(method: str, path: str) -> str | None:
        if method == "GET" and path.endswith("model.safetensors"):
            asked.append(path)
            while len(asked) == 1:
                time.sleep(0.01)  # until the test has killed the first downloader
        return None

    proxy.script = hold
    process = fetcher()
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    while not asked:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    asked.append("released")
    cached = {path.name: path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert "model.safetensors" not in cached
    proxy.counts.clear()
    assert content(local_model(MODEL)) == FILES
    # Whole files are not fetched again: descriptions come before the weights.
    assert downloads(proxy) == {"model.safetensors": 1}
    assert list((tmp_path / "cache" / "incoming").iterdir()) == []


def test_a_file_that_is_not_what_the_bundle_lists_is_refused_by_name(proxy: FaultyProxy, tmp_path: Path) -> None:
    put(FILES, sums(FILES) | {"tokenizer.model": "0" * 64})
    for _ in range(2):  # the first attempt must not leave the file in the cache
        with pytest.raises(
            CheckpointError, match=rf"^--model {MODEL}/tokenizer.model: sha256 \w+, bundle.json lists 0+"
        ):
            local_model(MODEL)
    assert not list((tmp_path / "cache").rglob("tokenizer.model"))
    # Descriptions come before the weights, which a damaged description never costs.
    assert downloads(proxy) == {"clip/vocab.json": 1, "tokenizer.model": 2}


def test_a_model_is_fetched_again_when_a_file_in_the_bucket_changes(proxy: FaultyProxy) -> None:
    put(FILES)
    first = local_model(MODEL)
    assert local_model(MODEL) == first
    assert downloads(proxy) == dict.fromkeys(FILES, 1)
    changed = FILES | {"tokenizer.model": FILES["tokenizer.model"][::-1]}  # its size does not change
    put(changed)
    second = local_model(MODEL)
    assert second != first
    assert content(second) == changed
    assert content(first) == FILES


def test_a_listed_checksum_says_which_file_is_meant_whatever_its_etag(proxy: FaultyProxy) -> None:
    put(FILES, sums(FILES))
    first = local_model(MODEL)
    etag = Folder(MODEL).stamps()["tokenizer.model"]
    put({"tokenizer.model": b"another"})
    assert Folder(MODEL).stamps()["tokenizer.model"] != etag
    assert local_model(MODEL) == first
    assert content(first) == FILES
    assert downloads(proxy) == dict.fromkeys(FILES, 1)


def test_a_model_arrives_whole_from_a_faulty_server(proxy: FaultyProxy) -> None:
    put(FILES, sums(FILES))
    proxy.rate_503, proxy.rate_cut_in_body = 0.2, 0.3
    assert content(local_model(MODEL)) == FILES
    assert sum(proxy.faults.values()) > 0
