"""Who may speak to the app, and what of this machine it gives away: nothing but the run and the chosen videos."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from tests.pipelines.app.conftest import ORIGIN, TOKEN, Serve, options
from tests.support import clips
from tests.support.label_runs import vrshq
from vrshq.pipelines.app.guard import CONTENT_SECURITY
from vrshq.pipelines.app.roots import NotAllowed, Roots, RunVideos
from vrshq.pipelines.app.routes import routers
from vrshq.pipelines.app.run import check_packages
from vrshq.pipelines.app.state import State

PAGE = {file.name: file.read_text("utf-8") for file in (files("vrshq.pipelines.app") / "page").iterdir()}
JUDGEMENT = {"part": "0" * 32, "video": "cups.mp4", "instruction": "0", "judge": "ann", "verdict": "accept"}


def addresses(run: str, folder: Path) -> list[tuple[str, str]]:
    """Every method and address of the app."""
    state = State(options(run, folder), str(folder))
    routes = [route for router in routers(state) for route in router.routes if isinstance(route, APIRoute)]
    state.close()
    return [(method, route.path.replace("{name}", "main")) for route in routes for method in route.methods or ()]


def test_every_request_needs_the_token(run: str, serve: Serve, tmp_path: Path) -> None:
    stranger = serve(run, known=False)
    stranger.headers["Origin"] = ORIGIN
    known = addresses(run, tmp_path)
    assert {("GET", "/"), ("GET", "/app.js"), ("POST", "/api/runs/main/reviews"), ("PUT", "/api/uploads")} <= set(known)
    assert len(known) >= 20
    for method, path in [*known, ("GET", "/nothing"), ("OPTIONS", "/"), ("POST", "/")]:
        for token in ("", "wrong", TOKEN[:-1]):
            answer = stranger.request(method, path, params={"token": token} if token else {})
            assert answer.status_code == 403, (method, path)
            assert "set-cookie" not in answer.headers
            assert TOKEN not in answer.text


def test_the_first_page_gives_a_cookie_that_scripts_and_other_sites_do_not_get(run: str, serve: Serve) -> None:
    client = serve(run, known=False)
    first = client.get("/", params={"token": TOKEN})
    assert first.status_code == 200
    cookie = first.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict", "Path=/", "vrshq-8765="))
    assert client.get("/api/runs").status_code == 200
    assert "set-cookie" not in client.get("/api/runs").headers


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        *[(name, True) for name in ("127.0.0.1:8765", "localhost:8765", "localhost:9000", "[::1]:8765", "127.0.0.1")],
        *[
            (name, False)
            for name in ("evil.example", "evil.example:8765", "127.0.0.1.evil.example", "192.168.1.5:8765")
        ],
        *[(name, False) for name in ("", "localhost.evil.example", "127.0.0.1@evil.example:80", "[::1", "0x7f.1.evil")],
    ],
)
def test_a_foreign_name_that_points_here_is_refused(run: str, serve: Serve, host: str, allowed: bool) -> None:
    answer = serve(run).get("/api/runs", headers={"Host": host})
    assert (answer.status_code == 200) == allowed, answer.text


def test_with_a_host_of_a_network_addresses_are_taken_and_foreign_names_are_not(run: str, serve: Serve) -> None:
    client = serve(run, host="0.0.0.0")
    assert client.get("/api/runs", headers={"Host": "192.168.1.5:8765"}).status_code == 200
    assert client.get("/api/runs", headers={"Host": "evil.example:8765"}).status_code == 403


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "http://127.0.0.1:9", "https://127.0.0.1:8765"])
def test_a_write_from_another_page_is_refused(run: str, serve: Serve, origin: str) -> None:
    client = serve(run)
    del client.headers["Origin"]
    given = {"Origin": origin} if origin else {}
    for method, path in (
        ("POST", "/api/runs/main/reviews"),
        ("POST", "/api/question"),
        ("PUT", "/api/uploads?name=a.mp4"),
    ):
        assert client.request(method, path, json=JUDGEMENT, headers=given).status_code == 403
    assert client.post("/api/runs/main/reviews", json=JUDGEMENT, headers={"Origin": ORIGIN}).status_code == 200
    assert client.get("/api/runs/main").json()["judged"] == {"accepted": 1}


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_picture_or_a_table_is_not_given_to_another_page(run: str, serve: Serve, site: str) -> None:
    client = serve(run)
    assert client.get("/api/runs", headers={"Sec-Fetch-Site": site}).status_code == 403
    assert client.get("/api/runs", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_every_answer_keeps_the_page_to_itself(run: str, serve: Serve) -> None:
    client = serve(run)
    for path in ("/", "/app.js", "/api/runs", "/api/runs/main/rows", "/api/none", "/api/runs/nobody"):
        headers = client.get(path).headers
        assert headers["content-security-policy"] == CONTENT_SECURITY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "unsafe" not in CONTENT_SECURITY
    assert "default-src 'none'" in CONTENT_SECURITY
    assert client.get("/openapi.json").status_code == client.get("/docs").status_code == 404


def test_the_page_names_no_other_host_and_sets_texts_as_texts_alone() -> None:
    assert {"index.html", "app.js", "app.css"} <= PAGE.keys()
    for name, text in PAGE.items():
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), (
            name
        )
    assert not re.search(r"<style|style=|<script>|\son\w+=", PAGE["index.html"])


def outside(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of videos with ways out of it, and a video outside."""
    root, secret = tmp_path / "root", tmp_path / "secret.mp4"
    root.mkdir()
    clips.h264(secret, frames=2)
    clips.h264(root / "own.mp4", frames=2)
    (root / "link.mp4").symlink_to(secret)
    (root / "out").symlink_to(tmp_path)
    (root / "circle").symlink_to(root / "circle")
    clips.image_folder(root / "frames", ["0.png", "1.png"])
    clips.image_folder(root / "mixed", ["0.png"])
    (root / "mixed" / "1.png").symlink_to(tmp_path / "1.png")
    return root, secret


WAYS_OUT = [
    *("link.mp4", "out/secret.mp4", "../secret.mp4", "{root}/../secret.mp4", "{secret}", "file://{secret}", "circle"),
    *("mixed", "/etc/passwd", "/proc/self/environ", "s3://bucket/own.mp4", "none.mp4", "memory://x/own.mp4", "\0"),
    *("http://127.0.0.1:1/own.mp4", "{root}-other/own.mp4"),
]


@pytest.mark.parametrize("way", WAYS_OUT)
def test_no_path_leads_out_of_the_video_roots(tmp_path: Path, serve: Serve, way: str) -> None:
    root, secret = outside(tmp_path)
    path = way.format(root=root, secret=secret)
    with pytest.raises(NotAllowed):
        Roots([str(root)]).checked(path)
    client = serve(None, root)
    assert client.post("/api/question", json={"video": path, "texts": ["it"]}).status_code == 403
    assert client.get("/api/question").json() == {"question": None}


@pytest.mark.parametrize("way", ["own.mp4", "{root}/own.mp4", "file://{root}/own.mp4", "frames", "out/root/own.mp4"])
def test_a_path_inside_the_roots_is_allowed(tmp_path: Path, way: str) -> None:
    root, _ = outside(tmp_path)
    found = Roots([str(root)]).checked(way.format(root=root))
    assert Path(found).resolve().is_relative_to(root)


def test_a_bucket_is_a_root_for_what_lies_in_it_alone() -> None:
    roots = Roots(["s3://corpus/videos"])
    assert roots.checked("a/b.mp4") == "s3://corpus/videos/a/b.mp4"
    for way in (
        "s3://corpus/other/b.mp4",
        "s3://corpus/videos/../other/b.mp4",
        "s3://corpus/videos-2/b.mp4",
        "/etc/passwd",
    ):
        with pytest.raises(NotAllowed):
            roots.checked(way)


def test_the_videos_of_a_run_are_those_that_it_names_or_lie_inside_the_roots(tmp_path: Path) -> None:
    root, secret = outside(tmp_path)
    own, link = str(root / "own.mp4"), str(root / "link.mp4")
    assert RunVideos([own, str(secret)], []).now(str(secret)) == str(secret)
    inside = RunVideos([own, link, str(secret)], [str(root)])
    assert inside.now(own) == own
    assert inside.now("/gone/own.mp4") == own  # moved since
    for way in (link, str(secret)):
        with pytest.raises(NotAllowed):
            inside.now(way)


def test_a_frame_outside_the_roots_is_not_served(run: str, serve: Serve, videos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "cups.mp4").symlink_to(videos / "cups.mp4")
    wanted: dict[str, str | int] = {"id_video": "cups.mp4", "id_instruction": "0", "number": 0}
    assert serve(run, videos).get("/api/runs/main/frame", params=wanted).status_code == 200
    refused = serve(run, other).get("/api/runs/main/frame", params=wanted)
    assert refused.status_code == 403
    assert refused.headers["content-type"] == "application/json"


def test_no_run_but_the_named_one_and_those_of_questions_is_opened(run: str, serve: Serve, tmp_path: Path) -> None:
    client = serve(None, tmp_path)
    for name in ("main", "..%2Frun", "%2Fetc", Path(run).name, "uploads"):
        assert client.get(f"/api/runs/{name}").status_code == 404


def uploaded(folder: Path) -> list[Path]:
    return [path for path in (folder / "questions").rglob("*") if path.is_file()]


def test_an_upload_that_is_too_large_is_refused_whatever_it_announces(
    serve: Serve, videos: Path, tmp_path: Path
) -> None:
    client = serve(None, videos, most_upload=1000)
    content = (videos / "cups.mp4").read_bytes()
    assert len(content) > 1000
    assert client.put("/api/uploads?name=a.mp4", content=content).status_code == 422
    pieces = (content[start : start + 100] for start in range(0, len(content), 100))
    refused = client.put("/api/uploads?name=a.mp4", content=pieces)  # states no size
    assert refused.status_code == 422
    assert "1,000 bytes" in refused.json()["error"]
    assert uploaded(tmp_path) == []


@pytest.mark.parametrize(
    "content", [b"", b"#EXTM3U\nhttp://127.0.0.1/x.ts\n", b"ffconcat version 1.0\nfile /etc/passwd\n", b"x" * 999]
)
def test_an_upload_that_is_no_video_is_refused_and_removed(serve: Serve, tmp_path: Path, content: bytes) -> None:
    refused = serve(None, tmp_path).put("/api/uploads?name=film.mp4", content=content)
    assert refused.status_code == 422
    assert refused.json()["error"].startswith("film.mp4 ")
    assert uploaded(tmp_path) == []


def test_an_upload_with_an_absurd_header_is_refused(serve: Serve, tmp_path: Path) -> None:
    clips.write_absurd_header(tmp_path / "huge.avi")
    refused = serve(None, tmp_path).put("/api/uploads?name=huge.avi", content=(tmp_path / "huge.avi").read_bytes())
    assert refused.status_code == 422
    assert uploaded(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["cups.mp4", "../../evil.mp4", "/etc/evil.mp4", "a\\b\\evil.mp4", "..", "", "x" * 300 + ".mp4"]
)
def test_the_name_of_an_upload_leads_nowhere(serve: Serve, videos: Path, tmp_path: Path, name: str) -> None:
    client = serve(None, videos)
    sent = client.put("/api/uploads", params={"name": name}, content=(videos / "cups.mp4").read_bytes())
    assert sent.status_code == 200, sent.text
    (path,) = uploaded(tmp_path)
    assert Path(sent.json()["video"]) == path
    assert path.parent.parent == tmp_path / "questions" / "uploads"
    assert re.fullmatch(r"[0-9a-f]{16}", path.parent.name)


def test_a_missing_package_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, run: str) -> None:
    import importlib

    real = importlib.import_module

    def missing(name: str, package: str | None = None) -> object:
        if name == "fastapi":
            raise ImportError("No module named 'fastapi'")
        return real(name, package)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(Exception, match=r"pip install 'vrshq\[app\]'"):
        check_packages()
    done = vrshq("app", run)
    assert done.returncode == 1
    assert done.stderr == "error: vrshq app needs fastapi, which is not installed; pip install 'vrshq[app]'\n"


def test_an_address_that_cannot_be_listened_on_is_told_in_one_line(run: str) -> None:
    done = vrshq("app", run, "--host", "203.0.113.7", "--port", "9")
    assert done.returncode == 1
    assert done.stderr.startswith("error: 203.0.113.7:9 cannot be listened on: ")
    assert done.stderr.count("\n") == 1
