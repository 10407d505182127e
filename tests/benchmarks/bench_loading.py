"""Loading a 1.5 GB checkpoint in the published layout: wall time and peak memory against the size of what is loaded.

    python -m tests.benchmarks.bench_loading

Writes random float32 weights of a mid-size model (two .bin shards, and the pre-sampling CLIP) to a temporary folder, and the
bundle that `vrshq convert` makes of them. Each line is a fresh process that loads one part, or all three. `growth` is the
peak of the resident memory, mapped pages of the files included, over what it was before loading; `copy` the bytes of the
loaded parameters. Files are in the page cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.config import (
    ClipConfig,
    ClipTextConfig,
    LanguageConfig,
    ModelConfig,
    Sam2Config,
    TowerConfig,
    VisionConfig,
)
from vrshq.operators.models.vrs_hq.checkpoint import layout
from vrshq.operators.models.vrs_hq.load import LOADERS

MODEL = ModelConfig(
    language=LanguageConfig(
        hidden_size=1024, intermediate_size=2816, num_layers=17, num_heads=16, num_key_value_heads=16
    ),
    tower=TowerConfig(hidden_size=768, intermediate_size=3072, num_layers=6, num_heads=12),
    clip=ClipConfig(
        projection_dim=256,
        vision=VisionConfig(hidden_size=384, intermediate_size=1536, num_layers=6, num_heads=6, image_size=336),
        text=ClipTextConfig(hidden_size=256, intermediate_size=1024, num_layers=4, num_heads=4),
    ),
    sam2=replace(
        Sam2Config(),
        embed_dim=96,
        num_heads=1,
        stages=(1, 2, 7, 2),
        window_spec=(8, 4, 14, 7),
        global_attention_blocks=(5, 7, 9),
    ),
)
PARTS = ("language", "segmenter", "clip")
MB = 1 << 20


def write_published(folder: Path) -> None:
    """A random checkpoint: name by name as published, the unused LM head included; the second shard is the larger one."""
    generator = torch.Generator().manual_seed(0)
    shapes = dict(layout(MODEL)) | {"lm_head.weight": (MODEL.language.vocab_size, MODEL.language.hidden_size)}
    state = {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes.items()}
    (folder / "clip").mkdir(parents=True)
    clip = {name.removeprefix("clip."): state.pop(name) for name in list(state) if name.startswith("clip.")}
    save_file(clip, folder / "clip" / "model.safetensors")
    names = list(state)
    for number, chosen in enumerate((names[: len(names) // 8], names[len(names) // 8 :]), start=1):
        torch.save({name: state[name] for name in chosen}, folder / f"pytorch_model-{number:05d}-of-00002.bin")
    description = {"format": "vrshq-bundle/1", "name": "bench", "model": MODEL.to_dict()}
    (folder / "bundle.json").write_text(json.dumps(description))
    tokenizers = open_bundle("untrained-tiny").folder
    for name in ("tokenizer.model", "clip/vocab.json", "clip/merges.txt"):
        (folder / name).write_bytes((tokenizers / name).read_bytes())


def status(key: str) -> int:
    """A memory figure of this process, in bytes: VmRSS is the resident memory now, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def load(folder: str, parts: list[str], dtype: str) -> None:
    """Loads parts in this process and prints one line."""
    bundle = open_bundle("untrained-tiny")
    for part in PARTS:  # imports what loading imports, and warms up torch
        LOADERS[part](bundle, "cpu", torch.float32)
    bundle = open_bundle(folder)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, begin = status("VmRSS"), time.perf_counter()
    networks = [LOADERS[part](bundle, "cpu", getattr(torch, dtype)) for part in parts]
    seconds, growth, kept = time.perf_counter() - begin, status("VmHWM") - before, status("VmRSS") - before
    parameters = [tensor for network in networks for tensor in network.state_dict().values()]
    copy, largest = sum(tensor.nbytes for tensor in parameters), max(tensor.numel() for tensor in parameters) * 4
    mapped = Path(folder).name in Path("/proc/self/maps").read_text()
    print(
        f"{'+'.join(parts):<24} {dtype:<9} {seconds:>6.2f} s  copy {copy / MB:>6.0f} MB  growth {growth / MB:>6.0f} MB "
        f"({growth / copy:.2f} x)  over the copy {(growth - copy) / MB:>4.0f} MB  largest tensor {largest / MB:>4.0f} MB  "
        f"after {kept / MB:>6.0f} MB{'  STILL MAPPED' if mapped else ''}",
        flush=True,
    )


def run_convert(source: str, output: str) -> None:
    """Converts in this process and prints one line."""
    from vrshq.pipelines.models.convert import convert

    Path("/proc/self/clear_refs").write_text("5")
    before, begin = status("VmRSS"), time.perf_counter()
    done = convert(source, output)
    seconds, growth = time.perf_counter() - begin, status("VmHWM") - before
    print(f"vrshq convert: {seconds:.2f} s, {done.nbytes / MB:.0f} MB written, growth {growth / MB:.0f} MB", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-loading-") as temporary:
        published, converted = Path(temporary) / "published", Path(temporary) / "converted"
        write_published(published)
        sizes = [
            path.stat().st_size for path in sorted(published.rglob("*")) if path.suffix in (".bin", ".safetensors")
        ]
        print(
            f"torch {torch.__version__}, {torch.get_num_threads()} threads; files of {[size // MB for size in sizes]} MB"
        )
        subprocess.run([sys.executable, "-m", __spec__.name, str(published), str(converted)], check=True)
        for folder in (published, converted):
            print(f"{folder.name}:")
            for dtype in ("float32", "bfloat16"):
                for parts in (",".join(PARTS), *PARTS):
                    subprocess.run([sys.executable, "-m", __spec__.name, str(folder), parts, dtype], check=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run_convert(*sys.argv[1:])
    elif len(sys.argv) == 4:
        load(sys.argv[1], sys.argv[2].split(","), sys.argv[3])
    else:
        main()
