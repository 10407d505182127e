"""Whether this machine's GPU runs the program as it should: ten minutes, one line per check, one JSON file.

    python -m tests.gpu.check [--dry] [--only NAME ...] [--output FILE.json]

Weights are random, at VRS-HQ-7B's sizes (15 GB in /dev/shm or the temporary folder). A line has the check's number and name,
PASS, FAIL, "number" (a measurement) or "not here" (the machine lacks what it needs), and what was found. `--dry` runs all of
it with tiny sizes on a CPU, to test the checks themselves. The exit code is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.gpu import compiled_checks, drill_checks, machine_checks, network_checks, run_checks
from tests.gpu.context import Context, Result

Check = Callable[[Context], Result]

CHECKS: dict[str, Check] = {
    "machine": machine_checks.machine,
    "parity": network_checks.parity,
    "tables": run_checks.tables,
    "segmenter": network_checks.segmenter,
    "language": network_checks.language,
    "clip": network_checks.clip,
    "unit": run_checks.unit,
    "sharing": run_checks.sharing,
    "memory_drill": drill_checks.memory_drill,
    "sticky_drill": drill_checks.sticky_drill,
    "cpu_run": machine_checks.cpu_run,
    "costs": run_checks.costs,
    "long_clip": run_checks.long_clip,
    "compiled": compiled_checks.compiled,
}


def run_checks_of(context: Context, checks: Mapping[str, Check]) -> list[dict[str, Any]]:
    """Runs checks one after the other, prints a line for each, and returns their results with name and seconds."""
    found = []
    for name, check in checks.items():
        begin = time.perf_counter()
        context.free()
        try:
            result = check(context)
        except Exception as error:  # noqa: BLE001 - the other checks go on
            result = Result("FAIL", " ".join(f"{type(error).__name__}: {error}".split())[:300])
        seconds = round(time.perf_counter() - begin, 1)
        number = list(CHECKS).index(name) if name in CHECKS else "-"
        print(f"{number:>2} {name:<13} {result.verdict:<8} {seconds:6.1f} s  {result.said}", flush=True)
        found.append({"check": name, "seconds": seconds, **result.to_dict()})
    return found


def main(arguments: Sequence[str] | None = None, checks: Mapping[str, Check] = CHECKS) -> int:
    """Runs the checks; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="tiny sizes on a CPU")
    parser.add_argument("--only", nargs="+", choices=list(checks), metavar="NAME", help=", ".join(checks))
    parser.add_argument("--output", type=Path, help="the JSON file")
    options = parser.parse_args(arguments)
    if not options.dry and not torch.cuda.is_available():
        print("no GPU here; expected one, or --dry", file=sys.stderr)
        return 1
    memory = "/dev/shm" if Path("/dev/shm").is_dir() and not options.dry else None
    with tempfile.TemporaryDirectory(prefix="vrshq-check-", dir=memory) as folder:
        context = Context(Path(folder), options.dry)
        found = run_checks_of(context, {name: checks[name] for name in options.only or checks})
    failed = [one["check"] for one in found if one["verdict"] == "FAIL"]
    if options.output:
        described = {
            "device": platform.processor() or platform.machine() if options.dry else torch.cuda.get_device_name(),
            "dry": options.dry,
            "torch": torch.__version__,
            "checks": found,
            "failed": failed,
        }
        options.output.write_text(json.dumps(described, indent=2) + "\n")
    print(
        f"{len(found) - len(failed)} of {len(found)} checks without a failure"
        + (f"; failed: {failed}" if failed else "")
    )
    return int(bool(failed))


if __name__ == "__main__":
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    sys.exit(main())
