"""Paths of the repository, and of the optional folder of real clips beside it."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "pipelines" / "train" / "configs"
DEMO = ROOT / "pipelines" / "demo"
SHARED = Path(os.environ.get("VRSHQ_SHARED") or ROOT.parent / "shared")
