"""The MLLM's prompts: question, fixed answer, their expansion to n frames, and the token ids.

Ids follow the "legacy" LLaMA tokenisation, with which the published weights were trained. Transformers' tokenizers give other
ids for these prompts. The instruction's text is data: only the template's own [SEG], [TAK], <image> and </s> become special
ids, whatever the text contains.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from sentencepiece import SentencePieceProcessor

from vrshq.operators.batch import check_text
from vrshq.operators.models.config import IMAGE_TOKEN

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
ANSWER = "Sure, the segmentation result of each frame is [SEG], while for the entire video it is [TAK]."
SENTENCE = "{sent}"  # placeholder of the instruction
_WORDS = "{words}"  # placeholder of the answer's text after the masks, in training alone
_ASK = f"Reference Video: <video> \n{SENTENCE} Please find it in the Reference Video and respond with "
_WHAT_IS = f"Reference Video: <video> \nWhat is {SENTENCE} in the Reference Video? Please respond with "
_EXPLAIN = f"Reference Video: <video> \n{SENTENCE} Please output segmentation mask and explain why."
_MASKS = "segmentation masks for each frame and for the entire video separately."


# Which instructions are questions: "reference" as in the reference, those that end in "?"; "any_script" see `is_question`.
Questions = Literal["reference", "any_script"]
# Marks that stand where the question begins or inside its word, not at its end.
_MARKS_INSIDE = "\u00bf\u2e18\u055e"  # inverted question mark and interrobang, Armenian question mark


def normalize(text: str) -> str:
    """Normalises an instruction for CLIP and the MLLM: lower case, single spaces, no white space at the ends.

    Raises:
        InputError: the text is empty after this, or is not valid Unicode.
    """
    text = " ".join(text.lower().split())
    check_text(text)
    return text


def is_question(sentence: str, rule: Questions = "reference") -> bool:
    """Whether a normalised instruction is a question, which is asked as it is; others are asked for with "What is".

    Args:
        sentence: the normalised instruction.
        rule: "reference": it ends in "?". "any_script": its last character is a question mark of any script (Arabic, Chinese,
            Ethiopic, ...; a semicolon after a Greek letter), or it has a Spanish or Armenian one anywhere. Closing
            quotation marks, brackets, full stops and exclamation marks after it do not count.
    """
    if rule == "reference":
        return sentence.endswith("?")
    if any(mark in sentence for mark in _MARKS_INSIDE):
        return True
    while sentence and _may_follow(sentence[-1]):
        sentence = sentence[:-1]
    if not sentence:
        return False
    if sentence.endswith(";"):  # the Greek question mark, as Unicode normalises it
        return unicodedata.name(sentence[:-1].rstrip()[-1:] or " ", "").startswith("GREEK")
    name = unicodedata.name(sentence[-1], "")
    return "QUESTION MARK" in name or "INTERROBANG" in name


def _may_follow(character: str) -> bool:
    """Whether the character may stand after the mark that ends a sentence: quotation marks, brackets, variation selectors."""
    closing = unicodedata.category(character) in ("Pf", "Pi", "Pe", "Ps", "Mn", "Cf", "Zs")
    return closing or character in "\"'`\u00b4\u2032\u2033.!\u2026\u3002\uff01\uff02\uff07\uff0e"


def question(sentence: str, rule: Questions = "reference") -> str:
    """The user's turn for a normalised instruction; a question is asked as it is."""
    return _question_template(is_question(sentence, rule)).replace(SENTENCE, sentence)


def conversation(sentence: str, words: str = "") -> str:
    """System text, question and fixed answer, before the expansion to frames.

    Args:
        sentence: the normalised instruction.
        words: text after the fixed answer, see `PromptTokenizer.encode`.
    """
    return _fill(_template(is_question(sentence), bool(words)), sentence, words)


def expanded(sentence: str, num_frames: int) -> str:
    """The conversation with one `<image>` and one numbered `[SEG]` for each of `num_frames` frames."""
    return _fill(_expand(_template(is_question(sentence)), num_frames), sentence)


def _question_template(asked: bool) -> str:
    return (_ASK if asked else _WHAT_IS) + _MASKS


def _template(asked: bool, explained: bool = False) -> str:
    if explained:
        return f"{SYSTEM} USER: {_EXPLAIN} ASSISTANT: {ANSWER} {_WORDS}</s>"
    return f"{SYSTEM} USER: {_question_template(asked)} ASSISTANT: {ANSWER}</s>"


def _fill(template: str, sentence: str, words: str = "") -> str:
    """Replaces both placeholders in one pass, so that a placeholder inside one of the texts stays text."""
    given = {SENTENCE: sentence, _WORDS: words}
    return re.sub("|".join(map(re.escape, given)), lambda found: given[found[0]], template)


def _expand(template: str, num_frames: int) -> str:
    images = ", ".join(f"({index})<image>" for index in range(num_frames))
    segs = ", ".join(f"({index}) [SEG]" for index in range(num_frames))
    return template.replace("<video>", images).replace("[SEG]", segs)


@dataclass(frozen=True)
class Prompt:
    """The token ids of one instruction on n frames, and the rows from which its answer is read.

    In the model's sequence, each `IMAGE_TOKEN` becomes `tokens_per_image` rows and every other id one row. The prefix, up to
    the last frame, is the same for all instructions on a set of frames.

    Attributes:
        input_ids: (L) token ids, with one `IMAGE_TOKEN` for each frame.
        num_frames: n.
        tokens_per_image: rows of one frame.
        seg_positions: (n) rows *before* each [SEG], whose states would predict it.
        tak_position: the row *before* [TAK].
        prefix_length: number of ids up to the last `IMAGE_TOKEN`, including it.
    """

    input_ids: tuple[int, ...]
    num_frames: int
    tokens_per_image: int
    seg_positions: tuple[int, ...]
    tak_position: int
    prefix_length: int

    @property
    def extra_rows(self) -> int:
        """Rows of all frames, less one row for each frame."""
        return (self.tokens_per_image - 1) * self.num_frames

    @property
    def length(self) -> int:
        """Rows of the whole prompt in the model's sequence."""
        return len(self.input_ids) + self.extra_rows

    @property
    def prefix_rows(self) -> int:
        """Rows of the prefix in the model's sequence."""
        return self.prefix_length + self.extra_rows


class PromptTokenizer:
    """Tokenises normalised instructions.

    Args:
        sentencepiece_model_path: LLaMA's `tokenizer.model`, with byte fallback; it gives the ids of bos and eos.
        seg_token_id, tak_token_id: the ids of [SEG] and [TAK], which are not pieces of that model.
        tokens_per_image: rows of one frame in the model's sequence.
    """

    def __init__(
        self, sentencepiece_model_path: str, seg_token_id: int, tak_token_id: int, tokens_per_image: int = 112
    ) -> None:
        self.pieces = SentencePieceProcessor(model_file=sentencepiece_model_path)
        self.specials = {"[SEG]": seg_token_id, "[TAK]": tak_token_id, "</s>": self.pieces.eos_id()}
        self.tokens_per_image = tokens_per_image

    def encode(self, text: str, num_frames: int, words: str = "", rule: Questions = "reference") -> Prompt:
        """Tokenises a normalised instruction for sampled frames.

        Args:
            text: the normalised instruction.
            num_frames: number of sampled frames, at least 1.
            words: text of the answer after the masks, in training alone. The question then asks for masks and an
                explanation.
            rule: which instructions are questions, see `is_question`.
        """
        chunks = _expand(_template(is_question(text, rule), bool(words)), num_frames).split("<image>")
        ids = [self.pieces.bos_id(), *self._chunk(chunks[0], text, words)]
        for chunk in chunks[1:]:
            ids += [IMAGE_TOKEN, *self._chunk(chunk, text, words)]
        extra_rows = (self.tokens_per_image - 1) * num_frames
        seg = [index for index, token in enumerate(ids) if token == self.specials["[SEG]"]]
        tak = [index for index, token in enumerate(ids) if token == self.specials["[TAK]"]]
        assert (len(seg), len(tak), ids.count(IMAGE_TOKEN)) == (num_frames, 1, num_frames)
        return Prompt(
            input_ids=tuple(ids),
            num_frames=num_frames,
            tokens_per_image=self.tokens_per_image,
            seg_positions=tuple(index - 1 + extra_rows for index in seg),
            tak_position=tak[0] - 1 + extra_rows,
            prefix_length=max(index for index, token in enumerate(ids) if token == IMAGE_TOKEN) + 1,
        )

    def _chunk(self, chunk: str, sentence: str, words: str) -> list[int]:
        """Token ids of the part of the template between two frames.

        The texts are filled in after the split at special tokens, so that special tokens in them stay text. The legacy rule
        drops white space next to [SEG] and [TAK] (not next to </s>), and encodes each part between special tokens on its
        own, with SentencePiece's leading space.
        """
        ids: list[int] = []
        parts = re.split(r"\s*(\[SEG\]|\[TAK\])\s*|(</s>)", chunk)
        for part in filter(None, parts):
            if part in self.specials:
                ids.append(self.specials[part])
            else:
                ids += self.pieces.encode(_fill(part, sentence, words))
        return ids
