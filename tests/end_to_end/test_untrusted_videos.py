"""`vrshq label` on uris that nobody checked: whatever one does, it costs its own row alone, and calls nobody unasked."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import pytest
from PIL import Image

from tests.support import clips
from tests.support.label_runs import content, instruction, vrshq, write_table
from vrshq.pipelines.export.names import is_video_file
from vrshq.pipelines.label.error_policy import ErrorPolicy
from vrshq.pipelines.label.planning.lengths import frames_of
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Limits, Settings
from vrshq.pipelines.label.tables import rows
from vrshq.pipelines.label.work import videos, worker

FRAMES = 2


def frames(form: str, names: str) -> dict[str, bytes]:
    """Files of a folder of frames; `names` has a place for the number."""
    files = {}
    for number in range(FRAMES):
        sink = io.BytesIO()
        Image.fromarray(clips.code_frame(number)).save(sink, form)
        files[names.format(number)] = sink.getvalue()
    return files


def store(name: str, files: dict[str, bytes]) -> str:
    for file, data in files.items():
        fsspec.filesystem("memory").pipe_file(f"/{name}/{file}", data)
    return f"memory://{name}"


def labelled(tmp_path: Path, uris: list[str], settings: Settings) -> dict[str, dict[str, Any]]:
    """`tracks/` of a run over the videos, by uri."""
    table = write_table(tmp_path / "table.jsonl", [instruction(video, 0, "the block") for video in uris])
    label(table, str(tmp_path / "run"), settings, use_ray=False)
    return {row["video_id"]: row for row in content(str(tmp_path / "run"))["tracks"]}


class Asked(ThreadingHTTPServer):
    """A web server on this machine that notes what it is asked for, and answers with the bytes in `video`."""

    def __init__(self, video: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.video, self.paths = video, list[str]()
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: Asked

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.video)))
        self.end_headers()
        self.wfile.write(self.server.video)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Asked]:
    with Asked(clips.h264(tmp_path / "served.mp4", frames=FRAMES).read_bytes()) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_every_uri_has_its_own_row_whatever_it_names(
    web: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = videos.local_video

    def odd(uri: str, *rest: Any) -> AbstractContextManager[str]:
        if uri == "memory://odd":
            raise TypeError("of any type")
        return real(uri, *rest)

    monkeypatch.setattr(worker, "local_video", odd)
    (tmp_path / "a b").mkdir()
    clips.h264(tmp_path / "a b" / "c%20d.mp4", frames=FRAMES)
    zipped = {"all.zip": bytes(2_000_000), "notes.txt": b"x"}
    ok = [
        store("backslash", frames("JPEG", "cam\\{}.jpg")),
        store("beside", frames("PNG", "{}.png") | zipped),
        f"file:{tmp_path}/a%20b/c%2520d.mp4",
    ]
    refused = {
        store(
            "large", {f"{number}.png": bytes(400_000) for number in range(3)}
        ): "1,200,000 bytes, above the limit of 1,000,000",
        store("only-zip", zipped): "no numbered frames",
        "file://elsewhere/a.mp4": "a file of the machine 'elsewhere'",
        "file:///a%00b.mp4": "zero byte",
        "memory://odd": "of any type",
        "sftp://host/a.mp4": "unknown kind of storage",
        f"{web.uri}/a.mp4": "limits.allow_http=true",
        f"{web.uri}/b.mp4".replace("http", "HTTP"): "limits.allow_http=true",
    }
    settings = Settings(model="untrained-tiny", limits=Limits(max_bytes=1_000_000))
    tracks = labelled(tmp_path, [*ok, *refused], settings)
    assert {uri: tracks[uri]["num_frames"] for uri in ok} == dict.fromkeys(ok, FRAMES)
    assert {tracks[uri]["status"] for uri in ok} <= {"ok", "empty"}
    for uri, words in refused.items():
        assert tracks[uri]["status"] == "error"
        assert words in tracks[uri]["error_message"]
    assert tracks["memory://odd"]["error_type"] == "TypeError"
    # nor do the plan's look at headers and an export's look at names
    for uri in (f"{web.uri}/a.mp4", f"{web.uri}/a.mp4".replace("http", "HTTP")):
        assert frames_of(uri) is None
        assert is_video_file(uri)
    assert web.paths == []


def test_a_unit_whose_worker_raises_anything_is_one_error_row_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rows.unit_tables

    def odd(unit: dict[str, Any], *rest: Any) -> Any:
        if unit["video_id"] == "a":
            raise KeyError("odd")
        return real(unit, *rest)

    monkeypatch.setattr(worker, "unit_tables", odd)
    tracks = labelled(tmp_path, ["a", "b"], Settings(model="untrained-tiny"))
    assert tracks["a"]["error_message"] == "given up after 1 attempt: KeyError: 'odd'"
    assert tracks["b"]["error_message"].startswith(str(tmp_path / "b"))


def test_a_private_web_server_needs_a_second_setting_and_the_run_goes_on_under_other_rules(
    web: Asked, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "table.jsonl", [instruction(f"{web.uri}/a.mp4?x=1", 0, "the block")])
    output = str(tmp_path / "run")
    seen = []
    for limits in (Limits(), Limits(allow_http=True), Limits(allow_http=True, allow_private_addresses=True)):
        settings = Settings(model="untrained-tiny", limits=limits)
        label(table, output, settings, use_ray=False, errors=ErrorPolicy(retry=True))
        seen.append((content(output)["tracks"][0]["error_message"], list(web.paths)))
    assert "limits.allow_http=true" in seen[0][0]
    assert "limits.allow_private_addresses=true" in seen[1][0]
    assert [paths for _, paths in seen] == [[], [], ["/a.mp4?x=1"]]
    assert content(output)["tracks"][0]["num_frames"] == FRAMES


def test_a_root_of_videos_on_a_web_server_is_refused_before_any_work(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.jsonl", [instruction("a.mp4", 0, "the block")])
    done = vrshq("plan", table, "--output", str(tmp_path / "run"), "--videos", "http://localhost:1/videos")
    assert done.returncode == 1
    assert done.stderr == (
        "error: --videos http://localhost:1/videos: web servers are not called; add --set limits.allow_http=true\n"
    )
