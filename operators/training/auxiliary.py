"""What a model that is trained from nothing needs beside the masks; none of it is in a bundle.

Oracle prompts say what is meant in SAM2's prompt space, so that SAM2 can learn before the language model does, and are then
the language model's target. Heads on the tower, on SAM2's features and on [SEG] and [TAK] learn names and places.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrshq.operators.models.preprocess import View
from vrshq.operators.synth.judging import MAYBE, YES
from vrshq.operators.training.clip import COLOUR_NAMES, DEEDS, SHAPE_NAMES, Objects

UNKNOWN = -1  # a colour or shape that a query does not name
DOER_WEIGHT = 4.0  # of the object that does a deed against one that does not: most deeds are done by one in eight
KEEP_COLOUR, KEEP_SHAPE, KEEP_PLACE = 0.6, 0.5, 0.5  # chances that a query names it


@dataclass(frozen=True, eq=False)
class Queries:
    """E queries: `colours`, `shapes` (E,) int64 or `UNKNOWN`, `ways` (E, 5) float32, `placed` (E,) bool, `nothing` (E,) bool.

    A way is the mean x, y and radius of an object over the clip and how far it moves from its beginning to its end, in
    sides of the square that SAM2 sees.
    """

    colours: np.ndarray
    shapes: np.ndarray
    ways: np.ndarray
    placed: np.ndarray
    nothing: np.ndarray


def ways(objects: Objects) -> np.ndarray:
    """(O, 5) float32: see `Queries`."""
    height, width = objects.masks.shape[-2:]
    long = max(height, width)
    scale = np.array([width / long, height / long, min(height, width) / long], np.float32)
    places = objects.places * scale
    return np.concatenate([places.mean(1), places[:, -1, :2] - places[:, 0, :2]], axis=1)


def paces(objects: Objects, view: View) -> tuple[np.ndarray, np.ndarray]:
    """(O, n, 4) float32: diagonal around the places so far, step from the last place, radius (times 4), share that shows; the
    first two in sides of the square that is as large as what the tower sees. And (O, n) bool, whether a frame before shows
    the object.
    """
    shown = np.asarray(objects.masks.any((2, 3)))
    area = objects.masks.sum((2, 3)) / np.maximum(objects.places[..., 2], 1e-6) ** 2
    result = np.zeros((*shown.shape, 4), np.float32)
    before = np.zeros(shown.shape, bool)
    sides = np.array([view.width, view.height], np.float32) / (view.width * view.height) ** 0.5
    for number, places in enumerate(seen_places(objects, view) * sides):
        seen = np.flatnonzero(shown[number])
        for last, frame in itertools.pairwise(seen):
            so_far = places[seen[seen <= frame]]
            result[number, frame, :2] = (
                np.linalg.norm(np.ptp(so_far, axis=0)),
                np.linalg.norm(places[frame] - places[last]),
            )
            before[number, frame] = True
    result[..., 2] = 4 * objects.places[..., 2]
    result[..., 3] = area / np.maximum(area.max(1, keepdims=True), 1e-6)
    return result, before


def draw_queries(objects: Objects, random: np.random.Generator) -> tuple[Queries, np.ndarray]:
    """A query for each object, two that fit nothing, and the masks (E, n, H, W) that answer them.

    A query that names no place means every object of its colour and shape.
    """
    count = len(objects.colours)
    colours, shapes, placed = objects.colours.copy(), objects.shapes.copy(), random.random(count) < KEEP_PLACE
    colours[random.random(count) > KEEP_COLOUR] = UNKNOWN
    shapes[random.random(count) > KEEP_SHAPE] = UNKNOWN
    bare = (colours == UNKNOWN) & (shapes == UNKNOWN) & ~placed
    colours[bare] = objects.colours[bare]
    fits = ((colours[:, None] == objects.colours) | (colours[:, None] == UNKNOWN)) & (
        (shapes[:, None] == objects.shapes) | (shapes[:, None] == UNKNOWN)
    )
    fits = np.where(placed[:, None], np.eye(count, dtype=bool), fits)
    there = set(zip(objects.colours.tolist(), objects.shapes.tolist(), strict=True))
    absent = [(c, s) for c in range(len(COLOUR_NAMES)) for s in range(len(SHAPE_NAMES)) if (c, s) not in there]
    # near misses: one of them shares a colour or a shape with an object
    near = [pair for pair in absent if pair[0] in objects.colours or pair[1] in objects.shapes]
    chosen = [near[random.integers(len(near))], None]
    missing = np.array([pair or (UNKNOWN, UNKNOWN) for pair in chosen])
    queries = Queries(
        np.concatenate([colours, missing[:, 0]]),
        np.concatenate([shapes, missing[:, 1]]),
        np.concatenate([ways(objects), np.zeros((2, 5), np.float32)]),
        np.concatenate([placed, [False, False]]),
        np.concatenate([np.zeros(count, bool), [False, True]]),
    )
    masks = np.stack([objects.masks[row].any(0) for row in fits])
    return queries, np.concatenate([masks, np.zeros((2, *masks.shape[1:]), bool)])


def seen_places(objects: Objects, view: View) -> np.ndarray:
    """(O, n, 2) float32: x and y of the centres in what the tower sees: 0 to 1 inside."""
    height, width = objects.masks.shape[-2:]
    places = objects.places[..., :2] * np.array([width, height], np.float32)
    return (places - np.array([view.left, view.top], np.float32)) / np.array([view.width, view.height], np.float32)


def padded_view(height: int, width: int, side: int) -> View:
    """What SAM2 sees of a frame, padded right and below to a square, on a grid of side x side places."""
    long = max(height, width)
    return View(0, 0, long, long, side, side)


def _ways_meant(objects: Objects, view: View) -> tuple[Tensor, Tensor]:
    """Of the first object that each instruction means: x, y as the tower sees them and radius (E, n, 3) float32, and whether it
    shows (E, n) bool.
    """
    first = objects.meant.argmax(1)
    places = np.concatenate([seen_places(objects, view), objects.places[..., 2:]], axis=2)
    return torch.from_numpy(places[first]), torch.from_numpy(objects.masks[first].any((2, 3)))


def meant_queries(objects: Objects) -> tuple[Queries, np.ndarray]:
    """What each instruction means, as a query with all that is known, and (E,) bool: whether it means at most one object."""
    number = objects.meant.sum(1)
    first = objects.meant.argmax(1)
    nothing: np.ndarray = number == 0
    queries = Queries(
        np.where(nothing, UNKNOWN, objects.colours[first]),
        np.where(nothing, UNKNOWN, objects.shapes[first]),
        ways(objects)[first],
        ~nothing,
        nothing,
    )
    return queries, number <= 1


def simplest(queries: Queries, objects: Objects) -> Queries:
    """Queries for one object of a clip each, of which only the colour is kept where no other object has it.

    Such a prompt is the one that SAM2 follows best; more is said only where it is needed.
    """
    alone = (queries.colours[:, None] == objects.colours).sum(1) == 1
    return replace(queries, shapes=np.where(alone, UNKNOWN, queries.shapes), placed=queries.placed & ~alone)


def _places_of_tokens(own: Tensor) -> tuple[Tensor, Tensor]:
    """Of tokens `own` (O, n, K) bool: the number (n, K) of the object that each lies on (0 for none), and its frame (n, 1)."""
    return own.float().argmax(0), torch.arange(own.shape[1], device=own.device)[:, None]


class Auxiliary(nn.Module):
    """Oracle prompts and training-only heads. Widths: `prompt` of [SEG] and [TAK], `tower` and `image` of feature maps,
    `text` of the LLaMA.

    `waves` (2, prompt / 2): the random frequencies by which SAM2 encodes places, so that a prompt can speak its language.
    """

    waves: Tensor

    def __init__(self, prompt: int, tower: int, image: int, text: int, waves: Tensor) -> None:
        super().__init__()
        colours, shapes = len(COLOUR_NAMES), len(SHAPE_NAMES)
        self.colour = nn.Embedding(colours + 1, prompt)  # the last one is for UNKNOWN
        self.shape = nn.Embedding(shapes + 1, prompt)
        self.nothing = nn.Parameter(torch.randn(prompt))
        self.register_buffer("waves", waves.clone())
        self.way = nn.Sequential(nn.Linear(5 + prompt, 128), nn.ReLU(), nn.Linear(128, prompt))
        self.place = nn.Linear(prompt, prompt)
        nn.init.eye_(self.place.weight)  # a point prompt of SAM is its place's code
        names = colours + shapes + 2  # one more of each for the background
        self.on_tower = nn.Linear(tower, names)
        self.on_image = nn.Linear(image, names)
        self.on_tak = nn.Linear(prompt, colours + shapes + 1)  # the last one: whether anything is meant
        self.on_seg = nn.Linear(prompt, 4)  # x, y, radius, whether it is visible
        self.place_on_tower = nn.Linear(tower, 3)  # its own x, y, and the radius of the object there
        self.centre_on_tower = nn.Linear(tower, 2)  # x, y of the object there
        self.on_frames = nn.Linear(text, 4)  # x, y of the object there, and how far it has come
        self.on_pace = nn.Linear(text, 4)  # `paces` of the object there
        self.on_deeds = nn.Linear(text, len(DEEDS))

    def oracle(self, queries: Queries) -> Tensor:
        """(E, prompt): the embedding that says what a query means."""
        device = self.nothing.device
        colours, shapes = (torch.from_numpy(item).to(device) for item in (queries.colours, queries.shapes))
        way = torch.from_numpy(queries.ways).to(device)
        # as in SAM's PositionEmbeddingRandom
        angles = 2 * torch.pi * ((2 * way[:, :2] - 1) @ self.waves)
        place = torch.cat([angles.sin(), angles.cos()], dim=1)
        placed = torch.from_numpy(queries.placed).to(device)[:, None]
        known = self.colour(colours % self.colour.num_embeddings) + self.shape(shapes % self.shape.num_embeddings)
        meant = known + (self.place(place) + self.way(torch.cat([way, place], dim=1))) * placed
        return torch.where(torch.from_numpy(queries.nothing).to(device)[:, None], self.nothing, meant)

    def name_places(self, head: nn.Linear, features: Tensor, labels: DenseLabels) -> NamedPlaces:
        """How well colour and shape are named at each place of a feature map, objects and background in equal weight.

        Args:
            head: `on_tower` or `on_image`.
            features: (n, N, width). labels: of its places.
        """
        colour, shape, weight = (part.to(features.device) for part in (labels.colour, labels.shape, labels.weight))
        logits = head(features).flatten(0, 1).float()
        split = len(COLOUR_NAMES) + 1
        colours = F.cross_entropy(logits[:, :split], colour, reduction="none")
        shapes = F.cross_entropy(logits[:, split:], shape, reduction="none")
        filled, touched = colour < len(COLOUR_NAMES), shape < len(SHAPE_NAMES)
        parts = []
        if not touched.all():
            parts.append((colours + 2 * shapes)[~touched].mean())
        if touched.any():
            # shapes are by far the harder ones
            named = 2 * (shapes * weight).sum() / weight.sum()
            parts.append(named + colours[filled].mean() if filled.any() else named)
        right = (logits[:, split:].argmax(1) == shape) * weight
        return NamedPlaces(torch.stack(parts).mean(), right.sum() / weight.sum())

    def place_loss(self, patches: Tensor, labels: DenseLabels, view: View) -> Tensor:
        """How well each of the tower's patches (n, N, width) tells where it lies and how large the object on it is.

        Naming what lies at a place needs no place: of a tower that learned names alone, no linear map tells x and y.
        """
        down, across = (
            (torch.arange(count, device=patches.device) + 0.5) / count for count in (view.rows, view.columns)
        )
        centres = torch.cartesian_prod(down, across).flip(1)
        said = self.place_on_tower(patches).float()
        radius = labels.radius.to(patches.device).view(said.shape[:-1])
        away = F.smooth_l1_loss(said[..., :2], centres.expand_as(said[..., :2]), beta=0.1, reduction="none").mean(-1)
        filled = radius > 0
        if not filled.any():
            return 4 * away.mean()
        # objects are few and look unlike one another: in the mean over all patches, the background alone would learn it
        loss = away[filled].mean() + F.smooth_l1_loss(said[..., 2][filled], radius[filled], beta=0.1)
        if not filled.all():
            loss = loss + away[~filled].mean()
        return 4 * loss

    def centre_loss(self, patches: Tensor, labels: DenseLabels) -> Tensor:
        """How well each of the tower's patches (n, N, width) on an object tells where the whole object's centre is.

        What moves by a twentieth of a frame between two frames is not seen to move by patches that know where they lie
        themselves: other frames show the object on other patches.
        """
        filled = labels.radius.to(patches.device) > 0
        said = self.centre_on_tower(patches).float().flatten(0, 1)[filled]
        if not len(said):
            return patches.sum() * 0
        return 8 * F.smooth_l1_loss(said, labels.centre.to(patches.device)[filled], beta=0.02)

    def travel_loss(self, states: Tensor, own: Tensor, objects: Objects, view: View) -> Tensor:
        """How well the LLaMA's states at the frames' tokens tell where their object is, and how far from its mean place in the
        frames before that show it.

        An instruction's tokens can only choose by motion if something holds it. That a [SEG] or [TAK] is asked for the one
        object that moves so teaches it hardly at all; every token of every frame being asked what it has done does.

        Args:
            states: (n, K, text). own: (O, n, K) bool, the tokens that lie on each object.
        """
        said = self.on_frames(states).float()
        on_any = own.any(0)
        if not on_any.any():
            return said.sum() * 0
        number, frame = _places_of_tokens(own)
        places = torch.from_numpy(seen_places(objects, view)).to(said.device)
        shown = torch.from_numpy(objects.masks.any((2, 3))).to(said.device)
        earlier = torch.zeros_like(places[:, :, 0])  # (O, n), frames before that show it
        earlier[:, 1:] = shown.cumsum(1)[:, :-1]
        total = torch.zeros_like(places)
        total[:, 1:] = (places * shown[..., None]).cumsum(1)[:, :-1]
        come = (places - total / earlier.clamp(min=1)[..., None])[number, frame]
        loss = 4 * F.smooth_l1_loss(said[..., :2][on_any], places[number, frame][on_any], beta=0.1)
        known = on_any & shown[number, frame] & (earlier[number, frame] > 0)
        if known.any():
            # ways are a fraction of what places are
            loss = loss + F.smooth_l1_loss(5 * said[..., 2:][known], 5 * come[known], beta=0.5)
        return loss

    def pace_loss(self, states: Tensor, own: Tensor, objects: Objects, view: View) -> Tensor:
        """How well the LLaMA's states at the frames' tokens tell how fast, large and open their object is.

        What is fastest, still, smallest or hidden is a comparison of these, none of which is linear in a place: the length of
        the diagonal around all places so far that show it, the step from the last one, its radius, and the share of it that
        shows. Frames that show an object for the first time have no step.

        Args:
            states: (n, K, text). own: (O, n, K) bool, the tokens that lie on each object.
        """
        said = self.on_pace(states).float()
        on_any = own.any(0)
        if not on_any.any():
            return said.sum() * 0
        number, frame = _places_of_tokens(own)
        truth, before = (torch.from_numpy(part).to(said.device) for part in paces(objects, view))
        truth, before = truth[number, frame], before[number, frame]
        away = F.smooth_l1_loss(2 * said, 2 * truth, beta=0.2, reduction="none")
        known = torch.stack([before, before, on_any, on_any], dim=-1) & on_any[..., None]
        return sum(
            (away[..., part][known[..., part]].mean() for part in range(4) if known[..., part].any()), said.sum() * 0
        )

    def deeds_loss(self, states: Tensor, own: Tensor, objects: Objects) -> Tensor:
        """How well the LLaMA's states at the frames' tokens tell what their object does in the video: `DEEDS`, each in equal
        weight, where nobody would argue about it.

        A token that says such a thing of its object, as it says its colour, is found as one finds a colour. Tokens see no
        later frame than their own: the first ones can only tell what is likely.

        Args:
            states: (n, K, text). own: (O, n, K) bool, the tokens that lie on each object.
        """
        said = self.on_deeds(states).float()
        truth = torch.from_numpy(objects.deeds).to(said.device)[own.float().argmax(0)]  # (n, K, deeds)
        known = own.any(0)[..., None] & (truth != MAYBE)
        weights = torch.full((len(DEEDS),), DOER_WEIGHT, device=said.device)
        each = F.binary_cross_entropy_with_logits(said, (truth == YES).float(), reduction="none", pos_weight=weights)
        asked = known.any((0, 1))
        if not asked.any():
            return said.sum() * 0
        return ((each * known).sum((0, 1)) / known.sum((0, 1)).clamp(min=1))[asked].mean()

    def token_loss(self, seg: Tensor, tak: Tensor, objects: Objects, view: View) -> Tensor:
        """Colour, shape and presence from [TAK] (E, d), place and visibility in each frame from [SEG] (E, n, d)."""
        queries, single = meant_queries(objects)
        known = torch.from_numpy(single & ~queries.nothing).to(tak.device)
        named, present = self.on_tak(tak).float().split([len(COLOUR_NAMES) + len(SHAPE_NAMES), 1], dim=1)
        is_there = torch.from_numpy(~queries.nothing).to(tak.device).float()
        loss = F.binary_cross_entropy_with_logits(present[:, 0], is_there)
        if not known.any():
            return loss
        colour, shape = named[known].split([len(COLOUR_NAMES), len(SHAPE_NAMES)], dim=1)
        loss = loss + F.cross_entropy(colour, torch.from_numpy(queries.colours).to(tak.device)[known])
        loss = loss + F.cross_entropy(shape, torch.from_numpy(queries.shapes).to(tak.device)[known])
        places, shown = (part.to(tak.device)[known] for part in _ways_meant(objects, view))
        visible = shown.float()
        said = self.on_seg(seg[known]).float()
        distance = F.smooth_l1_loss(said[..., :3], places, reduction="none", beta=0.1).mean(-1)
        loss = loss + 4 * (distance * visible).sum() / visible.sum().clamp(min=1)
        return loss + 0.5 * F.binary_cross_entropy_with_logits(said[..., 3], visible)

    def tak_place_loss(self, tak: Tensor, objects: Objects, view: View) -> Tensor:
        """The place from [TAK] (E, d), by the head that reads it from [SEG]; whichever visible frame's is the nearest counts.

        [TAK] is nine tenths of SAM2's prompt: what it does not tell, SAM2 hardly learns to follow.
        """
        queries, single = meant_queries(objects)
        known = torch.from_numpy(single & ~queries.nothing)
        places, shown = _ways_meant(objects, view)
        known &= shown.any(1)
        if not known.any():
            return tak.sum() * 0
        places, shown, known = (part.to(tak.device) for part in (places[known], shown[known], known))
        said = self.on_seg(tak[known]).float()[:, None, :2].expand_as(places[..., :2])
        away = F.smooth_l1_loss(said, places[..., :2], reduction="none", beta=0.1).mean(-1)
        return 4 * away.masked_fill(~shown, torch.inf).amin(1).mean()

    def tak_presence_loss(self, tak: Tensor, objects: Objects) -> Tensor:
        """Whether [TAK] (E, d) says that anything is meant; those that mean something and those that mean nothing count the
        same.
        """
        present = torch.from_numpy(objects.meant.any(1)).to(tak.device)
        each = F.binary_cross_entropy_with_logits(self.on_tak(tak).float()[:, -1], present.float(), reduction="none")
        return torch.stack([each[part].mean() for part in (present, ~present) if part.any()]).mean()

    @torch.no_grad()
    def told(self, tak: Tensor, objects: Objects, view: View) -> np.ndarray:
        """(E,) int64: the object that each [TAK] (E, d) tells: by its colour, shape, and place in whichever frame is nearest.

        A tenth of a side away counts as much as being e times less likely by name.
        """
        named, said = self.on_tak(tak).float(), self.on_seg(tak).float()[:, :2]
        colour, shape, _ = named.split([len(COLOUR_NAMES), len(SHAPE_NAMES), 1], dim=1)
        likely = colour.log_softmax(1)[:, objects.colours] + shape.log_softmax(1)[:, objects.shapes]
        places = torch.from_numpy(seen_places(objects, view)).to(tak.device)
        hidden = ~torch.from_numpy(objects.masks.any((2, 3))).to(tak.device)
        away = (said[:, None, None] - places).norm(dim=-1).masked_fill(hidden, torch.inf).amin(2)
        best: np.ndarray = (likely - 10 * away).argmax(1).cpu().numpy()
        return best

    def oracle_loss(self, seg: Tensor, tak: Tensor, objects: Objects) -> Tensor:
        """Mean squared distance of [TAK] (E, d) and each [SEG] (E, n, d) from the oracle's embedding, which is not moved.

        The embedding is that of the `simplest` query.
        """
        queries, single = meant_queries(objects)
        known = torch.from_numpy(single).to(tak.device)
        if not known.any():
            return tak.sum() * 0
        target = self.oracle(simplest(queries, objects)).detach()[known]
        return F.mse_loss(tak[known].float(), target) + 0.2 * F.mse_loss(
            seg[known].float(), target[:, None].expand_as(seg[known])
        )


@dataclass(frozen=True, eq=False)
class NamedPlaces:
    """`loss`: mean cross entropy of colours and shapes; `right`: share of the places of objects (each object counts the
    same) whose shape is named right, NaN where there are none. Both ().
    """

    loss: Tensor
    right: Tensor


@dataclass(frozen=True, eq=False)
class DenseLabels:
    """What lies at each of n * N places: `colour` and `shape` int64, one beyond the last name for none; `weight` and
    `radius` float32, 0 where nothing lies; `centre` (n * N, 2) float32, x and y of the object's in sides of the grid.

    A place has the colour of the object that fills at least half of it, and the shape of the one that fills at least a tenth:
    shapes are seen at their borders. Weights are those of shapes: places of one object on one frame sum to 1.
    """

    colour: Tensor
    shape: Tensor
    weight: Tensor
    radius: Tensor
    centre: Tensor


def dense_labels(objects: Objects, view: View) -> DenseLabels:
    """The labels of a view's places, N = rows * columns, row by row. Beyond the frame, in SAM2's padding, lies nothing."""
    masks = objects.masks[..., view.top : view.top + view.height, view.left : view.left + view.width]
    height, width = masks.shape[-2:]
    masks = np.pad(masks, ((0, 0), (0, 0), (0, view.height - height), (0, view.width - width)))
    share = F.interpolate(torch.from_numpy(masks).float(), size=(view.rows, view.columns), mode="area").flatten(2)
    best, number = share.max(0)  # (n, N)
    touched = best >= 0.1
    mine = torch.zeros_like(share, dtype=torch.bool).scatter_(0, number[None], touched[None])
    count = mine.sum(2, keepdim=True).clamp(min=1)
    colour = torch.from_numpy(objects.colours)[number].masked_fill(best < 0.5, len(COLOUR_NAMES))
    shape = torch.from_numpy(objects.shapes)[number].masked_fill(~touched, len(SHAPE_NAMES))
    lies = torch.from_numpy(objects.places)[number, torch.arange(len(number))[:, None]]  # (n, N, 3)
    radii = lies[..., 2].masked_fill(best < 0.5, 0)
    centres = torch.from_numpy(seen_places(objects, view))[number, torch.arange(len(number))[:, None]]
    weight = (mine / count).sum(0)
    return DenseLabels(colour.flatten(), shape.flatten(), weight.flatten(), radii.flatten(), centres.flatten(0, 1))
