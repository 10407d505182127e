"""Draws the demo clips: textured shapes that move over a ground, with the mask of every shape in every frame.

    python -m vrshq.pipelines.demo.draw_clips OUT

writes `OUT/NAME.mp4` (H.264) for each of `CLIPS`. The frames do not depend on the machine. The bytes of the files depend only
on the build of the encoder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

FRAMES_PER_SECOND = 12
OVERSAMPLE = 3  # shapes are drawn at this multiple of their size and shrunk, for smooth edges

Color = tuple[int, int, int]  # RGB
Pose = tuple[float, float, float]  # x and y of the centre in pixels, rotation in radians


@dataclass(frozen=True)
class Shape:
    """A moving shape. `pose` maps the time (0 at the first frame, 1 at the last) to its position and rotation."""

    name: str
    outline: str  # "disc", "star" or the number of corners
    color: Color
    radius: float
    pose: Callable[[float], Pose]
    stretch: tuple[float, float] = (1.0, 1.0)
    texture: str = "plain"  # "plain", "stripes", "checks" or "ball"
    shadow: bool = True


@dataclass(frozen=True)
class Clip:
    """A scene. Later shapes cover earlier ones. `camera` maps the time, 0 to 1, to its offset to the right in pixels."""

    name: str
    height: int
    width: int
    num_frames: int
    ground: tuple[Color, Color]  # colours at the top and at the bottom
    shapes: tuple[Shape, ...]
    camera: Callable[[float], float] = lambda _: 0.0


def draw(clip: Clip) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The frames, (T, H, W, 3) uint8 RGB, and the visible pixels of each shape by its name, (T, H, W) bool."""
    frames = np.empty((clip.num_frames, clip.height, clip.width, 3), np.uint8)
    masks = {shape.name: np.zeros(frames.shape[:3], bool) for shape in clip.shapes}
    ground = _ground(clip)
    for index in range(clip.num_frames):
        time = index / (clip.num_frames - 1)
        shift = clip.camera(time)
        image = _crop(ground, shift, clip.width)
        seen: dict[str, np.ndarray] = {}
        for shape in clip.shapes:
            x, y, turn = shape.pose(time)
            cover, paint = _render(shape, (x - shift, y, turn), clip.height, clip.width)
            if shape.shadow:
                # A soft shadow shows which shape is in front.
                soft = cv2.GaussianBlur(np.roll(cover, (4, 3), axis=(0, 1)), (0, 0), 3)
                image *= 1 - 0.35 * soft[..., None]
            image += cover[..., None] * (paint - image)
            seen = {name: mask & (cover < 0.5) for name, mask in seen.items()} | {shape.name: cover >= 0.5}
        frames[index] = np.clip(image, 0, 255).round().astype(np.uint8)
        for name, mask in seen.items():
            masks[name][index] = mask
    return frames, masks


def write_clip(clip: Clip, path: Path) -> None:
    """Draws the clip and writes it as H.264 in an mp4 file."""
    frames, _ = draw(clip)
    with av.open(str(path), "w", options={"movflags": "faststart", "fflags": "bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.height, stream.width, stream.pix_fmt = clip.height, clip.width, "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        # With several threads, the encoder's bytes would depend on the number of cores.
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "20", "preset": "slow", "flags": "+bitexact"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _ground(clip: Clip) -> np.ndarray:
    """The ground, (H, wide, 3) float32: a gradient with noise, wide enough for all camera offsets."""
    wide = clip.width + int(np.ceil(max(clip.camera(0.0), clip.camera(1.0)))) + 1
    random = np.random.default_rng(sum(clip.name.encode()))
    blend = np.linspace(0, 1, clip.height, dtype=np.float32)[:, None, None]
    ground = np.array(clip.ground[0], np.float32) * (1 - blend) + np.array(clip.ground[1], np.float32) * blend
    ground = np.repeat(ground, wide, axis=1)
    for cell, strength in ((48, 16.0), (18, 9.0), (6, 4.0)):
        noise = random.uniform(-1, 1, (clip.height // cell + 2, wide // cell + 2)).astype(np.float32)
        ground += strength * cv2.resize(noise, (wide, clip.height), interpolation=cv2.INTER_CUBIC)[..., None]
    return ground


def _crop(ground: np.ndarray, shift: float, width: int) -> np.ndarray:
    """The ground seen by a camera at `shift`, interpolated between pixels."""
    whole, part = int(shift), shift - int(shift)
    return (1 - part) * ground[:, whole : whole + width] + part * ground[:, whole + 1 : whole + 1 + width]


def _render(shape: Shape, pose: Pose, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The shape's coverage of each pixel, (H, W) float32 in 0..1, and its colour there, (H, W, 3) float32."""
    x, y, turn = pose
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = (_outline(shape.outline) * shape.radius * shape.stretch) @ spin.T + (x + 0.5, y + 0.5)
    canvas = np.zeros((height * OVERSAMPLE, width * OVERSAMPLE), np.uint8)
    cv2.fillPoly(canvas, [np.round(points * OVERSAMPLE * 16).astype(np.int32)], 255, shift=4)
    cover = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255

    # The texture uses the coordinates of the shape, so that it moves and rotates with it.
    grid_y, grid_x = np.mgrid[:height, :width].astype(np.float32)
    own = np.stack([grid_x - x, grid_y - y], axis=-1) @ spin
    u, v = (own / shape.radius).transpose(2, 0, 1)
    light = 1.0 - 0.12 * (v + u)
    if shape.texture == "stripes":
        light = light * np.where(np.sin(7 * u) > 0, 1.0, 0.72)
    elif shape.texture == "checks":
        light = light * np.where((np.sin(6 * u) > 0) == (np.sin(6 * v) > 0), 1.0, 0.72)
    paint = np.array(shape.color, np.float32) * light[..., None]
    if shape.texture == "ball":
        # A white band that rolls with the ball, and a highlight that stays on the side of the light.
        paint = np.where((np.abs(v) < 0.16)[..., None], np.array((244, 236, 226), np.float32), paint)
        glow = np.exp(-(((grid_x - x) / shape.radius + 0.4) ** 2 + ((grid_y - y) / shape.radius + 0.4) ** 2) / 0.08)
        paint = paint * (1 - 0.6 * glow[..., None]) + 255 * 0.6 * glow[..., None]
    return cover, np.clip(paint, 0, 255).astype(np.float32)


def _outline(kind: str) -> np.ndarray:
    """The corners of a disc, a star or an upright polygon on the unit circle, (N, 2)."""
    count = {"disc": 72, "star": 10}.get(kind) or int(kind)
    angles = 2 * np.pi * np.arange(count) / count - np.pi / 2 + (np.pi / 4 if count == 4 else 0)
    radii = np.where(np.arange(count) % 2, 0.45, 1.0) if kind == "star" else np.ones(count)
    corners: np.ndarray = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * radii[:, None]
    return corners


def _bounce(time: float, hops: float) -> float:
    """Height of a bouncing ball at a time 0..1: 0 on the ground, 1 at the top."""
    return abs(float(np.sin(np.pi * hops * time)))


RED, GREEN, BLUE = (214, 48, 44), (46, 160, 76), (52, 96, 200)
YELLOW, PURPLE, ORANGE, GREY = (240, 198, 48), (140, 74, 178), (236, 126, 34), (120, 112, 108)

CLIPS = (
    # The ball goes behind the wall and comes out again.
    Clip(
        name="hide",
        height=180,
        width=320,
        num_frames=32,
        ground=((176, 204, 222), (126, 158, 112)),
        shapes=(
            Shape(
                "blue triangle",
                "3",
                BLUE,
                22,
                lambda t: (268, 52 + 6 * np.sin(9 * t), 0.2 * np.sin(9 * t)),
                texture="stripes",
            ),
            Shape(
                "red ball",
                "disc",
                RED,
                20,
                lambda t: (18 + 284 * t, 142 - 62 * _bounce(t, 3), 284 * t / 20),
                texture="ball",
            ),
            Shape("grey wall", "4", GREY, 40, lambda _: (150, 116, 0.0), stretch=(0.95, 1.9), texture="checks"),
            Shape("green square", "4", GREEN, 22, lambda t: (54 + 22 * t, 48, 0.5 * t), texture="checks"),
        ),
    ),
    # The camera moves to the right. The star rotates in place; the orange hexagon follows the camera.
    Clip(
        name="pan",
        height=144,
        width=256,
        num_frames=30,
        ground=((224, 208, 176), (188, 154, 118)),
        camera=lambda t: 110 * (3 * t**2 - 2 * t**3),
        shapes=(
            Shape("purple pentagon", "5", PURPLE, 21, lambda _: (54, 100, 0.3), texture="stripes"),
            Shape("green square", "4", GREEN, 24, lambda _: (176, 48, 0.2), texture="checks"),
            Shape("yellow star", "star", YELLOW, 28, lambda t: (292, 88, 3.5 * t)),
            Shape("orange hexagon", "6", ORANGE, 17, lambda t: (96 + 150 * t, 116 - 26 * t, 0.8 * t), texture="checks"),
        ),
    ),
    # Three shapes cross; the yellow disc is the fastest.
    Clip(
        name="race",
        height=144,
        width=256,
        num_frames=24,
        ground=((92, 104, 128), (58, 66, 88)),
        shapes=(
            Shape("red square", "4", RED, 24, lambda t: (150 + 40 * t, 38 + 6 * t, 0.6 * t), texture="stripes"),
            Shape("blue hexagon", "6", BLUE, 21, lambda t: (196 - 96 * t, 104, -0.9 * t), texture="checks"),
            Shape("yellow disc", "disc", YELLOW, 15, lambda t: (20 + 216 * t, 118 - 88 * t, 12 * t), texture="ball"),
        ),
    ),
)


def main(out: str) -> None:
    """Draws all clips into a folder."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for clip in CLIPS:
        write_clip(clip, folder / f"{clip.name}.mp4")


if __name__ == "__main__":
    main(sys.argv[1])
