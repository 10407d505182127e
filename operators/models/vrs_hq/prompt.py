"""The text side of the MLLM: question, fixed answer, their expansion to n frames, and the token ids.

Ids follow the old, "legacy" LLaMA tokenisation that the published weights were trained with; transformers' tokenizers give
other ids for these prompts. The instruction's text is data: whatever it contains, only the template's own [SEG], [TAK],
<image> and </s> become special ids.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sentencepiece import SentencePieceProcessor

from vrshq.operators.batch import InputError
from vrshq.operators.models.config import IMAGE_TOKEN

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
ANSWER = "Sure, the segmentation result of each frame is [SEG], while for the entire video it is [TAK]."
SENTENCE = "{sent}"  # where the instruction goes
_WORDS = "{words}"  # where an answer's own words go, which only training has
_ASK = f"Reference Video: <video> \n{SENTENCE} Please find it in the Reference Video and respond with "
_WHAT_IS = f"Reference Video: <video> \nWhat is {SENTENCE} in the Reference Video? Please respond with "
_EXPLAIN = f"Reference Video: <video> \n{SENTENCE} Please output segmentation mask and explain why."
_MASKS = "segmentation masks for each frame and for the entire video separately."


def normalize(text: str) -> str:
    """The instruction as CLIP and the MLLM see it: lower case, every run of white space one space, none at the ends.

    Raises:
        InputError: nothing is left, or the text is not valid Unicode.
    """
    text = " ".join(text.lower().split())
    if not text:
        raise InputError("empty instruction text; expected a phrase or a question about the video")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"instruction text is not valid Unicode ({error.reason})") from error
    return text


def question(sentence: str) -> str:
    """The user's turn for a normalised instruction; a question (one that ends in `?`) is asked as it is."""
    return _question_template(sentence).replace(SENTENCE, sentence)


def conversation(sentence: str, words: str = "") -> str:
    """System text, question and the fixed answer, before expansion to frames. `words`: see `PromptTokenizer.encode`."""
    return _fill(_template(sentence, bool(words)), sentence, words)


def expanded(sentence: str, num_frames: int) -> str:
    """The conversation with one `<image>` and one numbered `[SEG]` for each of `num_frames` frames."""
    return _fill(_expand(_template(sentence), num_frames), sentence)


def _question_template(sentence: str) -> str:
    return (_ASK if sentence.endswith("?") else _WHAT_IS) + _MASKS


def _template(sentence: str, explained: bool = False) -> str:
    if explained:
        return f"{SYSTEM} USER: {_EXPLAIN} ASSISTANT: {ANSWER} {_WORDS}</s>"
    return f"{SYSTEM} USER: {_question_template(sentence)} ASSISTANT: {ANSWER}</s>"


def _fill(template: str, sentence: str, words: str = "") -> str:
    """Both at once: what one of them holds is never a place for the other."""
    given = {SENTENCE: sentence, _WORDS: words}
    return re.sub("|".join(map(re.escape, given)), lambda found: given[found[0]], template)


def _expand(template: str, num_frames: int) -> str:
    images = ", ".join(f"({index})<image>" for index in range(num_frames))
    segs = ", ".join(f"({index}) [SEG]" for index in range(num_frames))
    return template.replace("<video>", images).replace("[SEG]", segs)


@dataclass(frozen=True)
class Prompt:
    """The token ids of one instruction on n frames, and where to read the answer.

    `input_ids` (L) holds `IMAGE_TOKEN` once for each frame. In the model's sequence each of those is `tokens_per_image`
    embeddings, so it has `length` rows. `seg_positions` (n) and `tak_position` are rows of that sequence: those *before*
    [SEG] and [TAK], whose states would predict them. `prefix_length` counts the ids up to the last image and `prefix_rows`
    their rows: for a given set of frames, that part is the same for every instruction.
    """

    input_ids: tuple[int, ...]
    num_frames: int
    tokens_per_image: int
    seg_positions: tuple[int, ...]
    tak_position: int
    prefix_length: int

    @property
    def extra_rows(self) -> int:
        """Rows that the frames' tokens add to the prompt beyond one each."""
        return (self.tokens_per_image - 1) * self.num_frames

    @property
    def length(self) -> int:
        """Rows of the whole prompt, with each frame's tokens counted."""
        return len(self.input_ids) + self.extra_rows

    @property
    def prefix_rows(self) -> int:
        """Rows of the part before the instruction, which instructions on the same frames share."""
        return self.prefix_length + self.extra_rows


class PromptTokenizer:
    """From a normalised instruction to its `Prompt`.

    Args:
        sentencepiece_model_path: the LLaMA `tokenizer.model`; it has byte fallback, and bos and eos are its ids.
        seg_token_id, tak_token_id: the ids of [SEG] and [TAK], which are not pieces of that model.
        tokens_per_image: embeddings that stand for one frame.
    """

    def __init__(
        self, sentencepiece_model_path: str, seg_token_id: int, tak_token_id: int, tokens_per_image: int = 112
    ) -> None:
        self.pieces = SentencePieceProcessor(model_file=sentencepiece_model_path)
        self.specials = {"[SEG]": seg_token_id, "[TAK]": tak_token_id, "</s>": self.pieces.eos_id()}
        self.tokens_per_image = tokens_per_image

    def encode(self, text: str, num_frames: int, words: str = "") -> Prompt:
        """Tokenises a normalised instruction for `num_frames` >= 1 sampled frames.

        `words`: what is said after the masks, in training alone; the question then asks for masks and an explanation.
        """
        chunks = _expand(_template(text, bool(words)), num_frames).split("<image>")
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
        """Ids of a piece of the template between two images, the texts filled in only after the split at specials.

        The legacy rule: white space next to [SEG] and [TAK] goes (not next to </s>), and each part between specials is
        encoded by itself, with SentencePiece's own leading space.
        """
        ids: list[int] = []
        parts = re.split(r"\s*(\[SEG\]|\[TAK\])\s*|(</s>)", chunk)
        for part in filter(None, parts):
            if part in self.specials:
                ids.append(self.specials[part])
            else:
                ids += self.pieces.encode(_fill(part, sentence, words))
        return ids
