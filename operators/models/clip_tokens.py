"""Token ids of the pre-sampling CLIP: the byte-pair tokenizer of its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class ClipTokenizer:
    """CLIP's byte-pair tokenizer.

    Args:
        folder: with `vocab.json` and `merges.txt`, or with `tokenizer.json`, which holds both.

    Raises:
        ValueError: a file that is missing or holds no such tokenizer; the message names the file.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "vocab.json"
        if not path.exists():
            path = folder / "tokenizer.json"
        try:
            vocabulary, merges = _vocabulary(path)
            ids = {token: vocabulary[token] for token in (BEGIN, END)}
            tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=END))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: expected the byte-pair tokenizer of a CLIP ({error})") from error
        except Exception as error:  # `tokenizers` raises it for merges that the vocabulary lacks
            raise ValueError(f"{path}: {error}") from error
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        tokenizer.post_processor = processors.RobertaProcessing((END, ids[END]), (BEGIN, ids[BEGIN]), False, False)
        self._tokenizer = tokenizer

    def ids(self, text: str) -> list[int]:
        """Token ids, begin and end token included. The spelling of these tokens in the text is not read as the token."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids


def _vocabulary(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    content: Any = json.loads(path.read_text(encoding="utf-8"))
    if path.name == "vocab.json":
        lines = path.with_name("merges.txt").read_text(encoding="utf-8").splitlines()
        pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    else:
        content, merges = content["model"]["vocab"], content["model"]["merges"]
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return content, [(first, second) for first, second in pairs]
