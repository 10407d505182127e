"""A made run whose frames show their numbers, and the app over it, as the tests of the page use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.support import clips
from tests.support.made_runs import Made, box, make_run
from vrshq.pipelines.app.run import guarded
from vrshq.pipelines.app.state import Options, State
from vrshq.pipelines.label.settings import Settings

TOKEN = "the-secret-of-this-test"
ORIGIN = "http://127.0.0.1:8765"
FRAMES = 12
HOSTILE = "<img src=x onerror=\"document.title='hurt'\"><script>document.title='hurt'</script>"

Serve = Callable[..., TestClient]


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two clips of 12 frames."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("cups.mp4", "street.mp4"):
        clips.h264(folder / name, frames=FRAMES)
    return folder


def instructions() -> dict[str, list[Made]]:
    """The instructions of the run by video."""
    size = (FRAMES, 96, 160)
    sampled = {"keyframe_index": 5, "sampled_frames": [0, 5, 11]}
    return {
        "cups.mp4": [
            Made("the red cup", [box(*size)], {"presence": 0.9, "flicker": 0.1, **sampled}),
            Made("two cups", [box(*size), box(*size, left=60)], {"presence": 0.8, "flicker": 0.5, "answer": "Both."}),
            Made("the cup that is not there", [box(*size, shown=[])], {"presence": 0.2}),
        ],
        "street.mp4": [
            Made("the RED car", [box(*size, shown=[3, 4])], {"presence": 0.6, "flicker": 0.9}),
            Made(HOSTILE, [box(*size, shown=range(6))], {"presence": 0.4, "flicker": 0.2, "answer": HOSTILE}),
            Made("broken", (), {"status": "error", "error_type": "InputError", "error_message": "cut short"}),
        ],
    }


def write_run(folder: Path, videos: Path) -> str:
    """Writes the run into a new folder, and returns its uri."""
    uri = str(folder / "run")
    make_run(uri, {name: (str(videos / name), made) for name, made in instructions().items()})
    return uri


@pytest.fixture
def run(tmp_path: Path, videos: Path) -> str:
    """A run directory of its own for each test."""
    return write_run(tmp_path, videos)


def options(run: str | None, folder: Path, *roots: Path, most_upload: int = 1 << 20) -> Options:
    """The app's options; questions go to a folder of the test."""
    settings = Settings(model="untrained-tiny")
    return Options(run, settings, tuple(map(str, roots)), str(folder / "questions"), "ann", most_upload)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Makes clients of an app over a run: they have its token and come from its page, unless told otherwise."""
    states = []

    def made(run: str | None, *roots: Path, host: str = "127.0.0.1", known: bool = True, **more: int) -> TestClient:
        (tmp_path / "scratch").mkdir(exist_ok=True)
        state = State(options(run, tmp_path, *roots, **more), str(tmp_path / "scratch"))
        states.append(state)
        client = TestClient(guarded(state, TOKEN, host, 8765), base_url=ORIGIN, raise_server_exceptions=False)
        if known:
            assert client.get("/", params={"token": TOKEN}).status_code == 200
            client.headers["Origin"] = ORIGIN
        return client

    yield made
    for state in states:
        state.close()
