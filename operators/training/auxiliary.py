"""Training-only parts of a model from scratch: oracle prompts, and heads that read names, places and motion.

No bundle for inference holds them. The heads read the vision tower, SAM2's features, the LLaMA's states at the frames'
tokens, and [SEG] and [TAK].

Shape letters: O objects, E instructions, n frames, N places of a feature map, K tokens of a frame, d width of [SEG].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrshq.operators.models.preprocess import View
from vrshq.operators.synth.judging import MAYBE, YES
from vrshq.operators.training.clip import COLOUR_NAMES, DEEDS, SHAPE_NAMES, Objects
from vrshq.operators.training.places import DenseLabels, meant_places, paces, seen_places
from vrshq.operators.training.queries import Queries, meant_queries, simplest

DOER_WEIGHT = 4.0  # of an object that does a deed against one that does not: most deeds are done by one object in eight


@dataclass(frozen=True, eq=False)
class NamedPlaces:
    """How well the places of a feature map are named. Both values are scalars.

    Attributes:
        loss: mean cross entropy of colours and shapes.
        right: share of the objects' places whose shape is named right, each object with equal weight; NaN without objects.
    """

    loss: Tensor
    right: Tensor


class Auxiliary(nn.Module):
    """Oracle prompts and the training-only heads.

    Args:
        prompt: width of [SEG] and [TAK].
        tower: width of the vision tower's patches.
        image: width of SAM2's feature maps.
        text: width of the LLaMA's states.
        waves: (2, prompt / 2), the random frequencies of SAM2's position encoding, so that oracle prompts use SAM2's own
            code of places.
    """

    waves: Tensor

    def __init__(self, prompt: int, tower: int, image: int, text: int, waves: Tensor) -> None:
        super().__init__()
        colours, shapes = len(COLOUR_NAMES), len(SHAPE_NAMES)
        self.colour = nn.Embedding(colours + 1, prompt)  # the last row is for UNKNOWN
        self.shape = nn.Embedding(shapes + 1, prompt)
        self.nothing = nn.Parameter(torch.randn(prompt))
        self.register_buffer("waves", waves.clone())
        self.way = nn.Sequential(nn.Linear(5 + prompt, 128), nn.ReLU(), nn.Linear(128, prompt))
        self.place = nn.Linear(prompt, prompt)
        nn.init.eye_(self.place.weight)  # a point prompt of SAM is the code of its place
        names = colours + shapes + 2  # one more of both for the background
        self.on_tower = nn.Linear(tower, names)
        self.on_image = nn.Linear(image, names)
        self.on_tak = nn.Linear(prompt, colours + shapes + 1)  # the last one: whether the instruction means anything
        self.on_seg = nn.Linear(prompt, 4)  # x, y, radius, whether it is visible
        self.place_on_tower = nn.Linear(tower, 3)  # its own x, y, and the radius of the object there
        self.centre_on_tower = nn.Linear(tower, 2)  # x, y of the object there
        self.on_frames = nn.Linear(text, 4)  # x, y of the object there, and its displacement x, y
        self.on_pace = nn.Linear(text, 4)  # `paces` of the object there
        self.on_deeds = nn.Linear(text, len(DEEDS))

    def oracle(self, queries: Queries) -> Tensor:
        """The embeddings (E, prompt) of queries in SAM2's prompt space."""
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
        """How well a head names colour and shape at each place of a feature map; objects and background weigh the same.

        Args:
            head: `on_tower` or `on_image`.
            features: (n, N, width).
            labels: of the n * N places.
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
            # shapes are much harder than colours
            named = 2 * (shapes * weight).sum() / weight.sum()
            parts.append(named + colours[filled].mean() if filled.any() else named)
        right = (logits[:, split:].argmax(1) == shape) * weight
        return NamedPlaces(torch.stack(parts).mean(), right.sum() / weight.sum())

    def place_loss(self, patches: Tensor, labels: DenseLabels, view: View) -> Tensor:
        """Loss of the place of each of the tower's patches (n, N, width) and of the radius of the object on it.

        Naming the object at a place does not need the place itself: no linear map reads x and y from a tower that learned
        names alone.
        """
        down, across = (
            (torch.arange(count, device=patches.device) + 0.5) / count for count in (view.rows, view.columns)
        )
        centres = torch.cartesian_prod(down, across).flip(1)
        predicted: Tensor = self.place_on_tower(patches).float()
        radius = labels.radius.to(patches.device).view(predicted.shape[:-1])
        away = F.smooth_l1_loss(
            predicted[..., :2], centres.expand_as(predicted[..., :2]), beta=0.1, reduction="none"
        ).mean(-1)
        filled = radius > 0
        if not filled.any():
            return 4 * away.mean()
        # patches on objects are few and diverse: a mean over all patches would be dominated by the background
        loss = away[filled].mean() + F.smooth_l1_loss(predicted[..., 2][filled], radius[filled], beta=0.1)
        if not filled.all():
            loss = loss + away[~filled].mean()
        return 4 * loss

    def centre_loss(self, patches: Tensor, labels: DenseLabels) -> Tensor:
        """Loss of the object's centre, read from each of the tower's patches (n, N, width) on an object.

        A patch that knows only its own place does not see an object move by a twentieth of a frame between two frames, as
        other patches show the object then.
        """
        filled = labels.radius.to(patches.device) > 0
        predicted: Tensor = self.centre_on_tower(patches).float().flatten(0, 1)[filled]
        if not len(predicted):
            return patches.sum() * 0
        return 8 * F.smooth_l1_loss(predicted, labels.centre.to(patches.device)[filled], beta=0.02)

    def travel_loss(self, states: Tensor, own: Tensor, objects: Objects, view: View) -> Tensor:
        """Loss of the object's place, and of its displacement from its mean place in earlier frames, at the frames' tokens.

        An instruction's tokens can choose by motion only if some state holds the motion. The targets of [SEG] and [TAK] alone
        hardly teach that; a target at every token of every frame does.

        Args:
            states: (n, K, text), of the LLaMA.
            own: (O, n, K) bool, the tokens on each object.
            objects: of the clip.
            view: of the tower.
        """
        predicted: Tensor = self.on_frames(states).float()
        on_any = own.any(0)
        if not on_any.any():
            return predicted.sum() * 0
        number, frame = _places_of_tokens(own)
        places = torch.from_numpy(seen_places(objects, view)).to(predicted.device)
        shown = torch.from_numpy(objects.masks.any((2, 3))).to(predicted.device)
        earlier = torch.zeros_like(places[:, :, 0])  # (O, n), the number of earlier frames that show the object
        earlier[:, 1:] = shown.cumsum(1)[:, :-1]
        total = torch.zeros_like(places)
        total[:, 1:] = (places * shown[..., None]).cumsum(1)[:, :-1]
        come = (places - total / earlier.clamp(min=1)[..., None])[number, frame]
        loss = 4 * F.smooth_l1_loss(predicted[..., :2][on_any], places[number, frame][on_any], beta=0.1)
        known = on_any & shown[number, frame] & (earlier[number, frame] > 0)
        if known.any():
            # displacements are a fraction of places
            loss = loss + F.smooth_l1_loss(5 * predicted[..., 2:][known], 5 * come[known], beta=0.5)
        return loss

    def pace_loss(self, states: Tensor, own: Tensor, objects: Objects, view: View) -> Tensor:
        """Loss of the object's `paces` (speed, size, visible share) at the frames' tokens.

        "Fastest", "still", "smallest" or "hidden" compare these quantities between objects; none of them is linear in a place.
        The first frame that shows an object has no step.

        Args:
            states: (n, K, text), of the LLaMA.
            own: (O, n, K) bool, the tokens on each object.
            objects: of the clip.
            view: of the tower.
        """
        predicted: Tensor = self.on_pace(states).float()
        on_any = own.any(0)
        if not on_any.any():
            return predicted.sum() * 0
        number, frame = _places_of_tokens(own)
        truth, before = (torch.from_numpy(part).to(predicted.device) for part in paces(objects, view))
        truth, before = truth[number, frame], before[number, frame]
        away = F.smooth_l1_loss(2 * predicted, 2 * truth, beta=0.2, reduction="none")
        known = torch.stack([before, before, on_any, on_any], dim=-1) & on_any[..., None]
        loss = predicted.sum() * 0
        for part in range(4):
            if known[..., part].any():
                loss = loss + away[..., part][known[..., part]].mean()
        return loss

    def deeds_loss(self, states: Tensor, own: Tensor, objects: Objects) -> Tensor:
        """Loss of the object's actions (`DEEDS`, in equal weight) at the frames' tokens; arguable verdicts are left out.

        A token that holds an action of its object, as it holds the colour, can be found like a colour. Tokens do not see
        later frames, so those of early frames can only tell the likely action.

        Args:
            states: (n, K, text), of the LLaMA.
            own: (O, n, K) bool, the tokens on each object.
            objects: of the clip.
        """
        predicted: Tensor = self.on_deeds(states).float()
        truth = torch.from_numpy(objects.deeds).to(predicted.device)[own.float().argmax(0)]  # (n, K, deeds)
        known = own.any(0)[..., None] & (truth != MAYBE)
        weights = torch.full((len(DEEDS),), DOER_WEIGHT, device=predicted.device)
        each = F.binary_cross_entropy_with_logits(
            predicted, (truth == YES).float(), reduction="none", pos_weight=weights
        )
        judged = known.any((0, 1))
        if not judged.any():
            return predicted.sum() * 0
        return ((each * known).sum((0, 1)) / known.sum((0, 1)).clamp(min=1))[judged].mean()

    def token_loss(self, seg: Tensor, tak: Tensor, objects: Objects, view: View) -> Tensor:
        """Loss of colour, shape and presence, read from [TAK] (E, d), and of place and visibility, from [SEG] (E, n, d)."""
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
        places, shown = (part.to(tak.device)[known] for part in meant_places(objects, view))
        visible = shown.float()
        predicted: Tensor = self.on_seg(seg[known]).float()
        distance = F.smooth_l1_loss(predicted[..., :3], places, reduction="none", beta=0.1).mean(-1)
        loss = loss + 4 * (distance * visible).sum() / visible.sum().clamp(min=1)
        return loss + 0.5 * F.binary_cross_entropy_with_logits(predicted[..., 3], visible)

    def tak_place_loss(self, tak: Tensor, objects: Objects, view: View) -> Tensor:
        """Loss of the object's place, read from [TAK] (E, d) by the head of [SEG]; the nearest visible frame counts.

        [TAK] makes up nine tenths of SAM2's prompt: SAM2 hardly learns to follow properties that [TAK] does not hold.
        """
        queries, single = meant_queries(objects)
        known = torch.from_numpy(single & ~queries.nothing)
        places, shown = meant_places(objects, view)
        known &= shown.any(1)
        if not known.any():
            return tak.sum() * 0
        places, shown, known = (part.to(tak.device) for part in (places[known], shown[known], known))
        predicted: Tensor = self.on_seg(tak[known]).float()[:, None, :2].expand_as(places[..., :2])
        away = F.smooth_l1_loss(predicted, places[..., :2], reduction="none", beta=0.1).mean(-1)
        return 4 * away.masked_fill(~shown, torch.inf).amin(1).mean()

    def tak_presence_loss(self, tak: Tensor, objects: Objects) -> Tensor:
        """Loss of presence, read from [TAK] (E, d); present and absent instructions have equal weight in the sum."""
        present = torch.from_numpy(objects.meant.any(1)).to(tak.device)
        each = F.binary_cross_entropy_with_logits(self.on_tak(tak).float()[:, -1], present.float(), reduction="none")
        return torch.stack([each[part].mean() for part in (present, ~present) if part.any()]).mean()

    @torch.no_grad()
    def told(self, tak: Tensor, objects: Objects, view: View) -> np.ndarray:
        """The object (E,) int64 that each [TAK] (E, d) describes, by colour, shape, and place in the nearest visible frame.

        A distance of a tenth of a side counts like a factor of e in the likelihood of the name.
        """
        named, predicted = self.on_tak(tak).float(), self.on_seg(tak).float()[:, :2]
        colour, shape, _ = named.split([len(COLOUR_NAMES), len(SHAPE_NAMES), 1], dim=1)
        likely = colour.log_softmax(1)[:, objects.colours] + shape.log_softmax(1)[:, objects.shapes]
        places = torch.from_numpy(seen_places(objects, view)).to(tak.device)
        hidden = ~torch.from_numpy(objects.masks.any((2, 3))).to(tak.device)
        away = (predicted[:, None, None] - places).norm(dim=-1).masked_fill(hidden, torch.inf).amin(2)
        best: np.ndarray = (likely - 10 * away).argmax(1).cpu().numpy()
        return best

    def oracle_loss(self, seg: Tensor, tak: Tensor, objects: Objects) -> Tensor:
        """Mean squared distance of [TAK] (E, d) and each [SEG] (E, n, d) from the oracle's embedding of the `simplest` query.

        The embedding gets no gradient.
        """
        queries, single = meant_queries(objects)
        known = torch.from_numpy(single).to(tak.device)
        if not known.any():
            return tak.sum() * 0
        target = self.oracle(simplest(queries, objects)).detach()[known]
        return F.mse_loss(tak[known].float(), target) + 0.2 * F.mse_loss(
            seg[known].float(), target[:, None].expand_as(seg[known])
        )


def _places_of_tokens(own: Tensor) -> tuple[Tensor, Tensor]:
    """Number (n, K) of the object under each token (0 for none) and frame number (n, 1), from `own` (O, n, K) bool."""
    return own.float().argmax(0), torch.arange(own.shape[1], device=own.device)[:, None]
