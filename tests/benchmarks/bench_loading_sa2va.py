"""Loading a 2 GB Sa2VA checkpoint in the published layout: wall time and peak memory against the size of what is loaded.

    python -m tests.benchmarks.bench_loading_sa2va

Writes random bfloat16 weights of a mid-size model in two safetensors shards to a temporary folder. Each line is a fresh process
that loads one part, or both. The columns are those of `bench_loading`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.benchmarks.bench_loading import MB, status
from tests.support.sa2va_tiny import FOLDER
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.sa2va.family import load as load_part
from vrshq.operators.models.sa2va.layout import layout, read_config

LANGUAGE = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 15,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 50_000,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
}
VISION = {"hidden_size": 256, "out_hidden_size": 2048, "intermediate_size": 1024}


def write_published(folder: Path) -> None:
    """A random checkpoint, name by name as published, in two shards."""
    values = json.loads((FOLDER / "config.json").read_text())
    values["text_config"] |= LANGUAGE
    values["vision_config"] |= VISION
    (folder / "config.json").write_text(json.dumps(values))
    description = json.loads((FOLDER / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(description))
    shapes = layout(read_config(folder, description["model"]))
    names, generator = list(shapes), torch.Generator().manual_seed(0)
    places: dict[str, str] = {}
    for number, chosen in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        state = {
            name: (torch.randn(shapes[name], generator=generator) * 0.02).to(torch.bfloat16).contiguous()
            for name in chosen
        }
        save_file(state, folder / file)
        places |= dict.fromkeys(chosen, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def load(folder: str, parts: list[str], dtype: str) -> None:
    """Loads parts in this process and prints one line."""
    tiny = open_bundle(str(FOLDER))
    for part in ("language", "segmenter"):  # imports what loading imports, and warms up torch
        load_part(tiny, part, "cpu", torch.float32)
    bundle = open_bundle(folder)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, begin = status("VmRSS"), time.perf_counter()
    networks = [load_part(bundle, part, "cpu", getattr(torch, dtype)) for part in parts]
    seconds, growth, kept = time.perf_counter() - begin, status("VmHWM") - before, status("VmRSS") - before
    tensors = [tensor for network in networks for tensor in network.state_dict().values()]
    copy, largest = sum(tensor.nbytes for tensor in tensors), max(tensor.nbytes for tensor in tensors)
    print(
        f"{'+'.join(parts):<20} {dtype:<9} {seconds:>6.2f} s  copy {copy / MB:>6.0f} MB  growth {growth / MB:>6.0f} MB "
        f"({growth / copy:.2f} x)  largest tensor {largest / MB:>4.0f} MB  after {kept / MB:>6.0f} MB",
        flush=True,
    )


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-loading-") as temporary:
        folder = Path(temporary)
        write_published(folder)
        sizes = [path.stat().st_size // MB for path in sorted(folder.glob("*.safetensors"))]
        print(f"torch {torch.__version__}; files of {sizes} MB")
        for dtype in ("bfloat16", "float32"):
            for parts in ("language,segmenter", "language", "segmenter"):
                subprocess.run([sys.executable, "-m", __spec__.name, temporary, parts, dtype], check=True)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        load(sys.argv[1], sys.argv[2].split(","), sys.argv[3])
    else:
        main()
