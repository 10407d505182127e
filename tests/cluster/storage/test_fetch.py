"""Promises of `vrshq.cluster.storage.fetch`: what is fetched, what is not, and the names that it gets on local disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import s3fs

from tests.support.faulty_proxy import FaultyProxy
from tests.support.s3_server import S3_BUCKET
from vrshq.cluster.storage.errors import StorageError
from vrshq.cluster.storage.fetch import Wanted, fetch_to_local, local_name

FRAMES = {f"{number:05d}.jpg": bytes([number]) * 100 for number in range(5)}
ONLY_JPEG = Wanted(name=lambda name: name.endswith(".jpg"))


@pytest.fixture
def traffic(s3_server: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:  # noqa: ARG001
    """A proxy in front of the S3 server that counts what passes through it."""
    port = int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])
    with FaultyProxy(port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        s3fs.S3FileSystem.clear_instance_cache()
        yield proxy
    s3fs.S3FileSystem.clear_instance_cache()


def stored(name: str, files: dict[str, bytes], traffic: FaultyProxy) -> str:
    """The uri of a new folder with these files; nothing of its making is counted."""
    store = s3fs.S3FileSystem()  # `Folder` would refuse some of the names
    for file, content in files.items():
        store.pipe_file(f"{S3_BUCKET}/{name}/{file}", content)
    traffic.counts.clear()
    traffic.answered_bytes = 0
    return f"s3://{S3_BUCKET}/{name}"


def refuse(files: int, size: int) -> None:
    if files > 4 or size > 1000:
        raise StorageError(f"{files} files, {size} bytes")


def test_only_the_wanted_files_of_a_folder_are_fetched(traffic: FaultyProxy, tmp_path: Path) -> None:
    uri = stored("beside", FRAMES | {"all.zip": bytes(5_000_000), "notes.txt": b"x"}, traffic)
    with fetch_to_local(uri, tmp_path, wanted=ONLY_JPEG) as path:
        assert {file.name: file.read_bytes() for file in Path(path).iterdir()} == FRAMES
    assert traffic.answered_bytes < 10_000
    assert not any("all.zip" in path for _, path in traffic.counts)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"0.jpg": bytes(600), "1.jpg": bytes(600)}, "2 files, 1200 bytes"),
        ({f"{number}.jpg": b"" for number in range(9)}, "5 files, 0 bytes"),
    ],
    ids=["bytes together", "files"],
)
def test_a_folder_above_a_limit_is_refused_before_its_first_file(
    files: dict[str, bytes], found: str, traffic: FaultyProxy, tmp_path: Path
) -> None:
    uri = stored(f"many-{len(files)}", files, traffic)
    with pytest.raises(StorageError, match=f"^{found}$"), fetch_to_local(uri, tmp_path, wanted=Wanted(check=refuse)):
        pass
    assert not any(path.endswith(".jpg") for _, path in traffic.counts)


def test_a_file_above_a_limit_is_refused_before_its_first_byte(traffic: FaultyProxy, tmp_path: Path) -> None:
    uri = stored("large", {"a.mp4": bytes(1001)}, traffic)
    with (
        pytest.raises(StorageError, match=r"^1 files, 1001 bytes$"),
        fetch_to_local(f"{uri}/a.mp4", tmp_path, wanted=Wanted(check=refuse)),
    ):
        pass
    assert [method for method, _ in traffic.counts] == ["HEAD"]
    assert traffic.answered_bytes == 0


def test_a_folder_without_a_wanted_file_is_there_and_empty(traffic: FaultyProxy, tmp_path: Path) -> None:
    uri = stored("text", {"notes.txt": b"x"}, traffic)
    with fetch_to_local(uri, tmp_path, wanted=ONLY_JPEG) as path:
        assert list(Path(path).iterdir()) == []


def test_a_key_with_a_backslash_is_fetched_under_its_name(traffic: FaultyProxy, tmp_path: Path) -> None:
    frames = {f"cam\\{number}.jpg": bytes([number]) for number in (9, 10)}
    with fetch_to_local(stored("back", frames, traffic), tmp_path) as path:
        assert {file.name: file.read_bytes() for file in Path(path).iterdir()} == frames


@pytest.mark.parametrize("before", ["zero\0", "\x01", "escape\x1b[2J", "x" * 250, "\u2028", "1 x 1\n"])
def test_names_that_cannot_be_local_are_mapped_and_keep_their_numbers(before: str, tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    for number in (9, 10, 11):
        store.pipe_file(f"/odd-{before!r}/{before}{number}.jpg", bytes([number]))
    try:
        with fetch_to_local(f"memory://odd-{before!r}", tmp_path) as path:
            files = {file.name: file.read_bytes() for file in Path(path).iterdir()}
    finally:
        store.rm(f"/odd-{before!r}", recursive=True)
    numbers = {int(re.findall(r"(\d+)\.jpg$", name)[0]): content for name, content in files.items()}
    assert numbers == {9: b"\x09", 10: b"\x0a", 11: b"\x0b"}
    # One series stays one: what stands before the number is the same for all.
    assert len({re.sub(r"\d+\.jpg$", "", name) for name in files}) == 1
    assert all(name.isprintable() and len(name.encode()) <= 255 for name in files)


def test_different_names_stay_different_and_harmless_ones_as_they_are() -> None:
    odd = ["..", ".", "a\0.jpg", "a\1.jpg", "a_.jpg", "é" * 200 + "1.jpg", "é" * 201 + "1.jpg", "1-" * 300, "\ud800"]
    assert len({local_name(name) for name in odd}) == len(odd)
    for name in ("00000.jpg", "frame (1).png", "a\\b.jpg", "Ä::1.JPEG", ".hidden.jpg"):
        assert local_name(name) == name


def test_names_with_colons_are_no_chain_of_file_systems(traffic: FaultyProxy, tmp_path: Path) -> None:
    folder = stored("a::b", {"simplecache::c.mp4": b"video"}, traffic)
    with fetch_to_local(f"{folder}/simplecache::c.mp4", tmp_path) as path:
        assert Path(path).read_bytes() == b"video"
