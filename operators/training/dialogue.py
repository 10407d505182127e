"""Token ids with labels: which of them the cross entropy is taken of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vrshq.operators.models.config import IMAGE_TOKEN
from vrshq.operators.models.vrs_hq.prompt import SYSTEM, Prompt, PromptTokenizer, conversation
from vrshq.operators.training.losses import IGNORED

ASSISTANT = " ASSISTANT:"


@dataclass(frozen=True)
class Dialogue:
    """`input_ids` (L) with `IMAGE_TOKEN` once for each frame, all before the first label; `labels` (L), `IGNORED` or an id."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


def answer_labels(tokenizer: PromptTokenizer, text: str, prompt: Prompt, words: str = "") -> tuple[int, ...]:
    """Labels (L) of a normalised instruction's prompt: the ids of the answer, `IGNORED` for what comes before it."""
    question = conversation(text, words).partition(ASSISTANT)[0].partition("<video>")[2] + ASSISTANT
    start = prompt.prefix_length + len(tokenizer.pieces.encode(question))
    return (*[IGNORED] * start, *prompt.input_ids[start:])


def encode_dialogue(
    tokenizer: PromptTokenizer, turns: Sequence[tuple[str, str]], num_frames: int, limit: int
) -> Dialogue:
    """A dialogue about frames in LLaVA's v1 style: all frames first, numbered, labels on the answers and the end after each.

    What a text holds besides words is data: "<image>" in it is dropped, special tokens are read as text. At most `limit`
    rows of the model are used (recipe: 2048); what is beyond is cut.
    """
    pieces = tokenizer.pieces
    ids = [pieces.bos_id()]
    for number in range(num_frames):
        ids += [*pieces.encode(f", ({number})" if number else f"{SYSTEM} USER: (0)"), IMAGE_TOKEN]
    labels = [IGNORED] * len(ids)
    for number, (question, answer) in enumerate(turns):
        begin = " USER: " if number else "\n"
        asked = pieces.encode(f"{begin}{_plain(question)}{ASSISTANT}")
        said = [*pieces.encode(_plain(answer)), pieces.eos_id()]
        ids, labels = [*ids, *asked, *said], [*labels, *[IGNORED] * len(asked), *said]
    room = limit - (tokenizer.tokens_per_image - 1) * num_frames
    return Dialogue(tuple(ids[:room]), tuple(labels[:room]))


def _plain(text: str) -> str:
    return " ".join(text.replace("<image>", " ").replace("<video>", " ").split())
