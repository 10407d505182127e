"""Promises of storage when a store misbehaves: a real S3 server behind a proxy that spoils its answers."""

from __future__ import annotations

import io
import os
import pickle
import secrets
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from botocore.retries.standard import ExponentialBackoff  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from tests.support.faulty_proxy import FaultyProxy
from tests.support.s3_server import S3_BUCKET, S3Server
from vrshq.cluster.storage import fetch as fetching
from vrshq.cluster.storage import retry
from vrshq.cluster.storage.errors import StorageError, StorageNotFoundError
from vrshq.cluster.storage.fetch import GIVEN_BY_USER, fetch_to_local
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import TABLES, RunDirectory

MIB = 2**20
CONTENT = bytes(range(256)) * 40
# As many attempts as the client library makes by itself: what survives them survives by this module's doing.
CLIENT_ATTEMPTS = 3
PAGES = 2500


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("spoiled"))
    pages = server.served / S3_BUCKET / "pages"
    pages.mkdir()
    for number in range(PAGES):
        (pages / f"{number:04d}").touch()
    with server:
        yield server


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pauses of this module's retries and of the client's are 10 ms; what is retried, and how often, stays."""
    monkeypatch.setattr(retry, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda _, context: 0.01 * 2**context.attempt_number)


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultyProxy]:
    """A proxy that passes everything on, and the environment that leads through it."""
    with FaultyProxy(server.port) as proxy, server.reached(proxy.port):
        yield proxy


@pytest.fixture
def uri(proxy: FaultyProxy) -> str:
    """A new folder on the server, with one file."""
    uri = f"s3://{S3_BUCKET}/{secrets.token_hex(4)}"
    Folder(uri).write_bytes("there", CONTENT)
    proxy.counts.clear()
    return uri


def read(uri: str, _: Path) -> None:
    assert Folder(uri).read_bytes("there") == CONTENT


def open_read(uri: str, _: Path) -> None:
    with Folder(uri).open_read("there") as file:
        assert file.seek(1000) == 1000
        assert file.read() == CONTENT[1000:]


def fetch(uri: str, scratch: Path) -> None:
    with fetch_to_local(f"{uri}/there", scratch) as path:
        assert Path(path).read_bytes() == CONTENT


def fetch_folder(uri: str, scratch: Path) -> None:
    with fetch_to_local(uri, scratch) as path:
        assert {file.name: file.read_bytes() for file in Path(path).iterdir()} == {"there": CONTENT}


def list_names(uri: str, _: Path) -> None:
    assert Folder(uri).list() == ["there"]
    assert Folder(uri).sizes() == {"there": len(CONTENT)}


def look_up(uri: str, _: Path) -> None:
    assert Folder(uri).exists("there")
    assert not Folder(uri).is_empty()


def look_up_nothing(uri: str, _: Path) -> None:
    assert not Folder(uri).exists("nothing")
    assert Folder(f"{uri}/nothing").is_empty()


def write(uri: str, _: Path) -> None:
    Folder(uri).write_bytes("new", CONTENT[::-1])
    assert Folder(uri).read_bytes("new") == CONTENT[::-1]


def write_file(uri: str, scratch: Path) -> None:
    (scratch / "local").write_bytes(CONTENT[::-1])
    Folder(uri).write_file("new", scratch / "local")
    assert Folder(uri).read_bytes("new") == CONTENT[::-1]


def remove(uri: str, _: Path) -> None:
    Folder(uri).remove("there")
    assert Folder(uri).list() == []


def remove_all(uri: str, _: Path) -> None:
    Folder(uri).remove_all(["there", "not there"])
    assert Folder(uri).list() == []


READERS = [read, open_read, fetch, fetch_folder, list_names]
WRITERS = [write, write_file]


@pytest.mark.parametrize(
    ("fault", "act"),
    [("503", act) for act in (*READERS, *WRITERS, look_up, look_up_nothing, remove, remove_all)]
    + [("cut_before_answer", act) for act in (read, list_names, write, remove, remove_all)]
    + [("cut_in_body", act) for act in READERS]
    + [("cut_upload", act) for act in WRITERS]
    + [("429", read), ("500", read)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_passes_is_tried_again(
    fault: str, act: Callable[[str, Path], None], uri: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    # A HEAD has no body to cut.
    method = {"cut_in_body": "GET", "cut_upload": "PUT"}.get(fault, "")
    proxy.spoil_next(fault, CLIENT_ATTEMPTS, method)
    act(uri, tmp_path)
    assert proxy.faults == {fault: CLIENT_ATTEMPTS}


def test_failed_units_are_forgotten_with_a_request_for_a_thousand_parts(uri: str, proxy: FaultyProxy) -> None:
    RunDirectory(uri).forget(f"{number:04x}" for number in range(1500))
    counted = [(method, count) for (method, _), count in proxy.counts.items()]
    assert counted == [("POST", 2 * len(TABLES)), ("GET", 2)]  # two listings, for the windows of long units
    assert Folder(uri).list() == ["there"]


def nothing_there(uri: str, _: Path) -> None:
    Folder(uri).read_bytes("nothing")


def fetch_nothing(uri: str, scratch: Path) -> None:
    with fetch_to_local(f"{uri}/nothing", scratch):
        pass


def no_bucket(_: str, __: Path) -> None:
    Folder("s3://no-such-bucket/x").list()


def write_into_no_bucket(_: str, __: Path) -> None:
    Folder("s3://no-such-bucket/x").write_bytes("a", b"1")


@pytest.mark.parametrize("act", [nothing_there, fetch_nothing, no_bucket, write_into_no_bucket])
def test_what_is_not_there_is_not_asked_for_again(
    act: Callable[[str, Path], None], uri: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    with pytest.raises(StorageNotFoundError) as caught:
        act(uri, tmp_path)
    assert "tried for" not in str(caught.value)
    assert all(count == 1 for count in proxy.counts.values()), proxy.counts


def test_wrong_credentials_are_refused_at_once(uri: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong" * 5)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="permission denied") as caught:
        Folder(uri).write_bytes("new", b"1")
    assert not isinstance(caught.value, StorageNotFoundError)
    assert sum(proxy.counts.values()) == 1


FULL_DISK = """
import resource, sys
from vrshq.cluster.storage.fetch import fetch_to_local
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with fetch_to_local(sys.argv[1], sys.argv[2]): pass
except OSError as error: print(error)
"""


def test_a_disk_that_takes_no_more_ends_a_fetch_at_once(uri: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", FULL_DISK, f"{uri}/there", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == f"{uri}/there: cannot fetch: File too large"
    assert set(proxy.counts.values()) == {1}
    assert list(tmp_path.iterdir()) == []


def fetch_impatiently(folder: Folder, scratch: Path) -> None:
    with fetch_to_local(folder.uri_of("there"), scratch, folder.patience_s):
        pass


IMPATIENT: dict[str, Callable[[Folder, Path], object]] = {
    "read": lambda folder, _: folder.read_bytes("there"),
    "open": lambda folder, _: folder.open_read("there"),
    "write": lambda folder, _: folder.write_bytes("new", b"1"),
    "remove": lambda folder, _: folder.remove("there"),
    "list": lambda folder, _: folder.list(),
    "look up": lambda folder, _: folder.exists("there"),
    "look up nothing": lambda folder, _: folder.exists("nothing"),
    "is empty": lambda folder, _: folder.is_empty(),
    "fetch": fetch_impatiently,
    "no bucket": lambda folder, _: Folder("s3://no-such-bucket", folder.patience_s).list(),
}


@pytest.mark.parametrize("act", IMPATIENT)
def test_patience_ends_in_one_line_and_silence_is_never_taken_for_an_answer(
    act: str, uri: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    proxy.rate_503 = 1.0
    with pytest.raises(StorageError, match=r"^s3://\S+: cannot .*; tried for \d+ s$") as caught:
        IMPATIENT[act](Folder(uri, patience_s=0.0), tmp_path)
    # Neither "no such file" nor "no such bucket": the store said neither.
    assert not isinstance(caught.value, FileNotFoundError)
    assert sum(proxy.counts.values()) == CLIENT_ATTEMPTS


def test_patience_is_how_long_an_operation_is_tried(uri: str, proxy: FaultyProxy) -> None:
    proxy.rate_503 = 1.0
    counts = []
    for patience_s in (0.0, 0.5):
        proxy.counts.clear()
        with pytest.raises(StorageError, match="tried for"):
            Folder(uri, patience_s).remove("there")
        counts.append(sum(proxy.counts.values()))
    assert counts[0] == CLIENT_ATTEMPTS < counts[1]


def test_patience_travels_with_the_folder() -> None:
    folder = Folder("memory://somewhere", patience_s=300.0)
    assert pickle.loads(pickle.dumps(folder)).patience_s == 300.0
    assert folder.child("a").patience_s == 300.0


def test_a_server_that_restarts_costs_nothing_but_time(uri: str, server: S3Server, proxy: FaultyProxy) -> None:
    seen_dead = threading.Event()

    def restart() -> None:
        seen_dead.wait(60)
        server.start()

    server.kill()

    def script(*_: str) -> None:
        if sum(proxy.counts.values()) > CLIENT_ATTEMPTS:
            seen_dead.set()

    proxy.script = script
    restarter = threading.Thread(target=restart)
    restarter.start()
    Folder(uri, patience_s=120.0).write_bytes("after", CONTENT)
    restarter.join()
    assert seen_dead.is_set()
    assert Folder(uri).read_bytes("after") == CONTENT


def test_refused_connections_are_tried_again(uri: str, server: S3Server) -> None:
    with server.reached():  # not through the proxy: it accepts what the server would refuse
        server.kill()
        restarter = threading.Thread(target=server.start)
        try:
            for act in (Folder(uri, 0.0).list, lambda: Folder(uri, 0.0).read_bytes("there")):
                with pytest.raises(StorageError, match=r"no server answers .*; tried for \d+ s$"):
                    act()
        finally:
            restarter.start()
        assert Folder(uri, 120.0).read_bytes("there") == CONTENT
        restarter.join()


@pytest.mark.parametrize("act", ["read", "open_read", "fetch", "fetch in ranges"])
def test_an_answer_that_is_always_cut_is_an_error_and_never_short_data(
    act: str, uri: str, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.rate_cut_in_body = 1.0
    if act == "fetch in ranges":
        monkeypatch.setattr(fetching, "_RANGE_BYTES", 1000)
    with pytest.raises(StorageError, match="tried for"):  # noqa: PT012 - which of the lines fails depends on the act
        if act == "read":
            Folder(uri, 0.5).read_bytes("there")
        elif act == "open_read":
            Folder(uri, 0.5).open_read("there").read()
        else:
            with fetch_to_local(f"{uri}/there", tmp_path, 0.5):
                pass
    assert proxy.faults["cut_in_body"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "size"), [("write_bytes", MIB), ("write_bytes", 101 * MIB), ("write_file", 101 * MIB)]
)
def test_a_cut_upload_leaves_what_was_there(
    kind: str, size: int, uri: str, server: S3Server, proxy: FaultyProxy, tmp_path: Path
) -> None:
    data = os.urandom(MIB) * (size // MIB)
    (tmp_path / "data").write_bytes(data)

    def write(folder: Folder, name: str) -> None:
        if kind == "write_bytes":
            folder.write_bytes(name, data)
        else:
            folder.write_file(name, tmp_path / "data")

    proxy.rate_cut_upload = 1.0
    for name in ("there", "new"):
        with pytest.raises(StorageError, match=r"cannot write: .*tried for"):
            write(Folder(uri, 0.0), name)
    proxy.rate_cut_upload = 0.0
    assert Folder(uri).sizes() == {"there": len(CONTENT)}
    assert Folder(uri).read_bytes("there") == CONTENT
    assert sorted(file.name for file in (server.served / uri.removeprefix("s3://")).iterdir()) == ["there"]
    write(Folder(uri), "new")
    assert Folder(uri).read_bytes("new") == data


def test_a_multipart_upload_survives_lost_parts_and_a_lost_completion(uri: str, proxy: FaultyProxy) -> None:
    data = os.urandom(MIB) * 101
    seen: list[str] = []

    def script(method: str, _: str) -> str | None:
        seen.append(method)
        if method == "PUT" and seen.count("PUT") == 2:
            return "cut_upload"
        return "cut_before_answer" if method == "POST" and seen.count("POST") == 2 else None

    proxy.script = script
    Folder(uri).write_bytes("new", data)
    assert proxy.faults == {"cut_upload": 1, "cut_before_answer": 1}
    assert Folder(uri).read_bytes("new") == data
    assert Folder(uri).list() == ["new", "there"]


def test_a_large_file_is_fetched_whole_through_bad_weather(
    uri: str, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_RANGE_BYTES", MIB)
    data = os.urandom(10 * MIB + 17)
    Folder(uri).write_bytes("large", data)
    proxy.rate_503, proxy.rate_cut_before_answer, proxy.rate_cut_in_body = 0.2, 0.1, 0.3
    with fetch_to_local(f"{uri}/large", tmp_path, 60.0) as path:
        assert Path(path).read_bytes() == data
    assert sum(proxy.faults.values()) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_replaced_while_it_is_fetched_is_not_mixed(
    uri: str, server: S3Server, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_RANGE_BYTES", MIB)
    old, new = b"o" * 8 * MIB, b"n" * 8 * MIB
    Folder(uri).write_bytes("large", old)
    direct = s3fs.S3FileSystem(endpoint_url=server.environment()["AWS_ENDPOINT_URL"])
    ranges = []

    def script(method: str, _: str) -> None:
        if method == "GET":
            ranges.append(method)
            if len(ranges) == 3:
                direct.pipe_file(f"{uri.removeprefix('s3://')}/large", new)

    proxy.script = script
    with fetch_to_local(f"{uri}/large", tmp_path) as path:
        assert Path(path).read_bytes() == new
    assert len(ranges) > 8


def test_one_row_group_is_read_without_the_rest(uri: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    table = pa.table({"n": range(200_000), "noise": [os.urandom(40) for _ in range(200_000)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=10_000)
    Folder(uri).write_file("t.parquet", tmp_path / "t.parquet")
    size = Folder(uri).sizes()["t.parquet"]
    proxy.answered_bytes = 0
    with Folder(uri).open_read("t.parquet") as file:
        assert pq.ParquetFile(file).read_row_group(7).equals(table.slice(70_000, 10_000))
    assert proxy.answered_bytes < size / 5


def test_a_page_that_fails_is_the_only_one_that_is_asked_for_again(proxy: FaultyProxy) -> None:
    pages = []

    def script(_: str, path: str) -> str | None:
        pages.append(path)
        return "503" if 2 <= len(pages) <= 1 + CLIENT_ATTEMPTS else None

    proxy.script = script
    assert Folder(f"s3://{S3_BUCKET}/pages").list() == [f"{number:04d}" for number in range(PAGES)]
    assert len(pages) == 3 + CLIENT_ATTEMPTS


def test_sizes_and_stamps_come_with_the_listing(place: str) -> None:
    folder = Folder(place)
    assert folder.sizes() == {}
    folder.write_bytes("b/two", b"22")
    folder.write_bytes("one", b"1")
    assert folder.sizes() == {"b/two": 2, "one": 1}
    assert folder.sizes("b") == {"b/two": 2}
    before = folder.stamps()
    assert list(before) == ["b/two", "one"]
    folder.write_bytes("one", b"2")
    after = folder.stamps()
    assert after["one"] != before["one"]
    assert after["b/two"] == before["b/two"]


def test_a_local_file_is_written_whole_and_stays(place: str, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    Folder(place).write_file("a/b", tmp_path / "source")
    assert Folder(place).read_bytes("a/b") == CONTENT
    assert Folder(place).list() == ["a/b"]
    assert (tmp_path / "source").read_bytes() == CONTENT
    with pytest.raises(FileNotFoundError):
        Folder(place).write_file("a/c", tmp_path / "nothing")


UPLOADER = """
import resource, sys
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import TABLES, RunDirectory
folder = Folder(sys.argv[1])
folder.write_bytes("warm", b"1")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
folder.write_file("large", sys.argv[2])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_a_large_file_is_uploaded_in_bounded_memory(uri: str, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        for _ in range(400):
            file.write(os.urandom(MIB))
    said = subprocess.run(
        [sys.executable, "-c", UPLOADER, uri, str(tmp_path / "large")], capture_output=True, text=True, check=True
    )
    assert float(said.stdout) < 200  # MiB
    assert Folder(uri).sizes()["large"] == 400 * MIB


def test_listing_many_local_names_is_lean(tmp_path: Path) -> None:
    for number in range(20_000):
        (tmp_path / f"{number:08d}-{number:08d}.parquet").touch()
    tracemalloc.start()
    try:
        assert len(Folder(str(tmp_path)).list()) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000 * 150


@given(
    content=st.binary(max_size=3000),
    moves=st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(-1, 4000)),
            st.tuples(st.just("start"), st.integers(0, 4000)),
            st.tuples(st.just("end"), st.integers(-10, 10)),
            st.tuples(st.just("here"), st.integers(0, 50)),
        )
    ),
)
def test_an_opened_file_reads_as_any_other(content: bytes, moves: list[tuple[str, int]]) -> None:
    folder = Folder("memory://opened")
    folder.write_bytes("file", content)
    expected = io.BytesIO(content)
    with folder.open_read("file") as file:
        for kind, number in moves:
            if kind == "read":
                assert file.read(number) == expected.read(number)
            elif kind == "end":
                if len(content) + number >= 0:
                    assert file.seek(number, os.SEEK_END) == expected.seek(number, os.SEEK_END)
            else:
                whence = os.SEEK_SET if kind == "start" else os.SEEK_CUR
                assert file.seek(number, whence) == expected.seek(number, whence)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[int]:
    """The port of a plain web server over the folder `web`."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "web").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web"))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("fault", ["503", "429", "cut_before_answer", "cut_in_body"])
def test_a_video_of_a_web_server_comes_whole_through_bad_weather(fault: str, web: int, tmp_path: Path) -> None:
    (tmp_path / "web" / "a.mp4").write_bytes(CONTENT)
    with FaultyProxy(web) as proxy:
        uri = f"http://127.0.0.1:{proxy.port}/a.mp4"
        proxy.spoil_next(fault, 2, "GET")
        with fetch_to_local(uri, tmp_path / "scratch", wanted=GIVEN_BY_USER) as path:
            assert Path(path).read_bytes() == CONTENT
        assert proxy.faults == {fault: 2}
        with (
            pytest.raises(StorageNotFoundError, match=r"b\.mp4: cannot fetch: no such"),
            fetch_to_local(uri.replace("a.mp4", "b.mp4"), tmp_path / "scratch", wanted=GIVEN_BY_USER),
        ):
            pass


HOLDER = """
import sys, time
from vrshq.cluster.storage.fetch import fetch_to_local
with fetch_to_local(sys.argv[1], sys.argv[2]) as path:
    print(path, flush=True)
    time.sleep(600)
"""


def test_copies_of_a_killed_process_go_with_the_next_fetch_and_no_others_do(uri: str, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    foreign = scratch / "fetch-of-somebody-else"
    foreign.mkdir(parents=True)
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, f"{uri}/there", str(scratch)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        killed, living = (Path(holder.stdout.readline().strip()) for holder in holders if holder.stdout)
        holders[0].send_signal(signal.SIGKILL)
        holders[0].wait()
        assert killed.read_bytes() == CONTENT
        with fetch_to_local(f"{uri}/there", scratch) as path:
            assert not killed.exists()
            assert living.read_bytes() == Path(path).read_bytes() == CONTENT
        assert sorted(item.name for item in scratch.iterdir()) == sorted([foreign.name, living.parts[-3]])
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            if holder.stdout:
                holder.stdout.close()
