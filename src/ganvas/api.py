"""`ganvas.train`: training with the usual score. Training itself knows no metric, and a metric no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ganvas.data.source import Source
from ganvas.evaluate.proxy import proxy_for
from ganvas.training import loop
from ganvas.training.loop import Run, Watcher


def train(
    source: str | Path | Source,
    to: str | Path | None = None,
    *,
    preset: str = "default",
    watcher: Watcher | None = None,
    **settings: Any,
) -> Run:
    """Train a generator on pictures, or go on where an earlier call stopped.

    `source`: a folder, a zip, an fsspec address of either, or a Source. `to`: the run folder, by default
    runs/<name of the source>. `settings`: any field of the groups in `ganvas.config`, such as `minutes=10, size=64`.
    While it trains the generator is scored now and then (`metric`), and the best one kept in best/ of the run folder.
    Raises GanvasError, one line, before any training when something is wrong with them.
    """
    return loop.train(source, to, preset=preset, watcher=watcher, scored_by=proxy_for, **settings)
