"""ganvas trains an image generator on your own pictures, on the computer you have.

    pictures ──▶ data ──▶ networks + objective ──▶ training ──▶ run/ ──▶ Generator ──▶ generate
    (folder, zip, hub,    (what is learned,        (the one loop,  (safetensors   (seeds ─▶ latents ─▶ images)
     or drawn by rules)    against which loss)      watched)        + JSON)

    import ganvas
    run = ganvas.train("photos/", minutes=10)
    images = ganvas.Generator.load(run.folder).sample(seeds=range(64))        # uint8 [64, H, W, C]

Names are loaded when first used: `import ganvas` is instant, and sets the process up before torch comes in.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ganvas import runtime as runtime  # must come before torch: it sets OpenMP and the allocator up
from ganvas.errors import GanvasError

if TYPE_CHECKING:
    from ganvas.api import train
    from ganvas.generation import generate
    from ganvas.generator import Generator
    from ganvas.training.loop import Run

__version__ = "0.1.0"
__all__ = ["GanvasError", "Generator", "Run", "__version__", "generate", "train"]

_HOMES = {
    "Generator": "ganvas.generator",
    "Run": "ganvas.training.loop",
    "generate": "ganvas.generation",
    "train": "ganvas.api",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ganvas' has no attribute '{name}'")
