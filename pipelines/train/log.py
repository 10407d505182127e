"""The losses of a stage by step: a JSONL file that a resumed run continues, and TensorBoard."""

from __future__ import annotations

import json
from typing import Any

from vrshq.cluster.storage.folder import Folder


class TrainingLog:
    """The log of a stage.

    Attributes:
        rows: the written rows of the steps up to `before`, and the rows added since.

    Args:
        folder: folder of the run.
        stage: name of the stage.
        local: whether TensorBoard's files are written, too; the folder must be local then.
        before: last step to keep; None: all.
    """

    def __init__(self, folder: Folder, stage: str, *, local: bool, before: int | None = None) -> None:
        self.folder, self.name = folder, f"logs/{stage}.jsonl"
        self.rows: list[dict[str, Any]] = []
        if folder.exists(self.name):
            lines = folder.read_bytes(self.name).decode().splitlines()
            rows = [json.loads(line) for line in lines]
            self.rows = [row for row in rows if before is None or row["step"] <= before]
        self.board: Any = None
        if local:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(f"{folder.uri}/tensorboard/{stage}", purge_step=(before or 0) + 1)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Adds the row of a step; NaNs are left out."""
        known = {name: round(value, 7) for name, value in values.items() if value == value}
        self.rows.append({"step": step, **known})
        if self.board is not None:
            for name, value in known.items():
                self.board.add_scalar(
                    name.replace("_", "/", 1) if name.startswith(("valid_", "evaluate_")) else name, value, step
                )

    def write(self) -> None:
        """Writes all rows."""
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        self.folder.write_bytes(self.name, text.encode())
        if self.board is not None:
            self.board.flush()
