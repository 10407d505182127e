"""HDR video as SDR: from HLG or PQ with BT.2020 primaries to BT.709, in the way of ITU-R reports.

The signal becomes light on a display of 1000 cd/m2 (BT.2100: HLG's inverse OETF and OOTF with gamma 1.2, or PQ's EOTF). The
EETF of ITU-R BT.2390 compresses its luminance to 203 cd/m2, the reference white of ITU-R BT.2408, which becomes SDR's white.
Colours keep their ratios, pass to BT.709 primaries (BT.2087), and are coded for a display of gamma 2.4 (BT.1886). Colours that
BT.709 cannot show are clipped.
"""

from __future__ import annotations

import functools

import av
import numpy as np

PEAK = 1000.0  # luminance of the source's display in cd/m2; PQ above it is clipped
WHITE = 203.0  # luminance that becomes SDR's white
LEVELS = 4096  # entries of the tables
STRIP = 1 << 18  # pixels that are worked on at once, so that float pictures take a few MiB

# ffmpeg's numbers of transfer functions and of primaries
_TRANSFERS = {16: "PQ", 18: "HLG"}
_BT2020_PRIMARIES = 9
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020's red, green and blue
_TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)


def signal_of(frame: av.VideoFrame) -> str | None:
    """The kind of a frame's signal that `to_sdr` maps: "HLG" or "PQ", "BT.2020" for wide colours in SDR; None for any other."""
    known = _TRANSFERS.get(frame.color_trc)
    return known or ("BT.2020" if frame.color_primaries == _BT2020_PRIMARIES else None)


def note_of(signal: str) -> str:
    """What a user should know about a video of that signal."""
    if signal == "BT.2020":
        return "wide colours (BT.2020) mapped to BT.709"
    return f"HDR ({signal}) tone-mapped to BT.709 by the curve of ITU-R BT.2390"


def to_sdr(picture: np.ndarray, signal: str) -> np.ndarray:
    """The SDR picture of an HDR one.

    Args:
        picture: (H, W, 3) uint16, the whole range, RGB as coded, with BT.2020 primaries.
        signal: as from `signal_of`.

    Returns:
        (H, W, 3) uint8 RGB. Costs about 0.5 s for 1920x1080 on one core, and 20 MiB besides the pictures.
    """
    to_light, to_scale, to_code = _tables(signal)
    flat = picture.reshape(-1, 3)
    result = np.empty(flat.shape, np.uint8)
    for start in range(0, len(flat), STRIP):
        light = to_light[flat[start : start + STRIP] >> 4]
        # the table's steps are even in the fourth root of the luminance, as fine as the eye sees
        root = np.sqrt(np.sqrt(light @ _LUMINANCE))
        light *= to_scale[(root * (LEVELS - 1)).astype(np.int32)][:, None]
        mapped = light @ _TO_BT709.T
        np.clip(mapped, 0, 1, out=mapped)
        np.sqrt(mapped, out=mapped)
        result[start : start + STRIP] = to_code[(mapped * (LEVELS - 1) + 0.5).astype(np.int32)]
    return result.reshape(picture.shape)


@functools.cache
def _tables(signal: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tables of `LEVELS` entries, float32 and float32 and uint8.

    Returns:
        light 0..1 of each code of 12 bits; what light of each luminance is multiplied with so that SDR's white is 1, by the
        fourth root of the luminance; the code of 8 bits of each light, by its square root.
    """
    grid = np.arange(LEVELS) / (LEVELS - 1)
    luminance = np.maximum(grid, 0.5 / LEVELS) ** 4
    if signal == "HLG":
        light = _from_hlg(grid)
        shown = PEAK * luminance**1.2
        scale = eetf(shown) / (luminance * WHITE)
    elif signal == "PQ":
        light = np.minimum(from_pq(grid) / PEAK, 1)
        scale = eetf(PEAK * luminance) / (luminance * WHITE)
    else:
        light, scale = grid**2.4, np.ones(LEVELS)
    code = np.rint(255 * grid ** (2 / 2.4))
    return light.astype(np.float32), scale.astype(np.float32), code.astype(np.uint8)


def _from_hlg(code: np.ndarray) -> np.ndarray:
    """Scene light 0..1 of HLG codes 0..1: the inverse OETF of BT.2100."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)


def from_pq(code: np.ndarray) -> np.ndarray:
    """Luminance in cd/m2 of PQ codes 0..1: the EOTF of BT.2100 (SMPTE ST 2084)."""
    power = np.asarray(code) ** (32 / 2523)
    light = np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)
    return np.asarray(10000 * light ** (16384 / 2610))


def to_pq(luminance: np.ndarray) -> np.ndarray:
    """PQ codes 0..1 of luminances in cd/m2: the inverse of `from_pq`."""
    power = (np.asarray(luminance) / 10000) ** (2610 / 16384)
    return np.asarray(((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32))


def eetf(luminance: np.ndarray) -> np.ndarray:
    """The electrical-electrical transfer function of ITU-R BT.2390 from `PEAK` to `WHITE`, black to black, in cd/m2.

    Luminances up to a knee stay; a Hermite spline in PQ codes leads from there to the new peak.
    """
    source = float(to_pq(np.array(PEAK)))
    most = float(to_pq(np.array(WHITE))) / source
    knee = 1.5 * most - 0.5
    code = np.clip(to_pq(luminance) / source, 0, 1)
    t = np.clip((code - knee) / (1 - knee), 0, 1)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return np.where(code < knee, np.asarray(luminance), from_pq(spline * source))
