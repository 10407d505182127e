"""Runs a command and prints its wall time and the peak memory of its whole process tree.

    python -m tests.benchmarks.peak_memory vrshq label ...

Memory is the sum over the tree of proportional set sizes (shared pages are counted once), sampled four times a second.
"""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

MIB = 1 << 20


def tree_memory(root: psutil.Process) -> tuple[int, int]:
    """Bytes (proportional set size) and number of the processes of a tree."""
    total = count = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
            count += 1
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total, count


def main(command: list[str]) -> int:
    begin = time.monotonic()
    running = subprocess.Popen(command)
    root = psutil.Process(running.pid)
    peak = processes = 0
    while running.poll() is None:
        try:
            memory, count = tree_memory(root)
        except psutil.NoSuchProcess:
            break
        peak, processes = max(peak, memory), max(processes, count)
        time.sleep(0.25)
    code = running.wait()
    elapsed = time.monotonic() - begin
    print(f"wall {elapsed:.1f} s, peak memory {peak / MIB:,.0f} MiB in up to {processes} processes, exit code {code}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
