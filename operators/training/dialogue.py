"""Token ids with labels, which select the tokens that enter the cross entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vrshq.operators.models.config import IMAGE_TOKEN
from vrshq.operators.models.vrs_hq.prompt import SYSTEM, Prompt, PromptTokenizer, conversation
from vrshq.operators.training.losses import IGNORED

ASSISTANT = " ASSISTANT:"


@dataclass(frozen=True)
class Dialogue:
    """A tokenised dialogue about frames.

    Attributes:
        input_ids: (L) token ids, with one `IMAGE_TOKEN` for each frame, all before the first label.
        labels: (L) the token's id where it enters the cross entropy, else `IGNORED`.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


def answer_labels(tokenizer: PromptTokenizer, text: str, prompt: Prompt, words: str = "") -> tuple[int, ...]:
    """The labels (L) of an instruction's prompt: the ids of the answer, and `IGNORED` before it.

    Args:
        tokenizer: the tokenizer that made `prompt`.
        text: the normalised instruction.
        prompt: the tokenised instruction.
        words: the text of the answer after the masks, as given to `PromptTokenizer.encode`.
    """
    question = conversation(text, words).partition(ASSISTANT)[0].partition("<video>")[2] + ASSISTANT
    start = prompt.prefix_length + len(tokenizer.pieces.encode(question))
    return (*[IGNORED] * start, *prompt.input_ids[start:])


def encode_dialogue(
    tokenizer: PromptTokenizer, turns: Sequence[tuple[str, str]], num_frames: int, limit: int
) -> Dialogue:
    """Tokenises a dialogue about frames in LLaVA's conversation style v1.

    The numbered frames come first. The labels cover each answer and the end token after it. Texts are data: "<image>" and
    "<video>" in a text are dropped, and special tokens are read as plain text.

    Args:
        tokenizer: the MLLM's tokenizer.
        turns: (question, answer) pairs.
        num_frames: number of frames.
        limit: the most rows in the model's sequence (recipe: 2048); the rest is cut off.
    """
    pieces = tokenizer.pieces
    ids = [pieces.bos_id()]
    for number in range(num_frames):
        ids += [*pieces.encode(f", ({number})" if number else f"{SYSTEM} USER: (0)"), IMAGE_TOKEN]
    labels = [IGNORED] * len(ids)
    for number, (question, answer) in enumerate(turns):
        begin = " USER: " if number else "\n"
        question_ids = pieces.encode(f"{begin}{_plain(question)}{ASSISTANT}")
        answer_ids = [*pieces.encode(_plain(answer)), pieces.eos_id()]
        ids, labels = [*ids, *question_ids, *answer_ids], [*labels, *[IGNORED] * len(question_ids), *answer_ids]
    room = limit - (tokenizer.tokens_per_image - 1) * num_frames
    return Dialogue(tuple(ids[:room]), tuple(labels[:room]))


def _plain(text: str) -> str:
    """A text without placeholders for frames, its white space collapsed."""
    return " ".join(text.replace("<image>", " ").replace("<video>", " ").split())
