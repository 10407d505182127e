"""One run as the app serves it: its catalogue, judgements, masks and pictures."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import Any

import numpy as np

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.app.agreement import agreements
from vrshq.pipelines.app.catalogue import LONGEST_PAGE, Catalogue, Query
from vrshq.pipelines.app.pictures import Pictures
from vrshq.pipelines.app.roots import RunVideos
from vrshq.pipelines.app.screens import Screens
from vrshq.pipelines.label.decoding import decode_config
from vrshq.pipelines.label.settings import Limits
from vrshq.pipelines.label.tables.opened import NoSuchRow
from vrshq.pipelines.label.tables.reviews import Judgement, Key, Reviews, Verdict


class OpenRun:
    """A run directory, open for looking and judging. Safe for several threads.

    Args:
        uri: the run directory, local or in a bucket.
        roots: folders below which its videos may be read; none: where the run found them.
        limits: of the videos, and whom their uris may call.
        scratch: local folder for copies of remote videos.

    Raises:
        StorageError: there is no run at `uri`. MovedVideosError: none of its videos lies inside a root.
    """

    def __init__(self, uri: str, roots: list[str], limits: Limits, scratch: str) -> None:
        self.run = RunDirectory(uri)
        self.catalogue = Catalogue(self.run)
        self.reviews = Reviews(self.run)
        self._screens = Screens(self.run)
        self._pictures = Pictures(decode_config(self.run, limits), limits, scratch)
        self._videos = RunVideos(self.catalogue.table["video_uri"].unique().to_pylist(), roots)
        self._lock = threading.Lock()
        self._take_reviews()

    def refresh(self) -> None:
        """Takes in what was labelled and judged since."""
        with self._lock:
            self.catalogue = Catalogue(self.run)
            self._screens = Screens(self.run)
            self.reviews.refresh()
            self._take_reviews()

    def facts(self) -> dict[str, Any]:
        """Names and counts of the whole run."""
        table = self.catalogue.table
        return {
            "uri": self.run.uri,
            "instructions": len(self.catalogue),
            "videos": len(table["video_id"].unique()),
            "statuses": self.catalogue.counts(),
            "sorts": self.catalogue.sorts,
            "judged": self._judged(),
        }

    def page(self, query: Query, offset: int, limit: int) -> dict[str, Any]:
        """One page of the instructions that a query finds, with their total."""
        order = self.catalogue.order(query)
        offset = max(0, offset)
        rows = order[offset : offset + min(max(limit, 1), LONGEST_PAGE)]
        return {"total": len(order), "offset": offset, "rows": plain(self.catalogue.rows(rows))}

    def thumbnails(self, rows: list[int]) -> list[dict[str, Any]]:
        """The masks of the frames that stand for some instructions."""
        known = [row for row in rows[:LONGEST_PAGE] if 0 <= row < len(self.catalogue)]
        found = self.catalogue.rows(np.array(known, np.int64))
        keys = ("video_id", "instruction_id")
        return [
            {key: row[key] for key in keys} | thumbnail
            for row, thumbnail in zip(found, self._screens.thumbnails(found), strict=True)
        ]

    def instruction(self, key: Key, query: Query) -> dict[str, Any]:
        """Everything about one instruction but its masks, and its neighbours in the order of a query."""
        row = self._row(key)
        order = self.catalogue.order(query)
        (places,) = np.nonzero(order == row["row"])
        place = int(places[0]) if len(places) else None
        near = {} if place is None else {"previous": place - 1, "next": place + 1}
        named = {name: self._name(order[at]) for name, at in near.items() if 0 <= at < len(order)}
        about = {"place": place, "total": len(order), "neighbours": named, "judgements": self.judgements(key)}
        found: dict[str, Any] = plain(row | self._screens.details(row) | about)
        return found

    def masks(self, key: Key, first: int, last: int) -> list[dict[str, Any]]:
        """The masks of one instruction on some frames."""
        return self._screens.masks(self._row(key), first, last)

    def picture(self, key: Key, frame: int, size: int) -> bytes:
        """A frame of an instruction's video as JPEG."""
        return self._pictures.jpeg(self._videos.now(self._row(key)["video_uri"]), frame, size)

    def judge(self, part: str, key: Key, judge: str, verdict: Verdict, comment: str) -> dict[str, Any]:
        """Stores a judgement; returns what is now known of the instruction."""
        self._row(key)
        self.reviews.add(part, key, judge, verdict, comment)
        outcome = self.reviews.outcome(key)
        self.catalogue.judged({key: outcome})
        return {"outcome": outcome, "judgements": self.judgements(key), "judged": self._judged()}

    def judgements(self, key: Key) -> list[dict[str, Any]]:
        """The judgements of an instruction that count, by judge."""
        return [_shown(one) for _, one in sorted(self.reviews.latest.get(key, {}).items())]

    def agreement(self) -> list[dict[str, Any]]:
        """How far each pair of judges agrees."""
        return [asdict(one) for one in agreements(self.reviews.latest)]

    def close(self) -> None:
        """Closes the videos."""
        self._pictures.close()

    def _row(self, key: Key) -> dict[str, Any]:
        row = self.catalogue.row_of(key)
        if row is None:
            raise NoSuchRow(f"this run has no instruction {key[1]!r} of {key[0]!r}")
        return self.catalogue.rows(np.array([row]))[0]

    def _name(self, row: int) -> dict[str, str]:
        found: dict[str, str] = self.catalogue.table.select(["video_id", "instruction_id"]).slice(row, 1).to_pylist()[0]
        return found

    def _judged(self) -> dict[str, int]:
        outcomes = [self.reviews.outcome(key) for key in list(self.reviews.latest)]
        return {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}

    def _take_reviews(self) -> None:
        self.catalogue.judged({key: self.reviews.outcome(key) for key in list(self.reviews.latest)})


def plain(value: Any) -> Any:
    """The value for JSON, which has no NaN: floats are rounded, and those that are not finite become None."""
    if isinstance(value, float):
        return round(value, 5) if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


def _shown(judgement: Judgement) -> dict[str, Any]:
    return asdict(judgement) | {"at": judgement.at.isoformat(timespec="seconds")}
