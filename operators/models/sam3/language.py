"""SAM 3 has no language side of its own: the tracker reads the text. Texts that it cannot read are refused here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vrshq.operators.batch import InputError, check_text
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.family import Frames, Question, ReadConfig, Reading
from vrshq.operators.models.sam3.layout import MAX_TOKENS, read_tokenizer


class LanguageSide:
    """Counts the tokens of each phrase. No network is loaded, and no frame is read."""

    def __init__(self, config: ReadConfig) -> None:
        self.tokenizer = read_tokenizer(open_bundle(config.model))

    def read(
        self,
        video: Frames,  # noqa: ARG002
        questions: Mapping[int, Question],
        kept: dict[int, Any],  # noqa: ARG002
    ) -> dict[int, Reading | InputError]:
        """As `Language.read`; nothing is passed on. A text that is empty, not Unicode or too long is an `InputError`."""
        result: dict[int, Reading | InputError] = {}
        for key, question in questions.items():
            try:
                self._check(question.text)
                result[key] = Reading(torch.zeros(0, 1))
            except InputError as error:
                result[key] = error
        return result

    def _check(self, text: str) -> None:
        check_text(text, "a noun phrase")
        tokens = len(self.tokenizer(text).input_ids)
        if tokens > MAX_TOKENS:
            raise InputError(
                f"instruction too long: {tokens} tokens, SAM 3 takes {MAX_TOKENS}; expected a noun phrase such as 'red car'"
            )
