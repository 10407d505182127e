"""Promises of `vrshq.cluster.storage.folder`, on disk, in memory and on a real S3 server."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.support.s3_server import S3_BUCKET, free_port
from vrshq.cluster.storage.errors import StorageError, StorageNotFoundError
from vrshq.cluster.storage.fetch import fetch_to_local
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import is_remote, join_uri, parent_and_name


def test_what_is_written_is_read_listed_and_removed(place: str) -> None:
    folder = Folder(place)
    assert folder.is_empty()
    assert folder.list() == []
    folder.write_bytes("b/two.bin", b"2")
    folder.write_bytes("a.bin", b"")
    folder.write_bytes("b/c/three.bin", b"3" * 100_000)
    folder.write_bytes("a.bin", b"again")
    assert folder.read_bytes("a.bin") == b"again"
    assert folder.read_bytes("b/c/three.bin") == b"3" * 100_000
    assert folder.list() == ["a.bin", "b/c/three.bin", "b/two.bin"]
    assert folder.list("b") == ["b/c/three.bin", "b/two.bin"]
    assert folder.any_name("b") in folder.list("b")
    assert folder.any_name("c") is None
    assert folder.child("b").list() == ["c/three.bin", "two.bin"]
    assert folder.exists("a.bin")
    assert not folder.exists("b")
    assert not folder.exists("nothing")
    assert not folder.is_empty()
    folder.remove("b/two.bin")
    folder.remove("b/two.bin")
    assert folder.list("b") == ["b/c/three.bin"]
    assert folder.list("bee") == []


def test_many_files_are_removed_whatever_their_names_and_the_others_stay(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vrshq.cluster.storage.folder.DELETED_AT_ONCE", 3)
    folder = Folder(place)
    names = [f"a/{number}.bin" for number in range(6)] + ["a/[0-9].bin", "a/*"]
    for name in [*names, "a/kept.bin", "b/0.bin"]:
        folder.write_bytes(name, b"1")
    folder.remove_all([*names, "a/not there.bin"])
    assert folder.list() == ["a/kept.bin", "b/0.bin"]
    folder.remove_all([])
    with pytest.raises(ValueError, match="not a name inside a folder"):
        folder.remove_all(["../kept.bin"])


def test_an_object_that_a_store_refuses_to_remove_is_an_error_and_a_busy_store_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [{"Errors": [{"Key": "a", "Code": "InternalError"}]}, {"Errors": [{"Key": "a", "Code": "AccessDenied"}]}]
    folder = Folder("s3://bucket/run")
    asked: list[int] = []

    def call_s3(act: str, *, Bucket: str, Delete: dict[str, list[str]]) -> object:  # noqa: N803 - names of S3
        assert (act, Bucket) == ("delete_objects", "bucket")
        asked.append(len(Delete["Objects"]))
        return answers.pop(0)

    monkeypatch.setattr(folder._fs, "call_s3", call_s3)
    with pytest.raises(StorageError, match=r"cannot remove files: .*AccessDenied"):
        folder.remove_all(["a", "b"])
    assert asked == [2, 2]


def test_listing_sees_what_another_writer_wrote(place: str) -> None:
    ours, theirs = Folder(place), pickle.loads(pickle.dumps(Folder(place)))
    ours.write_bytes("one", b"1")
    assert ours.list() == ["one"]
    theirs.write_bytes("two", b"2")
    assert ours.list() == ["one", "two"]


def test_missing_file_is_a_one_line_error_with_its_uri(place: str) -> None:
    folder = Folder(place)
    folder.write_bytes("there", b"1")
    with pytest.raises(StorageNotFoundError) as caught:
        folder.read_bytes("nothing")
    assert str(caught.value) == f"{folder.uri}/nothing: cannot read: no such file or folder"


@pytest.mark.parametrize("name", ["", "..", "a/../b", "/etc/passwd", "a//b", "./a", "a\\b", "a/", "a\0"])
def test_names_cannot_leave_their_folder(tmp_path: Path, name: str) -> None:
    folder = Folder(str(tmp_path))
    for act in (folder.read_bytes, folder.exists, folder.remove, folder.child, folder.uri_of):
        with pytest.raises(ValueError, match="not a name inside a folder"):
            act(name)


def test_a_writable_place_passes_and_is_left_as_it_was(place: str) -> None:
    folder = Folder(place)
    folder.check_writable()
    assert folder.is_empty()
    assert folder.list() == []


def test_wrong_bucket_is_named(s3_server: Path) -> None:  # noqa: ARG001
    for act in (Folder("s3://no-such/run").check_writable, Folder("s3://no-such/run").list):
        with pytest.raises(StorageNotFoundError, match=r"^s3://no-such/run.*: the bucket does not exist$"):
            act()


def test_missing_credentials_and_servers_are_one_line(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "HOME": str(tmp_path),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    code = "import sys; from vrshq.cluster.storage.folder import Folder\n"
    code += "try: Folder(sys.argv[1], patience_s=0).check_writable()\n"
    code += "except OSError as error: print(error)"
    keys = {"AWS_ACCESS_KEY_ID": "k" * 16, "AWS_SECRET_ACCESS_KEY": "s" * 16, "AWS_MAX_ATTEMPTS": "1"}
    nowhere = keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    for added, expected in (({}, "no credentials"), (nowhere, "no server answers")):
        said = subprocess.run(
            [sys.executable, "-c", code, "s3://somewhere/run"],
            env=environment | added,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        assert len(said) == 1
        assert said[0].startswith("s3://somewhere/run/")
        assert expected in said[0]


def test_unwritable_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/run.*: cannot write: Not a directory"):
        Folder(str(tmp_path / "file" / "run")).check_writable()


def test_missing_backend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StorageError, match=r"^gs://bucket/run: .*pip install vrshq\[gcs\]$"):
        Folder("gs://bucket/run")


@pytest.mark.parametrize("uri", ["sftp://host/x", "shell://x", "zip://x", "github://a:b@/x"])
def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(StorageError, match="unknown kind of storage"):
        Folder(uri)


def test_relative_videos_resolve_against_any_root(tmp_path: Path) -> None:
    assert join_uri("s3://bucket/videos/", "a/b.mp4") == "s3://bucket/videos/a/b.mp4"
    assert join_uri("s3://bucket", "gs://other/b.mp4") == "gs://other/b.mp4"
    assert join_uri("s3://bucket", "/data/b.mp4") == "/data/b.mp4"
    assert join_uri(str(tmp_path), "b.mp4") == str(tmp_path / "b.mp4")
    assert join_uri(f"file://{tmp_path}", "b.mp4") == str(tmp_path / "b.mp4")
    assert join_uri(None, "b.mp4") == "b.mp4"
    assert is_remote("s3://bucket/x")
    assert not is_remote("file:///x")
    assert not is_remote("odd:name.mp4")


def test_local_video_is_not_copied(tmp_path: Path) -> None:
    for uri in (str(tmp_path / "a.mp4"), f"file://{tmp_path}/a.mp4"):
        with fetch_to_local(uri, tmp_path / "scratch") as path:
            assert path == str(tmp_path / "a.mp4")
    assert not (tmp_path / "scratch").exists()


def test_remote_video_is_fetched_and_removed(s3_server: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    content = os.urandom(300_000)
    Folder(f"s3://{S3_BUCKET}/videos").write_bytes("a b #1.mp4", content)
    with fetch_to_local(f"s3://{S3_BUCKET}/videos/a b #1.mp4", scratch) as path:
        assert Path(path).read_bytes() == content
        assert Path(path).name == "video.mp4"
    assert list(scratch.iterdir()) == []
    assert (s3_server / S3_BUCKET / "videos" / "a b #1.mp4").exists()


def test_remote_folder_of_frames_is_fetched_and_removed(place: str, tmp_path: Path) -> None:
    frames = {f"{number:05d}.jpg": bytes([number]) * 10 for number in range(5)}
    for name, content in frames.items():
        Folder(place).write_bytes(name, content)
    with fetch_to_local(place, tmp_path / "scratch") as path:
        assert {file.name: file.read_bytes() for file in Path(path).iterdir()} == frames
    if is_remote(place):
        assert list((tmp_path / "scratch").iterdir()) == []


def test_missing_remote_video_is_one_line_and_leaves_nothing(s3_server: Path, tmp_path: Path) -> None:  # noqa: ARG001
    uri = f"s3://{S3_BUCKET}/videos/nothing.mp4"
    with (
        pytest.raises(StorageNotFoundError, match=r"^s3://.*/nothing\.mp4: cannot fetch: no such"),
        fetch_to_local(uri, tmp_path / "scratch"),
    ):
        pass
    assert list((tmp_path / "scratch").iterdir()) == []


WRITER = """
import sys
from vrshq.cluster.storage.folder import Folder
folder = Folder(sys.argv[1])
data = b"x" * int(sys.argv[2])
print("ready", flush=True)
folder.write_bytes("part", data)
"""


def server_ends_what_the_dead_sent() -> None:
    """Waits until the S3 server has no connection to a process that is gone: until then it may still store its request."""
    port = urlsplit(os.environ["AWS_ENDPOINT_URL"]).port
    for _ in range(600):
        own = {connection.laddr.port for connection in psutil.Process().net_connections("tcp")}
        served = [one for one in psutil.net_connections("tcp") if one.laddr.port == port and one.raddr and one.pid]
        if all(one.raddr.port in own for one in served):
            return
        time.sleep(0.1)
    raise AssertionError("the server still works on a request of a dead client after 60 s")


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_killed_writer_leaves_the_whole_file_or_none(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if kind == "s3":
        request.getfixturevalue("s3_server")
    size = 60_000_000 if kind == "local" else 10_000_000
    killed_early = 0
    for trial, delay in enumerate((0.0, 0.03, 0.1)):
        uri = str(tmp_path / str(trial)) if kind == "local" else f"s3://{S3_BUCKET}/killed/{trial}"
        writer = subprocess.Popen([sys.executable, "-c", WRITER, uri, str(size)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        if kind == "s3":
            server_ends_what_the_dead_sent()
        folder = Folder(uri)
        names = folder.list()
        assert names in ([], ["part"])
        killed_early += not names
        if names:
            assert len(folder.read_bytes("part")) == size
        folder.write_bytes("part", b"the next attempt")
        assert folder.list() == ["part"]
        assert folder.read_bytes("part") == b"the next attempt"
    assert killed_early


def test_half_written_files_are_not_listed_and_go_after_a_day(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    old, new = (tmp_path / f".part.{digit * 16}.partial" for digit in "ab")
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    assert folder.list() == []
    assert folder.is_empty()
    folder.remove_abandoned()
    assert [file.name for file in tmp_path.iterdir()] == [new.name]


def test_a_missing_file_is_not_called_a_missing_bucket(s3_server: Path, tmp_path: Path) -> None:  # noqa: ARG001
    uri = f"s3://{S3_BUCKET}/bucket/none.mp4"
    reason = f"^{uri}: cannot fetch: no such file or folder$"
    with pytest.raises(StorageNotFoundError, match=reason), fetch_to_local(uri, tmp_path):
        pass


def test_linked_folders_are_listed_each_under_its_name(tmp_path: Path) -> None:
    far = tmp_path / "far" / "frames"
    (far / "inner").mkdir(parents=True)
    (far / "1.jpg").write_bytes(b"one")
    (far / "inner" / "2.jpg").write_bytes(b"")
    root = tmp_path / "set"
    (root / "own").mkdir(parents=True)
    (root / "own" / "3.jpg").write_bytes(b"")
    (root / "first").symlink_to(far)
    (root / "second").symlink_to("../far/frames")
    folder = Folder(root)
    behind = [f"{link}/{name}" for link in ("first", "second") for name in ("1.jpg", "inner/2.jpg")]
    assert folder.list() == [*behind[:2], "own/3.jpg", *behind[2:]]
    assert folder.list("second/inner") == ["second/inner/2.jpg"]
    assert folder.sizes("first") == {"first/1.jpg": 3, "first/inner/2.jpg": 0}
    assert Folder(root / "first").list() == ["1.jpg", "inner/2.jpg"]
    assert folder.read_bytes("second/1.jpg") == b"one"


def test_links_that_lead_round_end_and_count_nothing_twice(tmp_path: Path) -> None:
    root, other = tmp_path / "set", tmp_path / "other"
    for place in (root / "a" / "b", other / "c"):
        place.mkdir(parents=True)
        (place / "1.jpg").write_bytes(b"")
    (root / "a" / "b" / "up").symlink_to("../..")
    (root / "a" / "b" / "top").symlink_to(tmp_path)
    (root / "a" / "b" / "all").symlink_to("/")
    (root / "a" / "here").symlink_to(".")
    (root / "self").symlink_to("self")
    (root / "other").symlink_to(other)
    (other / "c" / "back").symlink_to("..")
    (other / "c" / "set").symlink_to(root)
    assert Folder(root).list() == ["a/b/1.jpg", "other/c/1.jpg", "self"]
    assert Folder(root).sizes() == {"a/b/1.jpg": 0, "other/c/1.jpg": 0}
    assert Folder(root).list("a/b") == ["a/b/1.jpg"]
    assert Folder(other).list() == ["c/1.jpg", "c/set/a/b/1.jpg", "c/set/self"]


def test_half_written_files_behind_a_link_are_not_removed(tmp_path: Path) -> None:
    old = tmp_path / "far" / f".part.{'a' * 16}.partial"
    old.parent.mkdir()
    old.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "far").symlink_to(old.parent)
    Folder(tmp_path / "run").remove_abandoned()
    assert old.exists()


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///videos/a%20b%23.mp4", "/videos/a b#.mp4"),
        ("file:/videos/%C3%A9.mp4", "/videos/é.mp4"),
        ("file://localhost/videos/a.mp4", "/videos/a.mp4"),
        ("FILE://LocalHost/videos/a.mp4", "/videos/a.mp4"),
        ("file:////videos//a.mp4", "/videos/a.mp4"),
        ("file:///videos/100%.mp4", "/videos/100%.mp4"),
        ("file:///videos/%FF.mp4", "/videos/\udcff.mp4"),
        ("/videos/a%20b.mp4", "/videos/a%20b.mp4"),
    ],
)
def test_file_uris_are_read_as_the_standard_says(uri: str, path: str, tmp_path: Path) -> None:
    with fetch_to_local(uri, tmp_path) as local:
        assert local == path
    assert not is_remote(uri)
    assert join_uri("s3://bucket/root", uri) == uri


def test_what_lies_behind_a_file_uri_is_found(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "c%20d").write_bytes(b"1")
    uri = f"file:{tmp_path!s}/a%20b"
    assert Folder(uri).list() == ["c%20d"]
    assert pickle.loads(pickle.dumps(Folder(uri))).read_bytes("c%20d") == b"1"
    folder, name = parent_and_name(f"{uri}/c%2520d")
    assert Folder(folder).read_bytes(name) == b"1"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("file://other/videos/a.mp4", r"^file://other/videos/a\.mp4: a file of the machine 'other' cannot be read"),
        ("file:///a%00b", r"^'file:///a%00b': the path has a zero byte"),
        ("file://", r"an empty path was given"),
    ],
)
def test_a_file_uri_without_a_file_of_this_machine_is_refused(uri: str, reason: str) -> None:
    with pytest.raises(StorageError, match=reason) as caught:
        Folder(uri)
    assert "\n" not in str(caught.value)
