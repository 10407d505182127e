"""The conversation that Sa2VA reads: its pictures, the user's text, and the positions of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from vrshq.operators.models.sa2va.pictures import MERGE, Picture

SEG = "[SEG]"
IMAGE_TAG = "<image>"
START = "<|im_start|>user\n"
PICTURE = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
END = "<|im_end|>\n<|im_start|>assistant\n"

Positions = tuple[list[int], list[int], list[int]]


@dataclass(frozen=True)
class Prefix:
    """The part of a prompt that all instructions on the same frames share.

    Attributes:
        ids: token ids.
        positions: of each token along time, height and width.
        is_picture: whether each token stands for a part of a picture.
    """

    ids: list[int]
    positions: Positions
    is_picture: list[bool]

    @property
    def next_position(self) -> int:
        """The position of the first token after it, in all three rows."""
        return max(row[-1] for row in self.positions) + 1


class Conversation:
    """Renders prompts as the published chat template does, and reads answers.

    Args:
        tokenizer: `tokenizer.json` of the model.
    """

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self.seg_id = self._id(SEG)

    def prefix(self, pictures: Sequence[Picture]) -> Prefix:
        """The start of the user's turn and the frames, as single pictures without times."""
        before, pad, after = (self._id(token) for token in PICTURE)
        ids = self._encode(START)
        is_picture = [False] * len(ids)
        rows: Positions = (list(range(len(ids))), list(range(len(ids))), list(range(len(ids))))
        for one in pictures:
            _count_on(rows)
            begin, width = rows[0][-1] + 1, one.grid[2] // MERGE
            rows[0].extend([begin] * one.tokens)
            rows[1].extend(begin + place // width for place in range(one.tokens))
            rows[2].extend(begin + place % width for place in range(one.tokens))
            _count_on(rows)
            ids += [before, *[pad] * one.tokens, after]
            is_picture += [False, *[True] * one.tokens, False]
        return Prefix(ids, rows, is_picture)

    def suffix(self, text: str) -> list[int]:
        """The rest of the prompt: the text as it is, without image tags, and the start of the answer."""
        return self._encode(text.replace(IMAGE_TAG, "") + END)

    def answer(self, ids: Sequence[int]) -> str:
        """The text of generated tokens, special ones included."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no token {token}; expected that of a Sa2VA model on Qwen3-VL")
        return int(found)


def _count_on(rows: Positions) -> None:
    """Adds a token of text: in all rows one more than the largest position so far, which is among the last ones."""
    position = max(row[-1] for row in rows) + 1
    for row in rows:
        row.append(position)


def benchmark_text(expression: str) -> str:
    """The question that the reference's benchmark script asks for an expression."""
    if "?" in expression:
        return f"{IMAGE_TAG}\n {expression} Please respond with a segmentation mask."
    return f"{IMAGE_TAG}\nPlease segment {expression}."
