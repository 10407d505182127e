"""The language side of the model: sampled frames and instructions in, embeddings of [SEG] and [TAK] out, and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vrshq.operators.batch import Batch, InputError, Unit, failure, map_units, once, open_instructions
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.family import Question, ReadConfig
from vrshq.operators.models.shared import family_of


@dataclass(frozen=True, kw_only=True)
class TokensConfig(ReadConfig):
    """How the model is loaded and asked, see `ReadConfig`."""


class Tokens:
    """Operator: what the model's language side reads out of the sampled frames for each instruction.

    Cost: see the family's `Language`. Each distinct frame goes through the vision tower once, each distinct set of frames
    through the decoder once, whatever the number of instructions.

    In: `video` (live), `sampled_frames` (E lists of n int), `texts`, `kept` (live, may be missing: frames' tokens).
    Out: `seg` (E lists of r*d float32, row-major: r = n rows where there is a [TAK], else one for each object), `tak` (E lists
    of d float32; empty for a family without [TAK]), `d` (int), `answers` (E str or None); None for an instruction that failed.
    A prompt longer than the model has positions is the failure (`InputError`) of its instruction.
    """

    name = "tokens"

    def __init__(self, config: TokensConfig) -> None:
        self.config = config
        self.language = family_of(open_bundle(config.model)).language(config)

    def __call__(self, batch: Batch) -> Batch:
        """Runs the stage on every unit of the batch; errors of a unit become its error entry."""
        return map_units(self.name, batch, self._tokens, {"seg": [], "tak": [], "d": 0, "answers": []})

    def _tokens(self, unit: Unit) -> Unit:
        questions = {
            position: Question(unit["texts"][position], tuple(unit["sampled_frames"][position]))
            for position in open_instructions(unit)
        }
        count, width = len(unit["texts"]), 0
        columns: dict[str, list[Any]] = {name: [None] * count for name in ("seg", "tak", "answers")}
        errors = list(unit["errors"])
        for position, read in self.language.read(unit["video"], questions, once(unit, "tokens", dict)).items():
            if isinstance(read, InputError):
                errors[position] = failure(self.name, read)
                continue
            width = read.seg.shape[1]
            columns["seg"][position] = read.seg.flatten().tolist()
            columns["tak"][position] = [] if read.tak is None else read.tak.tolist()
            columns["answers"][position] = read.answer
        return {**columns, "d": width, "errors": errors}
