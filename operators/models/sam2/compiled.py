"""Compiled code for parts of SAM2, by `torch.compile`, made once for each shape. The compiler is loaded at the first use.

On a GPU compiled code runs as a CUDA graph: all kernels of a call are launched at once. A graph writes its results to the
same memory each time, so callers get copies of them.

PyTorch's compiler is not safe in several threads, and its CUDA graphs belong to the thread that recorded them (pytorch issues
118260, 136833 and 123177). So one thread of the process makes and runs all compiled code, whichever thread asks for it.
"""

from __future__ import annotations

import functools
import inspect
import os
import shutil
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vrshq.errors import UserError

# Prompted frames of a step that is compiled, at most: each number has shapes of its own. Twelve frames are the most published.
MOST_PROMPTED = 12
_SHAPES = 128  # of one function: a batch of up to 512 objects is cut into ten sizes at most, each with some numbers of prompts
_THREAD = ThreadPoolExecutor(1, thread_name_prefix="compiled")

Function = Callable[..., tuple[Tensor, ...]]


class CompilerError(UserError, RuntimeError):
    """This machine cannot compile. The one-line message says what is missing."""


def check_compiler(device: str) -> None:
    """Checks that this machine has what `torch.compile` needs.

    Args:
        device: torch's name of the device; the code for a GPU needs a C compiler, that for a CPU one for C++.

    Raises:
        CompilerError: no compiler, no header of Python, or a torch that is too old.
    """
    variable, names = ("CXX", ("g++",)) if torch.device(device).type == "cpu" else ("CC", ("gcc", "clang"))
    given = os.environ.get(variable)
    if not any(shutil.which(name) for name in ((given,) if given else names)):
        looked = f"{variable}={given}" if given else " or ".join(names)
        raise CompilerError(
            f"compile true: no compiler {looked}; install one, name one in {variable}, or set compile=false"
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise CompilerError(f"compile true: no {header}; install Python's headers, or set compile=false")
    if "recompile_limit" not in inspect.signature(torch.compile).parameters:
        raise CompilerError(f"compile true: torch {torch.__version__} is too old; expected 2.14, or compile=false")


def sizes(count: int, most: int) -> list[int]:
    """`count` objects in batches of at most `most` whose sizes are powers of two, so that few sizes occur. Largest first."""
    found: list[int] = []
    while count:
        found.append(1 << (min(count, most).bit_length() - 1))
        count -= found[-1]
    return found


def run_compiled(function: Function, *arguments: Any) -> tuple[Tensor, ...]:
    """What `function` gives, within rounding, by compiled code, which a first call with new shapes makes in a minute.

    Args:
        function: a function of tensors, and of values that decide its shapes. It may neither branch on the values of tensors
            nor change its arguments.
        *arguments: its arguments; one of them is a tensor, or a module, on the device.

    Returns:
        Tensors of the caller's own, of inference mode.
    """
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    stream = torch.cuda.current_stream() if used else None
    return _THREAD.submit(_run, function, arguments, stream).result()


@torch.inference_mode()
def _run(function: Function, arguments: tuple[Any, ...], stream: torch.cuda.Stream | None) -> tuple[Tensor, ...]:
    if stream:
        # nothing reads the memory of an earlier call any more
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream) if stream else nullcontext():
        made = _compiled(function)(*arguments)
        return tuple(one.clone() for one in made) if made[0].is_cuda else made


@functools.cache
def _compiled(function: Function) -> Function:
    how: dict[str, Any] = {"recompile_limit": _SHAPES, "isolate_recompiles": True}
    # Choices between kernels by measured times would make the last bits differ from process to process.
    options: dict[str, Any] = {"triton.cudagraphs": True, "deterministic": True}
    compiled: Function = torch.compile(function, fullgraph=True, dynamic=False, options=options, **how)
    return compiled
