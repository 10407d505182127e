"""An overlay plays in a browser, and each moment shows the frame that the source shows then."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.support import clips
from tests.support.browser import Watched, chromium
from tests.support.one_answer import write_run
from vrshq.pipelines.export.run import export

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TIMES = [0, 40, 80, 300, 340, 900, 950, 1000]  # milliseconds: the rate varies
# Seconds to look at -> the frame that is on the screen then.
MOMENTS = {0.2: 2, 0.6: 4, 0.97: 6}
# Loads a video from base64, seeks to the moments, and plays; gives the pictures as PNG, the size and the time that passed.
# A canvas draws the frame that was presented last, and "seeked" may come before the frame of that time is presented.
# So a picture is taken when both have come.
SCRIPT = """
async ([data, moments]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const video = document.createElement('video');
  video.muted = true;
  const event = (name) => new Promise((done, failed) => {
    video.addEventListener(name, done, { once: true });
    video.addEventListener('error', () => failed(new Error(video.error.message)), { once: true });
  });
  const presented = () => new Promise((done) => video.requestVideoFrameCallback(done));
  document.body.append(video);
  const loaded = Promise.all([event('loadeddata'), presented()]);
  video.src = URL.createObjectURL(new Blob([bytes], { type: 'video/mp4' }));
  await loaded;
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const pictures = [];
  for (const moment of moments) {
    const there = Promise.all([event('seeked'), presented()]);
    video.currentTime = moment;
    await there;
    canvas.getContext('2d').drawImage(video, 0, 0);
    pictures.push(canvas.toDataURL('image/png'));
  }
  const back = event('seeked');
  video.currentTime = 0;
  await back;
  await video.play();
  await new Promise((done) => setTimeout(done, 500));
  return { pictures, size: [video.videoHeight, video.videoWidth], passed: video.currentTime, length: video.duration };
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.mark.parametrize("size", [(192, 320), (191, 321)])
def test_a_browser_plays_an_overlay_and_shows_each_frame_at_its_time(
    size: tuple[int, int], browser: Browser, tmp_path: Path
) -> None:
    height, width = size
    clip = clips.encode(
        tmp_path / "v.mkv", "ffv1", pts=TIMES, frames=len(TIMES), height=height, width=width, pix_fmt="bgr0"
    )
    masks = np.zeros((len(TIMES), height, width), bool)
    run = write_run(str(tmp_path / "run"), clip, list(range(len(TIMES))), masks, status="empty")
    export(run.uri, "overlay-mp4", str(tmp_path / "out"))
    data = base64.b64encode((tmp_path / "out" / "v" / "0.mp4").read_bytes()).decode()
    watched = Watched(browser)
    try:
        shown = watched.page.evaluate(SCRIPT, [data, list(MOMENTS)])
    finally:
        watched.close()
    assert watched.faults == []
    assert shown["size"] == [height + height % 2, width + width % 2]
    assert shown["length"] == pytest.approx(1.04, abs=0.05)
    assert shown["passed"] > 0.1
    pictures = [Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2]))) for one in shown["pictures"]]
    codes = [clips.read_code(np.asarray(one.convert("RGB"))[:height, :width]) for one in pictures]
    assert codes == list(MOMENTS.values())
