"""What people judged of a run: `reviews/`, a part for each judgement, and the choice of instructions by it."""

from __future__ import annotations

import datetime
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from vrshq.cluster.storage.errors import StorageNotFoundError
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.errors import UserError
from vrshq.pipelines.label.tables.schema import REVIEWS

Verdict = Literal["accept", "reject", "unsure"]
# What the judges together say of an instruction.
Outcome = Literal["accepted", "rejected", "unsure", "unjudged"]
LONGEST_JUDGE, LONGEST_COMMENT = 64, 4000  # characters
_TABLE = "reviews"
_PART = re.compile(r"reviews/part-([0-9a-f]{32})\.parquet")
_READERS = 16

Key = tuple[str, str]  # video_id, instruction_id


class ReviewError(UserError):
    """A judgement that cannot be taken, or a choice by judgements of a run that has none."""


@dataclass(frozen=True)
class Judgement:
    """One row of `reviews/`."""

    video_id: str
    instruction_id: str
    judge: str
    verdict: Verdict
    comment: str
    at: datetime.datetime


class Reviews:
    """The judgements of a run directory. Of each judge the latest one of an instruction counts. Safe for several threads.

    A judgement is a part of its own, which appears whole or not at all. Judges therefore never write the same file, and whoever
    is killed loses at most the judgement that was not yet confirmed.

    Attributes:
        latest: by (video_id, instruction_id), the judgement of each judge that counts.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._folder = run.folder
        self._lock = threading.Lock()
        self._parts: dict[str, Judgement] = {}
        self.latest: dict[Key, dict[str, Judgement]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reads the parts that others have written since. Costs one listing, and a read for each new part."""
        listed = [match for match in map(_PART.fullmatch, self._folder.list(_TABLE)) if match]
        new = [match[1] for match in listed if match[1] not in self._parts]
        with ThreadPoolExecutor(_READERS) as pool:
            found = dict(zip(new, pool.map(self._read, new), strict=True))
        with self._lock:
            for part, judgement in found.items():
                if judgement is not None:
                    self._take(part, judgement)

    def add(self, part: str, key: Key, judge: str, verdict: Verdict, comment: str = "") -> Judgement:
        """Writes a judgement; when this returns, it is on disk.

        Args:
            part: 32 hexadecimal digits that the caller drew for it. A second time, as after a lost answer, they change nothing.
            key: video_id and instruction_id.
            judge: who judges.
            verdict: accept, reject or unsure.
            comment: any text.

        Returns:
            the judgement as it is stored.

        Raises:
            ReviewError: a value that is not allowed. StorageError: it could not be written.
        """
        judge = judge.strip()
        if not re.fullmatch(r"[0-9a-f]{32}", part):
            raise ReviewError(f"the judgement's number {part!r}: expected 32 hexadecimal digits")
        if not 0 < len(judge) <= LONGEST_JUDGE:
            raise ReviewError(f"the judge's name {judge[:80]!r}: expected 1 to {LONGEST_JUDGE} characters")
        if verdict not in get_args(Verdict):
            raise ReviewError(f"verdict {verdict!r}: expected one of {', '.join(get_args(Verdict))}")
        if len(comment) > LONGEST_COMMENT:
            raise ReviewError(f"a comment of {len(comment)} characters: expected at most {LONGEST_COMMENT}")
        with self._lock:
            stored = self._parts.get(part) or self._read(part)
            if stored is None:
                stored = Judgement(*key, judge, verdict, comment, self._next_time(key, judge))
                sink = pa.BufferOutputStream()
                pq.write_table(pa.Table.from_pylist([asdict(stored)], schema=REVIEWS), sink)
                self._folder.write_bytes(_name(part), sink.getvalue().to_pybytes())
            self._take(part, stored)
            return stored

    def outcome(self, key: Key) -> Outcome:
        """What the judges together say of an instruction."""
        return outcome_of(judgement.verdict for judgement in self.latest.get(key, {}).values())

    def _read(self, part: str) -> Judgement | None:
        try:
            content = self._folder.read_bytes(_name(part))
        except StorageNotFoundError:
            return None
        row = pq.read_table(pa.BufferReader(content)).select(REVIEWS.names).cast(REVIEWS).to_pylist()[0]
        return Judgement(**row)

    def _take(self, part: str, judgement: Judgement) -> None:
        self._parts[part] = judgement
        judges = self.latest.setdefault((judgement.video_id, judgement.instruction_id), {})
        before = judges.get(judgement.judge)
        if before is None or before.at <= judgement.at:
            judges[judgement.judge] = judgement

    def _next_time(self, key: Key, judge: str) -> datetime.datetime:
        """Now; later than the judge's earlier judgement even where the clock was set back."""
        now = datetime.datetime.now(datetime.UTC)
        before = self.latest.get(key, {}).get(judge)
        return now if before is None else max(now, before.at + datetime.timedelta(microseconds=1))


def outcome_of(verdicts: Iterable[Verdict]) -> Outcome:
    """The outcome of the judges' verdicts: one reject rejects, else one unsure leaves it unsure, else it is accepted."""
    given = set(verdicts)
    if not given:
        return "unjudged"
    if "reject" in given:
        return "rejected"
    return "unsure" if "unsure" in given else "accepted"


@dataclass(frozen=True)
class ByOutcome:
    """A choice of instructions by what the judges said.

    Attributes:
        only: only those with this outcome.
        without: none with this outcome.
    """

    only: Outcome | None = None
    without: Outcome | None = None

    def __bool__(self) -> bool:
        return self.only is not None or self.without is not None

    def chooser(self, run: RunDirectory) -> Callable[[str, str], bool]:
        """Whether an instruction, by its video_id and instruction_id, is chosen. Reads `reviews/`, if there is a choice.

        Raises:
            ReviewError: nobody has judged anything of this run.
        """
        if not self:
            return lambda _video, _instruction: True
        reviews = Reviews(run)
        if not reviews.latest:
            raise ReviewError(f"{run.uri}: {self.words()}, but nobody has judged this run; `vrshq app RUN` is for that")
        return lambda video, instruction: self._allows(reviews.outcome((video, instruction)))

    def words(self) -> str:
        """The choice as the options of a command."""
        given: Mapping[str, Outcome | None] = {"--only": self.only, "--not": self.without}
        return " ".join(f"{option} {outcome}" for option, outcome in given.items() if outcome)

    def notes(self) -> list[str]:
        """What a reader of the chosen instructions must know; nothing where all are chosen."""
        return [f"{self.words()}: the other instructions are left out, and not listed"] if self else []

    def _allows(self, outcome: Outcome) -> bool:
        return self.only in (None, outcome) and outcome != self.without


EVERYTHING = ByOutcome()


def _name(part: str) -> str:
    return f"{_TABLE}/part-{part}.parquet"
