"""Units that one process works on at once, in threads, have the tables of the for-loop, bit for bit."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.end_to_end.conftest import SETTINGS
from tests.support.label_runs import content, instruction, write_table
from tests.support.sa2va_tiny import MODEL, QUESTIONS, write_frames
from vrshq.pipelines.label.planning.plan import begun, in_this_process, make_plan, worker_arguments
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.work.worker import UnitWorker


def at_once(table: str, output: str, settings: Settings, threads: int = 3) -> None:
    """Runs all units of a table through one worker in threads that begin together."""
    plan = in_this_process(begun(make_plan(table, output, settings), retry_errors=False))
    worker = UnitWorker(**worker_arguments(plan, plan.pools[0]))
    together = threading.Barrier(threads, timeout=60)

    def run(row: int) -> None:
        if row < threads:
            together.wait()
        worker(plan.todo.slice(row, 1))

    assert plan.todo.num_rows >= threads
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, range(plan.todo.num_rows)))


def test_units_at_once_have_the_for_loops_tables(small_corpus: Path, loop_run: str, tmp_path: Path) -> None:
    output = str(tmp_path / "run")
    at_once(str(small_corpus / "instructions.jsonl"), output, SETTINGS)
    assert content(output) == content(loop_run)


def test_units_of_sa2va_at_once_have_the_for_loops_tables(tmp_path: Path) -> None:
    for name in ("q2", "q3"):
        write_frames(name, tmp_path / name)
    rows = [instruction(name, number, QUESTIONS[name]) for name in ("q2", "q3") for number in range(2)]
    table, settings = write_table(tmp_path / "t.jsonl", rows), Settings(model=MODEL, max_instructions_per_unit=1)
    label(table, str(tmp_path / "loop"), settings, use_ray=False)
    at_once(table, str(tmp_path / "run"), settings)
    assert content(str(tmp_path / "run")) == content(str(tmp_path / "loop"))
