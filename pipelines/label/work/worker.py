"""The actor of one pool: holds its operators, runs them over a unit, and passes on small columns or writes the tables."""

from __future__ import annotations

import base64
import contextlib
import gc
import importlib
import json
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from vrshq.cluster.ray import guard
from vrshq.cluster.ray.errors import ProcessUnusable, one_line
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.batch import (
    Batch,
    Operator,
    failure,
    is_out_of_device_memory,
    new_batch,
    run_operators,
)
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.video.sampling import WITHOUT_CLIP
from vrshq.pipelines.estimate.terms import Terms
from vrshq.pipelines.label.resources import LONG, Resources
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.rows import unit_tables
from vrshq.pipelines.label.work.joining import Joiner, made_pieces
from vrshq.pipelines.label.work.kept_videos import KeptVideo, KeptVideos, note_open
from vrshq.pipelines.label.work.videos import local_video
from vrshq.pipelines.label.work.windows import StoredWindows
from vrshq.pipelines.label.work.wire import RECEIPT, from_wire, receipt, rows_of, to_wire
from vrshq.pipelines.models.locate import local_model

logger = logging.getLogger("vrshq.units")

OPERATORS = {
    "decode": ("vrshq.operators.decode", "Decode"),
    "presample": ("vrshq.operators.presample", "PreSample"),
    "tokens": ("vrshq.operators.tokens", "Tokens"),
    "fuse": ("vrshq.operators.fuse", "Fuse"),
    "keyframe": ("vrshq.operators.keyframe", "SelectKeyframe"),
    "propagate": ("vrshq.operators.propagate", "Propagate"),
}
# Seconds for which a store may fail while units are worked on. Requests before the work starts fail sooner.
PATIENCE_S = 300.0
# Errors after which the process cannot use its GPU any more: asynchronous CUDA errors and their consequences.
_STICKY = re.compile(
    r"CUDA error|device-side assert|illegal memory access|unspecified launch failure"
    r"|CU(BLAS|DNN|SOLVER)_STATUS_(EXECUTION_FAILED|NOT_INITIALIZED|INTERNAL_ERROR)",
    re.IGNORECASE,
)
NEED_PIXELS = {"presample", "tokens", "keyframe", "propagate"}
# The part of the model that a stage loads.
_PARTS = {"presample": "clip", "tokens": "language", "keyframe": "segmenter", "propagate": "segmenter"}


class OutOfDeviceMemory(RuntimeError):  # noqa: N818 - reads as the sentence that it is
    """The device has too little memory for a unit, even with batches of one. It is tried again like a unit that was lost."""


class UnitWorker:
    """Runs a pool's operators over units (rows of `MANIFEST` or `WIRE`); the last pool's worker writes their parts.

    Threads may call it at once, each with its own units.

    Args:
        settings: `Settings` as JSON.
        operators: names of the pool's operators, in the order of the stages.
        run: uri of the run directory.
        device: torch's name of the networks' device.
        gpus: GPUs of the actor; a fraction limits the memory that it takes of its GPU.
        cost: the expected cost of a unit, from which its deadline follows.
        carried: types of the instruction table's other columns, as a serialised Arrow schema in base64.
        log_units: whether to write a JSON line on stderr when a unit begins and ends.
    """

    def __init__(
        self,
        *,
        settings: str,
        operators: tuple[str, ...],
        run: str,
        device: str,
        carried: str,
        gpus: float = 0,
        cost: Terms | None = None,
        log_units: bool = False,
    ) -> None:
        import torch

        if log_units:
            _log_units()
        parsed = Settings.model_validate_json(settings)
        torch.set_num_threads(parsed.resources.threads)
        # float32 means float32 unless TF32 is asked for: cuDNN's convolutions would use it by default
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = parsed.tf32
        if device == "cuda" and 0 < gpus < 1:
            # so that one actor that takes too much fails itself and not its neighbours on the GPU
            torch.cuda.set_per_process_memory_fraction(gpus)
        self.names = ["decode", *operators] if NEED_PIXELS & set(operators) else list(operators)
        self.model = local_model(parsed.model, parts=parts_of(operators, parsed))
        self.settings, self.device, self.cost = parsed, device, cost
        self._turn = contextlib.nullcontext() if open_bundle(self.model).family.at_once else threading.Lock()
        self.operators = self._operators(parsed.resources)
        self.resources, self.limits = parsed.resources, parsed.limits
        self.writes = "propagate" in operators
        self.run = RunDirectory(run, patience_s=PATIENCE_S)
        self.joiner: Joiner | None = None
        if parsed.split.frames is not None:
            one_object = open_bundle(self.model).family.one_object
            self.joiner = Joiner(*made_pieces(self.run), one_object=one_object)
        self.videos = KeptVideos()
        self._held = threading.local()  # `units`: tables that `end_call` commits
        self.carried = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(carried)))
        self.scratch = os.environ.get("VRSHQ_SCRATCH", tempfile.gettempdir())

    def __call__(self, table: pa.Table) -> pa.Table:
        """Runs the operators over some units; returns rows of `WIRE`, or of `RECEIPT` if this pool writes the tables."""
        begin = time.perf_counter()
        units = from_wire(table)
        for unit in units:
            _log("begin", unit_id=unit["unit_id"], video_id=unit["video_id"], attempt=unit["attempt"])
        if self.joiner and units[0]["unit_id"] in self.joiner:
            batch = new_batch([self._joined(unit) for unit in units])
        else:
            with self._turn:
                batch = self._run_in_memory(units)
        for unit in rows_of(batch):
            self._check_process(unit)
        if not self.writes:
            return to_wire({**batch, "busy": _added(batch["busy"], time.perf_counter() - begin)})
        return pa.Table.from_pylist([self._write(unit, begin) for unit in rows_of(batch)], schema=RECEIPT)

    def _operators(self, resources: Resources) -> list[Operator]:
        """The pool's operators. Networks are loaded once per process, so another set of operators costs nothing."""
        configs = self.settings.model_copy(update={"resources": resources}).operator_configs(self.model, self.device)
        return [load_operator(name)(configs[name]) for name in self.names]

    def _joined(self, unit: dict[str, Any]) -> dict[str, Any]:
        """A unit of which the pieces are labelled. Only the pool that writes has to do anything for it."""
        if not self.writes or self.joiner is None:
            return unit
        return self.joiner.join(unit, self._stored)

    def _run_in_memory(self, units: list[dict[str, Any]]) -> Batch:
        """Runs the operators over the units; where the GPU's memory is too small, again with batches of half the size.

        Raises:
            OutOfDeviceMemory: batches of one do not fit either.
        """
        operators, resources = self.operators, self.resources
        while True:
            try:
                return self._run(new_batch(units), operators)
            except Exception as error:
                if not is_out_of_device_memory(error):
                    raise
                reason = one_line(error)
            _free_device_memory(self.device)
            smaller = resources.with_halved_batches()
            if smaller == resources:
                raise OutOfDeviceMemory(f"out of device memory with batches of one: {reason}")
            resources, operators = smaller, self._operators(smaller)
            for unit in units:
                _log("halved", unit_id=unit["unit_id"], reason=reason, instruction_batch=resources.instruction_batch)

    def _run(self, batch: Batch, operators: Sequence[Operator]) -> Batch:
        """Runs the operators over the batch. A video stays open where another unit of it is to follow (column `more`)."""
        given = batch["video_uri"]
        more = batch.pop("more", [False] * len(given))
        reads = operators[0].name == "decode"  # a pool that needs no pixels fetches no video
        held = [self._fetched(batch, index) if reads else None for index in range(len(given))]
        done = False
        try:
            local = [uri if video is None else video.path for uri, video in zip(given, held, strict=True)]
            # a unit alone keeps nothing beyond its own needs
            live = [
                video.kept if video and (video.kept or follows) else None
                for video, follows in zip(held, more, strict=True)
            ]
            batch = {**batch, "video_uri": local, "kept": live}
            skipped: set[str] = set()
            for operator in operators:
                if operator.name in skipped:
                    continue
                batch = run_operators([operator], batch)
                if operator.name == "decode":
                    batch["windows"] = [self._windows(unit) for unit in rows_of(batch)]
                    batch, skipped = self._gone_on(batch)
                    self._allow_time(batch)
            note_open(held, batch)
            counts = [(0, 0) if video is None else video.since_last() for video in held]
            batch["decode_passes"] = [old + new for old, (new, _) in zip(batch["decode_passes"], counts, strict=True)]
            batch["encoder_calls"] = [calls for _, calls in counts]
            done = True
        finally:
            note_open(held, batch)
            for video, follows in zip(held, more, strict=True):
                if video is not None:
                    self.videos.give(video, more=done and bool(follows))
        # a failure names the video by the user's uri, not by its copy on scratch
        errors = [
            [error and {**error, "message": error["message"].replace(path, uri)} for error in failures]
            for failures, path, uri in zip(batch["errors"], local, given, strict=True)
        ]
        return {
            **{name: column for name, column in batch.items() if name not in ("kept", "video")},
            "video_uri": given,
            "errors": errors,
        }

    def _fetched(self, batch: Batch, index: int) -> KeptVideo | None:
        """The unit's video on local disk; None, with the reason in `errors`, where it cannot be had."""
        uri = batch["video_uri"][index]
        key = (uri, batch["start"][index], batch["end"][index])

        def fetch() -> contextlib.AbstractContextManager[str]:
            return local_video(uri, self.scratch, self.limits, PATIENCE_S, self._allow_opening)

        try:
            return self.videos.take(key, fetch)
        except Exception as error:  # noqa: BLE001 - whatever a uri does, it costs its own unit alone
            why = failure("decode", error)
            batch["errors"][index] = [old or why for old in batch["errors"][index]]
            return None

    def _allow_opening(self, nbytes: int) -> None:
        """Sets the deadline until a unit's video is open, from its size."""
        guard.allow(self.resources.opening(nbytes))

    def _allow_time(self, batch: Batch) -> None:
        """Sets the deadline of a unit, once its video is open, from the frames that are decoded for the labelled ones."""
        most = LONG * self.resources.window_frames  # a long unit is given time anew at each border
        guard.allow(self._time(sum(min(frames or 0, most) for frames in batch["num_frames"]), batch["texts"]))

    def _time(self, frames: int, texts: Sequence[Sequence[str]]) -> float:
        frames *= self.settings.decode.every
        return self.resources.deadline(frames, max(map(len, texts)), self.cost)

    def _windows(self, unit: dict[str, Any]) -> StoredWindows | None:
        """Where a long unit stores its masks, and goes on from; None for a short one."""
        long = (unit["num_frames"] or 0) > LONG * self.resources.window_frames
        return self._stored(unit) if long else None

    def _stored(self, unit: dict[str, Any]) -> StoredWindows:
        length = self.resources.window_frames

        def reached() -> None:
            guard.allow(self._time(LONG * length, [unit["texts"]]))

        def wrote(what: str) -> None:
            _log("progress", unit_id=unit["unit_id"], done=what)

        return StoredWindows(self.run, unit, length, reached=reached, wrote=wrote)

    def _gone_on(self, batch: Batch) -> tuple[Batch, set[str]]:
        """The batch with what an earlier attempt has made of its units, and the operators that are not needed any more."""
        made = [windows and windows.unit() for windows in batch["windows"] if self.writes]
        if not (made and all(made)):
            return batch, set()
        units = [unit | columns for unit, columns in zip(rows_of(batch), made, strict=True)]
        return new_batch(units), set(self.names) - {"decode", "propagate"}

    def _check_process(self, unit: dict[str, Any]) -> None:
        """Ends this process after an error that leaves its CUDA context unusable: every later unit would fail too."""
        for error in unit["errors"]:
            if error and _STICKY.search(error["message"]):
                raise ProcessUnusable(f"{error['stage']}: {error['error_type']}: {error['message']}")

    def end_call(self, unit_ids: list[str], receipts: list[pa.Table]) -> list[pa.Table]:
        """Commits together what a call for several units has made. Returns their receipts."""
        held: dict[str, dict[str, pa.Table]] = self._held.__dict__.pop("units", {})
        if not held:
            return receipts
        shared, written = self.run.commit_together(unit_ids, held)
        changed = {"shared": shared, "bytes": written // len(held)}
        rows = [row | changed if row["unit_id"] in held else row for one in receipts for row in one.to_pylist()]
        return [pa.Table.from_pylist(rows, schema=RECEIPT)]

    def _write(self, unit: dict[str, Any], begin: float) -> dict[str, Any]:
        tables = unit_tables(unit, self.carried, unit["attempt"])
        windows: StoredWindows | None = unit.get("windows") if unit.get("summed") else None
        if guard.of_several() and not (windows or tables["errors"].num_rows):
            self._held.__dict__.setdefault("units", {})[unit["unit_id"]] = tables
            written = 0  # so far
        else:
            written = self.run.commit_unit(unit["unit_id"], tables, windows.files if windows else None)
            written += windows.written if windows else 0
        done = receipt(unit, tables, written, busy=unit["busy"] + time.perf_counter() - begin)
        _log("end", video_id=unit["video_id"], **done)
        return done


def _free_device_memory(device: str) -> None:
    """Frees what the failed attempt left: cycles of Python objects, and the allocator's unused blocks."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _log(event: str, **content: Any) -> None:
    line = {"event": event, "at": round(time.time(), 3), "pid": os.getpid(), **content}
    logger.info("%s", json.dumps(line, ensure_ascii=False))


def _log_units() -> None:
    """Sends the JSON lines of units to stderr, which Ray keeps in the log file of each worker process."""
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def parts_of(operators: Sequence[str], settings: Settings) -> set[str]:
    """The parts of the model that an actor with these operators loads."""
    parts = {_PARTS[name] for name in operators if name in _PARTS}
    if "segmenter" in parts and settings.tracking.decoder == "original":
        parts.add("original_decoder")
    return parts - {"clip"} if settings.sampling.sampler in WITHOUT_CLIP else parts


def load_operator(name: str) -> Callable[[Any], Operator]:
    """The operator class of a name. It is imported here, so that an actor loads only the libraries that it needs."""
    module, attribute = OPERATORS[name]
    loaded: Callable[[Any], Operator] = getattr(importlib.import_module(module), attribute)
    return loaded


def _added(values: list[float], more: float) -> list[float]:
    return [value + more for value in values]
