"""HDR: HLG and PQ come out as the same scene in SDR does, with a note, unless a setting switches the mapping off."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.clips import h264
from tests.support.paths import SHARED
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.tone_map import PEAK, WHITE, eetf, from_pq, to_pq, to_sdr
from vrshq.operators.video.video import open_video

REPORTS = SHARED / "reports"
# BT.709's red, green and blue in BT.2020's
TO_BT2020 = np.array([[0.627404, 0.329283, 0.043313], [0.069097, 0.919540, 0.011362], [0.016391, 0.088013, 0.895595]])
TRANSFER = {"PQ": 16, "HLG": 18, "BT.2020": 14}


def code_of(light: np.ndarray, signal: str) -> np.ndarray:
    """Codes 0..1 of light (..., 3) in cd/m2 on a display of 1000 cd/m2, with BT.2020 primaries, as BT.2100 defines them."""
    if signal == "PQ":
        return to_pq(light)
    if signal == "BT.2020":
        return np.power(light / WHITE, 1 / 2.4, dtype=np.float64)
    luminance: np.ndarray = (light @ [0.2627, 0.6780, 0.0593])[..., None] / PEAK
    scene: np.ndarray = light / PEAK * np.maximum(luminance, 1e-9) ** (1 / 1.2 - 1)
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    codes: np.ndarray = np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)
    return codes


def coded(picture: np.ndarray, signal: str) -> np.ndarray:
    """An SDR picture (H, W, 3) uint8 as codes of 16 bits of another signal; its white lies at 203 cd/m2."""
    light = (picture / 255.0) ** 2.4 * WHITE
    codes: np.ndarray = np.rint(code_of(light @ TO_BT2020.T, signal) * 65535)
    return codes.astype(np.uint16)


def patches() -> np.ndarray:
    """An SDR picture of plain patches of 16 pixels, of middling brightness."""
    random = np.random.default_rng(0)
    return random.integers(20, 180, (6, 10, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)


@pytest.mark.parametrize("signal", TRANSFER)
def test_what_lies_below_the_knee_comes_back_as_it_was(signal: str) -> None:
    picture = patches()
    assert np.abs(to_sdr(coded(picture, signal), signal).astype(int) - picture).max() <= 2


@pytest.mark.parametrize("signal", ["PQ", "HLG"])
def test_highlights_are_compressed_in_their_order_up_to_white(signal: str) -> None:
    light = np.array([0, 1, 50, 100, 203, 400, 700, 1000.0])
    gray = np.repeat(light[:, None], 3, axis=1)[None]
    found = to_sdr(np.rint(code_of(gray, signal) * 65535).astype(np.uint16), signal)[0, :, 0].tolist()
    assert found == sorted(found)
    assert len(set(found)) >= 7
    assert found[0] == 0
    assert found[-1] == 255
    assert found[2] == pytest.approx(255 * (50 / WHITE) ** (1 / 2.4), abs=1)
    assert 225 < found[4] < 240


def test_the_curve_is_that_of_bt2390() -> None:
    assert eetf(np.array([0.0, 10.0, 80.0])) == pytest.approx([0, 10, 80])
    assert eetf(np.array([PEAK])) == pytest.approx([WHITE])
    steps = np.diff(eetf(np.linspace(0, PEAK, 2000)))
    assert (steps > 0).all()
    assert np.abs(np.diff(steps)).max() < 0.01  # no kink at the knee


def test_pq_has_the_values_of_bt2100() -> None:
    codes = np.array([0.0, 0.508078, 0.580689, 0.751827, 1.0])
    assert from_pq(codes) == pytest.approx([0, 100, 203, 1000, 10000], rel=1e-3)
    assert to_pq(np.array([100.0, 203.0, 1000.0])) == pytest.approx(codes[1:4], abs=1e-5)


def encode_hdr(path: Path, signal: str, picture: np.ndarray) -> Path:
    """Three frames of 10 bits that show the SDR picture in another signal."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx265", rate=25, options={"x265-params": "log-level=none:lossless=1"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv444p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, TRANSFER[signal], 9, 1
        for number in range(3):
            codes = coded(picture, signal) / 65535.0
            luma = codes @ [0.2627, 0.6780, 0.0593]
            planes = [luma * 876 + 64]
            planes += [(codes[..., 2] - luma) / 1.8814 * 896 + 512, (codes[..., 0] - luma) / 1.4746 * 896 + 512]
            frame = av.VideoFrame(picture.shape[1], picture.shape[0], "yuv444p10le")
            for plane, values in zip(frame.planes, planes, strict=True):
                padded = np.zeros((plane.height, plane.line_size // 2), np.uint16)
                padded[:, : plane.width] = np.rint(values)
                plane.update(padded.tobytes())
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("signal", TRANSFER)
def test_an_hdr_video_is_mapped_with_a_note_unless_switched_off(signal: str, tmp_path: Path) -> None:
    picture = patches()
    path = str(encode_hdr(tmp_path / "hdr.mp4", signal, picture))
    with open_video(path) as video:
        error = np.abs(video.frames([0, 2]).astype(int) - picture)
        assert error.mean() < 1
        assert error.max() <= 6  # ten bits
        assert video.note is not None
        assert signal in video.note
        assert "BT.709" in video.note
    with open_video(path, DecodeConfig(tone_map=False)) as video:
        assert video.note is None
        grey = np.abs(video.frames([0])[0].astype(int) - picture).mean()
    assert grey > 3


def test_ten_bits_alone_are_no_hdr(tmp_path: Path) -> None:
    path = str(h264(tmp_path / "ten.mp4", frames=8, pix_fmt="yuv420p10le"))
    with open_video(path) as one, open_video(path, DecodeConfig(tone_map=False)) as other:
        assert one.note is None
        np.testing.assert_array_equal(one.frames(range(8)), other.frames(range(8)))


@pytest.mark.skipif(not REPORTS.is_dir(), reason=f"no sample files in {REPORTS}; set VRSHQ_SHARED")
def test_the_same_scene_in_hdr_has_nearly_the_colours_of_sdr() -> None:
    errors = []
    with open_video(str(REPORTS / "square.mp4")) as video:
        expected = video.frames(range(0, 20, 5)).astype(int)
    for tone_map in (True, False):
        with open_video(str(REPORTS / "hdr_hlg.mp4"), DecodeConfig(tone_map=tone_map)) as video:
            errors.append(np.abs(video.frames(range(0, 20, 5)) - expected).mean())
    assert errors[0] < 7
    assert errors[1] > 20
