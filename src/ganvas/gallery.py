"""One self-contained page that shows a run: its images beside real ones, the film, and the facts."""

from __future__ import annotations

import html
import json
from pathlib import Path

import numpy as np

from ganvas import __version__
from ganvas.checkpoint import read_json
from ganvas.data.cache import load as load_pictures
from ganvas.errors import CheckpointError, DataError
from ganvas.generator import Generator
from ganvas.images import encode, grid
from ganvas.page import document, figure, inline, write_page

SHOWN = 64


def write_gallery(run: Path, to: Path | None = None) -> Path:
    """Write the page of the run folder `run` to `to` (by default gallery.html in it) and return its path.

    Real pictures are taken from those held out, which training has not seen, so that they cannot have been copied.
    Raises CheckpointError when there is no generator, StorageError when the page cannot be written.
    """
    generator = Generator.load(run)
    count = min(SHOWN, generator.config.training.samples)
    made = generator.sample(range(count))
    figures = [figure("Generated", f"seeds 0 to {count - 1}", picture(made, generator))]
    truncated = generator.sample(range(count), truncation=0.7)
    real, note = real_pictures(run, count)
    if real is not None:
        figures.append(figure("Real", note, picture(real, None)))
    figures.append(figure("Generated, truncation 0.7", "safer and less varied", picture(truncated, generator)))
    film = run / "film.webp"
    if film.is_file():
        figures.append(figure("How they came about", "the same seeds, over time", inline(film.read_bytes(), "webp")))
    body = f"""<h1>{html.escape(run.name)}</h1><p>{html.escape(headline(generator))}</p>
<main class="grid">{"".join(figures)}</main>
<table>{"".join(f"<tr><th>{html.escape(k)}<td>{html.escape(v)}" for k, v in facts(run, generator).items())}</table>"""
    path = to or run / "gallery.html"
    write_page(path, document(f"{run.name} - ganvas", body))
    return path


def headline(generator: Generator) -> str:
    """One line: what this is."""
    height, width = generator.size
    return (
        f"A {generator.config.network.network} generator of {height}x{width} images, after "
        f"{generator.seen_images:,} images seen in {float(generator.about.get('seconds', 0)) / 60:.1f} minutes."
    )


def facts(run: Path, generator: Generator) -> dict[str, str]:
    """The settings worth knowing, by name."""
    config = generator.config
    rows = {
        "pictures": config.source,
        "licence of the pictures": str(generator.about.get("licence") or "not stated"),
        "network": f"{config.network.network}, width {config.network.width}",
        "objective": f"{config.objective.objective}, penalty {config.objective.penalty}",
        "weights": generator.weights,
        "made with": f"ganvas {__version__}",
    }
    last = last_metrics(run / "metrics.jsonl", "images_per_second")
    if last:
        rows["speed"] = f"{last['images_per_second']:.0f} images/s"
        rows["losses, last"] = f"D {last['discriminator_loss']:.2f}, G {last['generator_loss']:.2f}"
    return rows


def last_metrics(path: Path, having: str | None = None) -> dict[str, float]:
    """The last row of a metrics file, of those with a field `having`; empty where there is none or damage after it.

    Rows are of several kinds: steps, scores, check-ups; a run ends with any of them.
    """
    try:
        rows = (dict(json.loads(line)) for line in reversed(path.read_text("utf-8").splitlines()))
        return next((row for row in rows if having is None or having in row), {})
    except (OSError, ValueError):
        return {}


def real_pictures(run: Path, count: int) -> tuple[np.ndarray | None, str]:
    """Up to `count` real pictures, uint8 `[N, H, W, C]`, and what they are: held-out ones where a run has any.

    None when they are no longer prepared.
    """
    try:
        manifest = read_json(run / "manifest.json")
        dataset = load_pictures(Path(str(manifest["cache"])), check=False)  # type: ignore[index,call-overload]
    except (CheckpointError, DataError, KeyError, TypeError):
        return None, ""
    unseen = len(dataset.heldout) > 0
    chosen = dataset.heldout if unseen else dataset.train
    picked = chosen[np.linspace(0, len(chosen) - 1, min(count, len(chosen)), dtype=np.int64)]
    return np.asarray(dataset.images[picked]), "held out: never seen in training" if unseen else "trained on"


def picture(images: np.ndarray, generator: Generator | None) -> str:
    """Images as one grid in an `img` element."""
    return inline(encode(grid(images), "png", generator.provenance(None) if generator else None), "png")
