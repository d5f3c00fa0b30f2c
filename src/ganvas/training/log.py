"""What a run tells: metrics.jsonl, TensorBoard where asked, and the callback that a progress line hangs on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ganvas.errors import MissingExtra
from ganvas.files import storage_errors
from ganvas.training.monitor import Finding
from ganvas.training.vitals import Vitals


@dataclass(frozen=True)
class Tick:
    """The state of a run at one moment; losses are those of one batch."""

    seen_images: int
    seconds: float  # of training, over all resumes
    images_per_second: float  # lately
    progress: float  # share of the budget, 0 to 1
    learning_rate: float
    discriminator_loss: float
    generator_loss: float
    penalty: float
    real_logit: float
    fake_logit: float


class Log:
    """Append-only metrics of a run; rows after the checkpoint that a resume starts from are dropped first."""

    def __init__(self, folder: Path, seen_images: int, tensorboard: bool) -> None:
        self.path = folder / "metrics.jsonl"
        with storage_errors(self.path):
            self._drop_after(seen_images)
            self._file = self.path.open("a", encoding="utf-8")
        self._board: Any = _board(folder / "tensorboard") if tensorboard else None

    def write(self, tick: Tick) -> None:
        """Add one row; it is on disk, as far as the system goes, when this returns."""
        row = {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(tick).items()}
        with storage_errors(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._board is not None:
            for key, value in row.items():
                if key != "seen_images":
                    self._board.add_scalar(key, value, tick.seen_images)

    def score(self, seen_images: int, seconds: float, metric: str, value: float) -> None:
        """Add a row with a score of the averaged generator."""
        row = {"seen_images": seen_images, "seconds": round(seconds, 6), "metric": metric, "score": value}
        with storage_errors(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._board is not None:
            self._board.add_scalar("score", value, seen_images)

    def finding(self, seen_images: int, seconds: float, finding: Finding, vitals: Vitals | None) -> None:
        """Add a row with what the monitor saw, and what it did about it."""
        now: dict[str, Any] = {"seen_images": seen_images, "seconds": round(seconds, 6)}
        now |= {"state": finding.state, "why": finding.why, "action": finding.action}
        with storage_errors(self.path):
            self._file.write(json.dumps({**(vitals.row() if vitals else {}), **now}) + "\n")
            self._file.flush()

    def go_back(self, seen_images: int) -> None:
        """Forget the rows of what is undone: training goes back to `seen_images`."""
        with storage_errors(self.path):
            self._file.close()
            self._drop_after(seen_images)
            self._file = self.path.open("a", encoding="utf-8")

    def picture(self, path: Path, seen_images: int) -> None:
        """Show a sample grid in TensorBoard too."""
        if self._board is not None:
            import numpy as np
            from PIL import Image

            with Image.open(path) as image:
                self._board.add_image("samples", np.asarray(image.convert("RGB")), seen_images, dataformats="HWC")

    def close(self) -> None:
        """Finish writing."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _drop_after(self, seen_images: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text("utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the half row of a killed process
            if isinstance(row, dict) and row.get("seen_images", seen_images + 1) <= seen_images:
                kept.append(line)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(line + "\n" for line in kept), "utf-8")
        temporary.replace(self.path)


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtra("--tensorboard", "tensorboard") from None
    return SummaryWriter(str(folder))
