"""The page in a real browser: look, step, filter, judge, reload, export what was accepted, and ask."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.pipelines.app.conftest import HOSTILE, write_run
from tests.support import clips
from tests.support.browser import Watched, chromium
from tests.support.label_runs import vrshq
from vrshq.operators.masks.rle import encode

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize

COMMAND = [sys.executable, "-c", "from vrshq.pipelines.cli.main import main; main()", "app"]
SIZES: dict[str, ViewportSize] = {"wide": {"width": 1440, "height": 900}, "narrow": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@contextmanager
def served(run: str, videos: Path, folder: Path) -> Iterator[str]:
    """The address that the command prints, while it runs."""
    options = ["--port", "0", "--model", "untrained-tiny", "--judge", "ann", "--videos", str(videos)]
    process = subprocess.Popen(
        [*COMMAND, run, *options, "--questions", str(folder / "questions")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield next(line for line in process.stdout if line.startswith("open ")).removeprefix("open ").strip()
    process.terminate()
    assert process.wait(30) == 143


@contextmanager
def opened(browser: Browser, address: str, **context: Any) -> Iterator[Watched]:
    """A page that has opened the address; at its end nothing has failed and nobody else was called."""
    watched = Watched(browser, **context)
    watched.page.goto(address)
    watched.page.wait_for_selector(".card")
    yield watched
    assert watched.faults == []
    assert watched.hosts == {re.split("[/?]+", address)[1]}
    watched.close()


@pytest.fixture(scope="module")
def shared(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an app for tests that judge nothing."""
    folder = tmp_path_factory.mktemp("shared")
    with served(write_run(folder, videos), videos, folder) as address:
        yield address


@pytest.fixture
def watched(browser: Browser, run: str, videos: Path, tmp_path: Path) -> Iterator[Watched]:
    """The page of an app of its own."""
    with served(run, videos, tmp_path) as address, opened(browser, address, viewport=SIZES["wide"]) as page:
        yield page


@pytest.fixture
def looked(browser: Browser, shared: str) -> Iterator[Watched]:
    """A page of the shared app."""
    with opened(browser, shared, viewport=SIZES["wide"]) as page:
        yield page


def picture(page: Page, canvas: str = "#stage") -> np.ndarray:
    """What a canvas shows: (H, W, 3) uint8."""
    data: str = page.eval_on_selector(canvas, "canvas => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB"))


def shown(page: Page, frame: int) -> np.ndarray:
    """The picture of the player when it shows a frame."""
    page.wait_for_selector(f"#stage[data-frame='{frame}']")
    return picture(page)


def texts(page: Page) -> list[str]:
    return page.locator(".card .words").all_inner_texts()


def settled(page: Page, count: int) -> None:
    page.wait_for_function("count => document.querySelectorAll('.card').length === count", arg=count)


def test_a_run_is_looked_through_judged_and_exported(watched: Watched, run: str, tmp_path: Path) -> None:
    page = watched.page
    assert "token" not in page.url
    assert page.title() == "vrshq"
    assert HOSTILE in texts(page)  # a text, not a picture
    assert page.locator(".grid img, .grid script").count() == 0

    # pictures of the cards: the mask in its colour
    page.wait_for_selector(".card canvas[data-drawn='1']")
    # each card is drawn when its own picture has come
    page.wait_for_function("() => document.querySelectorAll('.card canvas[data-drawn]').length >= 4")

    # filters and orders
    page.fill("[name=text]", "red")
    settled(page, 2)
    page.fill("[name=text]", "")
    settled(page, 6)
    page.select_option("[name=status]", "ok")
    settled(page, 4)
    page.select_option("[name=sort]", "flicker")
    page.wait_for_function("() => document.querySelector('.card .words').textContent === 'the RED car'")
    page.fill("[name=least]", "0.7")
    settled(page, 2)
    assert texts(page) == ["two cups", "the red cup"]
    page.select_option("[name=layout]", "list")
    page.wait_for_selector("tbody tr:nth-child(2)")
    assert "Both." in page.inner_text("tbody tr:nth-child(1)")

    # the player: frames by their numbers, which the pictures show
    page.click("tbody tr:nth-child(2) a")
    page.wait_for_selector("#stage[data-frame='5']")  # the keyframe
    assert page.inner_text("#text") == "the red cup"
    assert page.inner_text("#place") == "2 of 2"
    masked = picture(page)
    assert masked[20, 4 + 10 + 15, 0] > masked[20, 4 + 10 + 15, 1] + 60  # inside the box of frame 5
    page.keyboard.press("m")
    assert clips.read_code(shown(page, 5)) == 5
    for key, frame in [("ArrowRight", 6), ("ArrowLeft", 5), ("Shift+ArrowLeft", 0), ("End", 11), ("Home", 0)]:
        page.keyboard.press(key)
        assert clips.read_code(shown(page, frame)) == frame, key
    page.keyboard.press(" ")  # plays to the end
    assert clips.read_code(shown(page, 11)) == 11
    assert page.inner_text("#play") == "▶ play"
    box = page.locator("#curves").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 12 + (box["width"] - 24) * 3 / 11, box["y"] + 40)
    assert clips.read_code(shown(page, 3)) == 3
    assert page.url.endswith("#/cups.mp4/0/3")
    page.keyboard.press("m")

    # judging by keys, and what a reload finds
    page.keyboard.press("a")
    page.wait_for_selector("[data-verdict=accept][aria-pressed=true]")
    page.keyboard.press("p")
    page.wait_for_function("() => document.getElementById('text').textContent === 'two cups'")
    assert page.inner_text("#answer") == "Both."
    assert page.locator("#objects input").count() == 2
    page.keyboard.press("c")
    page.keyboard.type(HOSTILE)
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    page.wait_for_selector("[data-verdict=reject][aria-pressed=true]")
    assert HOSTILE in page.inner_text("#judgements")
    page.reload()
    page.wait_for_selector("[data-verdict=reject][aria-pressed=true]")
    assert page.input_value("#comment") == HOSTILE
    page.keyboard.press("Escape")
    page.wait_for_selector("tbody tr")
    assert "sort=flicker" in page.url
    page.select_option("[name=outcome]", "accepted")
    page.wait_for_function("() => document.querySelectorAll('tbody tr').length === 1")
    assert "the red cup" in page.inner_text("tbody")
    rows = [pq.read_table(path).to_pylist()[0] for path in Path(run, "reviews").glob("*.parquet")]
    assert {(row["judge"], row["instruction_id"], row["verdict"]) for row in rows} == {
        ("ann", "0", "accept"),
        ("ann", "1", "reject"),
    }
    output = tmp_path / "accepted"
    done = vrshq("export", run, "--format", "png-tree", "--output", str(output), "--only", "accepted")
    assert done.returncode == 0, done.stderr
    assert {path.parent.name for path in output.rglob("*.png")} == {"0"}
    assert page.title() == "vrshq"  # no text became a script


def test_two_judges_see_how_far_they_agree(watched: Watched) -> None:
    page = watched.page
    for judge, keys in (("ann", "aar"), ("bob", "arr")):
        page.goto(page.url.partition("#")[0] + "#")
        page.fill("#judge", judge)
        page.click(".card >> nth=0")
        for place, key in enumerate(keys):
            page.wait_for_function(
                "place => document.getElementById('place').textContent.startsWith(place)", arg=str(place + 1)
            )
            page.keyboard.press(key)
            page.wait_for_selector("[data-verdict][aria-pressed=true]")
            page.keyboard.press("n")
    page.click("#tab-judges")
    page.wait_for_selector("#pairs tr")
    assert page.inner_text("#judged") == "Judged: 1 accepted, 2 rejected, of 6 instructions."
    # by chance 2/3 * 1/3 + 1/3 * 2/3 = 4/9; (2/3 - 4/9) / (5/9) = 0.4
    assert page.locator("#pairs td").all_inner_texts() == ["ann and bob", "3", "67 %", "0.40"]


def test_a_question_is_answered_from_a_path_and_from_an_upload(watched: Watched, videos: Path, tmp_path: Path) -> None:
    page = watched.page
    page.click("#tab-ask")
    page.fill("#video", "cups.mp4")
    page.fill("#texts", "the block\n\nWhat moves?\n")
    page.click("#send")
    page.wait_for_function("() => location.hash.startsWith('#asked/cups.mp4-')", timeout=200_000)
    page.wait_for_selector("#stage[data-frame]")
    assert page.inner_text("#text") in ("the block", "What moves?")
    page.keyboard.press("m")
    page.keyboard.press("Home")
    assert clips.read_code(shown(page, 0)) == 0
    page.click("#to-list")
    settled(page, 2)

    page.click("#tab-ask")
    page.wait_for_selector("#asked a")
    page.fill("#video", "")
    page.set_input_files("#file", videos / "street.mp4")
    page.fill("#texts", "the car")
    page.click("#send")
    page.wait_for_function("() => location.hash.startsWith('#asked/street.mp4-')", timeout=200_000)
    page.wait_for_selector("#stage[data-frame]")
    page.click("#tab-ask")
    page.wait_for_function("() => document.querySelectorAll('#asked a').length === 2")
    assert "done" in page.inner_text("#progress")
    assert len(list((tmp_path / "questions").glob("*/run.json"))) == 2


def test_a_path_outside_the_roots_is_refused_in_words(looked: Watched) -> None:
    page = looked.page
    page.click("#tab-ask")
    page.fill("#video", "/etc/passwd")
    page.fill("#texts", "the root")
    page.click("#send")
    page.wait_for_selector("#message:not([hidden])")
    assert "/etc/passwd: no such video inside" in page.inner_text("#message")
    refused = [fault for fault in looked.faults if "question" in fault or "403" in fault]
    assert refused == looked.faults != []
    looked.faults.clear()


def test_a_verdict_waits_while_the_app_does_not_answer_and_is_stored_once(watched: Watched, run: str) -> None:
    page = watched.page
    page.route("**/reviews", lambda route: route.abort())
    page.reload()  # a document that is open already may send its next request past a new route
    page.click(".card >> nth=0")
    page.wait_for_selector("#stage[data-frame]")
    with page.expect_request("**/reviews"):
        page.keyboard.press("u")
    page.wait_for_selector("#message:not([hidden])")
    assert "not stored yet" in page.inner_text("#message")
    page.reload()
    page.wait_for_selector("#stage[data-frame]")
    page.unroute("**/reviews")
    page.wait_for_selector("[data-verdict=unsure][aria-pressed=true]")
    time.sleep(2.5)  # longer than it waits for the next try
    assert len(list(Path(run, "reviews").glob("*.parquet"))) == 1
    watched.faults.clear()


# Paints masks as the page does, and returns the bits of the pixels that have a colour, in base64.
DECODED = """async masks => {
    const { painted } = await import("/masks.js");
    const canvas = painted(masks, 1), { width, height } = canvas;
    const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
    const bits = new Uint8Array(Math.ceil(width * height / 8));
    for (let place = 0; place < width * height; place++) {
        if (data[4 * place + 3]) bits[place >> 3] |= 128 >> (place & 7);
    }
    let text = "";
    for (const byte of bits) text += String.fromCharCode(byte);
    return btoa(text);
}"""


def test_masks_are_decoded_as_pycocotools_encodes_them(looked: Watched) -> None:
    random = np.random.default_rng(5)
    shapes = [(1, 1), (7, 5), (48, 64), (97, 161), (1080, 1920)]
    for height, width in shapes:
        noise = random.random((height, width)) > 0.5
        blob = np.zeros((height, width), bool)
        blob[height // 4 : height // 2 + 1, width // 3 :] = True
        for mask in (noise, blob, np.zeros_like(blob), np.ones_like(blob)):
            (code,) = encode(mask[None])
            given = [{"object": 3, "rle": code.rle.decode(), "height": height, "width": width}]
            bits = np.frombuffer(base64.b64decode(looked.page.evaluate(DECODED, given)), np.uint8)
            assert np.array_equal(np.unpackbits(bits)[: height * width].reshape(height, width).astype(bool), mask)


VIEWS = {
    "look": ("#", ".card"),
    "player": ("#/cups.mp4/1/5", "#stage[data-frame]"),
    "error": ("#/street.mp4/2", "#stage-note:not([hidden])"),
    "ask": ("#ask", "#ask:not([hidden])"),
    "judges": ("#judges", "#judged"),
    "list": ("?layout=list#", "tbody tr"),
}


@pytest.mark.parametrize(
    ("scheme", "size"),
    [
        ("light", "wide"),
        ("dark", "narrow"),
        pytest.param("light", "narrow", marks=pytest.mark.long),
        pytest.param("dark", "wide", marks=pytest.mark.long),
    ],
)
def test_nothing_is_cut_off_in_light_and_dark_narrow_and_wide(
    browser: Browser, shared: str, tmp_path: Path, scheme: str, size: str
) -> None:
    """Set VRSHQ_SCREENSHOTS to keep the pictures."""
    folder = Path(os.environ.get("VRSHQ_SCREENSHOTS", tmp_path))
    with opened(browser, shared, color_scheme=scheme, viewport=SIZES[size]) as watched:
        page = watched.page
        page.wait_for_function("() => document.querySelectorAll('.card canvas[data-drawn]').length >= 4")
        base = page.url.partition("#")[0]
        for name, (where, ready) in VIEWS.items():
            page.goto("about:blank")
            page.goto(base + where)
            page.wait_for_selector(ready)
            page.wait_for_timeout(300)
            page.screenshot(path=folder / f"{name}-{scheme}-{size}.png", full_page=True)
            wide = page.evaluate("() => document.scrollingElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{name} is {wide} pixels too wide"
            ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
            assert ground == ("rgb(246, 247, 249)" if scheme == "light" else "rgb(20, 22, 26)")
        watched.hosts.discard("")  # of the blank page
