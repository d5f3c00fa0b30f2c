"""Numbers that can be trusted: a run, or a folder of images, measured against pictures that training never saw.

images ──▶ features ──▶ metrics · copying · attributes ──▶ result ──▶ words, report.html, report.json
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganvas.evaluate.evaluation import evaluate
    from ganvas.evaluate.features import open_features

__all__ = ["evaluate", "open_features"]


def __getattr__(name: str) -> Any:
    """Both names are loaded when first used: the proxy needs neither the report nor the rest."""
    if name == "evaluate":
        from ganvas.evaluate.evaluation import evaluate

        return evaluate
    if name == "open_features":
        from ganvas.evaluate.features import open_features

        return open_features
    raise AttributeError(f"module 'ganvas.evaluate' has no attribute '{name}'")
