"""Drawing of a scene: textured objects over a background, with the effects of camera and light."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vrshq.operators.synth.background import draw_background, margin_pixels
from vrshq.operators.synth.colours import draw_colour
from vrshq.operators.synth.coverage import Patch, cover
from vrshq.operators.synth.scene import Actor, Scene
from vrshq.operators.synth.shapes import Contours, outline

TEXTURES = ("plain", "shaded", "striped", "dotted", "grained", "framed", "banded")
# probabilities of all textures but the last, which is a setting
_SHARES = np.array([0.3, 0.2, 0.14, 0.1, 0.14, 0.12])
_TEXTURE_PIXELS = 96
_LONGEST_STREAK = 0.3  # longest motion blur, in radii of the object
_TEXTURE_REACH = 1.9  # half the side of a texture, in radii of the object

Random = np.random.Generator


@dataclass(frozen=True, eq=False)
class Look:
    """The appearance of one object.

    Attributes:
        contours: the outline at radius 1.
        colour: (3,) float32 RGB in 0..255.
        texture: a name in `TEXTURES`.
        image: (96, 96, 3) float32 RGB in 0..255, the texture's pixels.
    """

    contours: Contours
    colour: np.ndarray
    texture: str
    image: np.ndarray


@dataclass(frozen=True)
class Lens:
    """Effects of camera and light on a video.

    Attributes:
        shutter: share of a frame's time during which the shutter is open; 0: no motion blur.
        blur: standard deviation of the blur, in short sides; 0: none.
        noise: standard deviation of the pixel noise, on the 0..255 scale; 0: none.
        light: `ramp`, `flicker` or `still`.
    """

    shutter: float
    blur: float
    noise: float
    light: str


def draw_lens(random: Random, effects: float) -> Lens:
    """Draws each effect independently. `effects`, 0 to 1, is a factor on their probabilities; most videos are sharp."""
    shutter = random.uniform(0.25, 0.5) if random.random() < 0.15 * effects else 0.0
    blur = random.uniform(0.003, 0.008) if random.random() < 0.2 * effects else 0.0
    noise = random.uniform(2, 9) if random.random() < 0.5 * effects else 0.0
    light = str(random.choice(["ramp", "flicker", "still"], p=[0.15 * effects, 0.12 * effects, 1 - 0.27 * effects]))
    return Lens(shutter, blur, noise, light)


def draw_look(random: Random, actor: Actor, banded: float) -> Look:
    """Draws outline, exact colour and texture of an object. `banded` is the probability of the texture of that name."""
    colour = draw_colour(random, actor.colour)
    contours = outline(random, actor.shape)
    texture = str(random.choice(TEXTURES, p=[*_SHARES * (1 - banded), banded]))
    return Look(contours, colour, texture, _texture(random, texture, colour, contours))


def _texture(random: Random, kind: str, colour: np.ndarray, contours: Contours) -> np.ndarray:
    """Draws the pixels of a texture, (96, 96, 3) float32 RGB in 0..255.

    All variations of brightness are so small that the colour keeps its name. Only the band of `banded` is grey.
    """
    size = _TEXTURE_PIXELS
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) * np.float32(2 * _TEXTURE_REACH / size) - _TEXTURE_REACH
    angle = random.uniform(0, 2 * np.pi)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    strength = random.uniform(0.08, 0.2)
    if kind == "shaded":
        factor = 1 + strength * np.clip(along, -1, 1)
    elif kind == "striped":
        factor = 1 + strength * np.sign(np.sin(along * np.float32(random.uniform(5, 10))))
    elif kind == "dotted":
        pitch = np.float32(random.uniform(6, 9))
        factor = 1 - 2 * strength * (np.sin(x * pitch) * np.sin(y * pitch) > 0.45)
    elif kind == "grained":
        grain = cv2.resize(random.random((24, 24), dtype=np.float32), (size, size))
        factor = 1 + 2 * strength * (grain - 0.5)
    else:
        factor = np.ones((size, size), np.float32)
    image = colour * factor[:, :, None].astype(np.float32)
    if kind == "framed":
        lines = [np.round((c + _TEXTURE_REACH) * (size / (2 * _TEXTURE_REACH)) * 16).astype(np.int32) for c in contours]
        darker = tuple(float(channel) for channel in colour * random.uniform(0.6, 0.75))
        cv2.polylines(image, lines, True, darker, thickness=int(random.integers(3, 6)), shift=4)
    elif kind == "banded":
        grey = random.uniform(215, 255) if colour.mean() < 130 or random.random() < 0.3 else random.uniform(10, 60)
        image[np.abs(along + random.uniform(-0.3, 0.3)) < random.uniform(0.1, 0.22)] = grey
    painted: np.ndarray = np.clip(image, 0, 255).astype(np.float32)
    return painted


def place(scene: Scene, actor: Actor) -> tuple[np.ndarray, np.ndarray]:
    """The centre x, y (T, 2) and the radius (T,) of an object in the frames, in pixels."""
    short = min(scene.height, scene.width)
    middle = np.array([scene.width, scene.height]) / 2
    return scene.camera.seen(
        actor.path.place
    ) * short + middle, actor.radius * actor.path.scale * scene.camera.zoom * short


def draw_patches(scene: Scene, looks: list[Look], lens: Lens) -> list[list[Patch | None]]:
    """Coverage of every object i in every frame t, as patches[t][i]; None where it is absent or outside the frame."""
    rows: list[list[Patch | None]] = [[None] * len(looks) for _ in range(scene.frames)]
    for number, (actor, look) in enumerate(zip(scene.actors, looks, strict=True)):
        centres, radii = place(scene, actor)
        streaks = np.gradient(centres, axis=0) * lens.shutter
        # with a longer streak, thin parts would be less than half covered and drop out of the object's mask
        lengths = np.maximum(np.linalg.norm(streaks, axis=1), 1e-9)
        streaks *= np.minimum(1, _LONGEST_STREAK * radii / lengths)[:, None]
        for frame in np.flatnonzero(actor.path.present):
            turn = _turn(actor, int(frame)) * radii[frame]
            contours = [contour @ turn.T + centres[frame] for contour in look.contours]
            rows[frame][number] = cover(contours, scene.height, scene.width, streaks[frame])
    return rows


def _turn(actor: Actor, frame: int) -> np.ndarray:
    """The rotation matrix (2, 2) of an object in a frame."""
    angle = actor.tilt + actor.path.angle[frame]
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def paint(
    random: Random, scene: Scene, looks: list[Look], patches: list[list[Patch | None]], lens: Lens
) -> tuple[np.ndarray, str]:
    """Draws the frames, (T, H, W, 3) uint8 RGB, and returns them with the kind of the background."""
    height, width, frames = scene.height, scene.width, scene.frames
    kind, canvas = draw_background(random, height, width, np.stack([look.colour for look in looks]))
    gains = _gains(random, lens.light, frames)
    tint = random.uniform(0.96, 1.04, size=3).astype(np.float32) if lens.light != "still" else np.ones(3, np.float32)
    grain = random.normal(0, lens.noise, size=(height + 16, width + 16, 3)).astype(np.float32) if lens.noise else None
    spots = [place(scene, actor) for actor in scene.actors]
    result = np.empty((frames, height, width, 3), np.uint8)
    for frame in range(frames):
        picture = _seen_background(scene, canvas, frame)
        for number, (actor, look) in enumerate(zip(scene.actors, looks, strict=True)):
            patch = patches[frame][number]
            if patch is not None:
                centres, radii = spots[number]
                _blend(picture, patch, look, _turn(actor, frame) * radii[frame], centres[frame])
        picture *= tint * gains[frame]
        if lens.blur:
            picture = cv2.GaussianBlur(picture, (0, 0), lens.blur * min(height, width))
        if grain is not None:
            top, left = random.integers(0, 17, size=2)
            picture += grain[top : top + height, left : left + width]
        np.clip(picture + np.float32(0.5), 0, 255, out=picture)
        result[frame] = picture
    return result, kind


def _seen_background(scene: Scene, canvas: np.ndarray, frame: int) -> np.ndarray:
    """The part of the canvas that the camera shows in a frame, (H, W, 3) float32."""
    height, width = scene.height, scene.width
    margin = margin_pixels(height, width)
    if scene.camera.kind == "still":
        return canvas[margin : margin + height, margin : margin + width].copy()
    shift = scene.camera.shift[frame] * min(height, width)
    middle = np.array([width, height]) / 2
    scale = 1 / scene.camera.zoom[frame]
    # the origin of OpenCV is the centre of the first pixel, that of this program is its corner
    offset = (0.5 - middle) * scale + middle + shift + margin - 0.5
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    seen: np.ndarray = cv2.warpAffine(
        canvas, matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )
    return seen


def _blend(picture: np.ndarray, patch: Patch, look: Look, turn: np.ndarray, centre: np.ndarray) -> None:
    """Blends an object's texture into the picture, in place, in proportion to its coverage."""
    below = picture[patch.window]
    if look.texture == "plain":
        colours = look.colour
    else:
        height, width = patch.coverage.shape
        per_radius = _TEXTURE_PIXELS / (2 * _TEXTURE_REACH)
        back = np.linalg.inv(turn) * per_radius
        origin = np.array([patch.left + 0.5, patch.top + 0.5]) - centre
        offset = back @ origin + _TEXTURE_PIXELS / 2 - 0.5
        colours = cv2.warpAffine(
            look.image,
            np.concatenate([back, offset[:, None]], axis=1),
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    below += (colours - below) * patch.coverage[:, :, None]


def _gains(random: Random, light: str, frames: int) -> np.ndarray:
    """The factor (T,) float32 on the brightness of each frame."""
    time = np.linspace(0, 1, frames)
    if light == "ramp":
        begin, end = random.uniform(0.82, 1.12, size=2)
        gains = begin + (end - begin) * time
    elif light == "flicker":
        gains = 1 + random.uniform(0.04, 0.1) * np.sin(2 * np.pi * (random.uniform(1, 4) * time + random.random()))
    else:
        gains = np.ones(frames)
    factors: np.ndarray = gains.astype(np.float32)
    return factors
