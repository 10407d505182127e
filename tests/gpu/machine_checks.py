"""The machine itself: driver, types, and a run on the CPU that must leave the GPU alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

import torch

from tests.gpu.context import Context, Result


def smi(query: str) -> str | None:
    """What `nvidia-smi --query-gpu=...` says of the first GPU; None where there is none."""
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.strip() or None


def machine(context: Context) -> Result:
    """Driver, capability, TF32 flags, free memory, pinned memory."""
    driver = smi("driver_version")
    values: dict[str, Any] = {
        "tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
        "cuda": torch.version.cuda,
        "driver": driver,
    }
    if context.dry:
        return Result("not here", f"nvidia-smi: {driver or 'not here'}; torch {torch.__version__}", values)
    free, whole = torch.cuda.mem_get_info()
    capability = torch.cuda.get_device_capability()
    pinned = torch.zeros(1).pin_memory().is_pinned()
    values |= {"capability": capability, "free_bytes": free, "memory_bytes": whole, "pinned": pinned}
    said = (
        f"{torch.cuda.get_device_name()}, capability {capability}, driver {driver}, "
        f"{free / 2**30:.0f} of {whole / 2**30:.0f} GiB free, TF32 {values['tf32']}, pinned memory {pinned}"
    )
    return Result.of(pinned and torch.cuda.is_bf16_supported(), said, **values)


# A process that builds and runs the networks on the CPU, then says whether torch has touched a GPU.
_ON_CPU = """
from typing import Any

import torch
from vrshq.operators.models.shared import shared_network, shared_segmenter
segmenter = shared_segmenter("untrained-tiny", "cpu", "float32")
for part in ("language", "clip"):
    shared_network("untrained-tiny", part, "cpu", "float32")
with torch.inference_mode():
    side = segmenter.config.image_size
    features = segmenter.encode(torch.zeros(1, 3, side, side))
    memory = segmenter.condition(features, torch.ones(1, side, side).bool(), 0)[1]
    segmenter.track(features, [memory], [], [])
print(torch.cuda.is_initialized())
"""


def cpu_run(context: Context) -> Result:
    """Networks on the CPU of a GPU host open no context: `resources.device=cpu` takes no GPU memory."""
    done = subprocess.run([sys.executable, "-c", _ON_CPU], capture_output=True, text=True, timeout=300, check=False)
    opened = done.stdout.strip().splitlines()[-1:] != ["False"]
    said = "a process on the CPU " + ("opened a CUDA context" if opened else "opened no CUDA context")
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1]
    if context.dry and not opened:
        return Result("not here", f"{said}; there is no GPU that it could have touched", {"opened": opened})
    return Result.of(not opened, said, opened=opened)
