"""A tiny SentencePiece model in LLaMA's layout, in which every word of a list is one piece."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from vrshq.operators.models.vrs_hq.prompt import conversation


def write_word_pieces(path: Path, words: Iterable[str], size: int) -> None:
    """Writes a byte-pair model of `size` pieces: 0 unknown, 1 begin, 2 end, 256 bytes, characters, merges.

    The words of the prompt's template are added to the list. Any other word is split into several pieces.

    Args:
        path: the file to write.
        words: words that become one piece each.
        size: number of pieces.
    """
    template = " ".join(conversation(sentence) for sentence in ("x", "x?"))
    template = re.sub(r"\[SEG\]|\[TAK\]|</s>|<video>", " ", template)
    wanted = sorted({*words, *re.findall(r"[A-Za-z']+", template)})
    punctuation = "0 1 2 3 4 5 6 7 8 9 (0) (1), ? . , ' - \" : ; !"
    lines = [*wanted, *(word.lower() for word in wanted)] * 50 + [*[punctuation] * 50, *[template] * 50]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        allow_whitespace_only_pieces=True,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
