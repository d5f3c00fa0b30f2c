"""One picture of many: a contact sheet of a set, as a person would lay prints on a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ganvas.data.decode import Pixels

WIDTH = 1200  # of the sheet, in pixels
CELL = 96  # what a picture is enlarged towards, by whole factors so that its own pixels stay visible
GAP, MARGIN, LINE = 4, 16, 20
MAX_PAIRS, MAX_LINES = 12, 12
INK, GROUND = (40, 40, 40), (250, 250, 250)


def draw_sheet(
    images: Pixels,
    *,
    title: str,
    chosen: Sequence[int],
    pairs: Sequence[tuple[int, int]] = (),
    lines: Sequence[str] = (),
) -> Image.Image:
    """Lay out pictures (RGB), in three parts of which the last two may be missing.

    Args:
        images: uint8 [N, H, W, C], C = 1 or 3.
        title: the heading.
        chosen: which pictures to show; whole rows of them.
        pairs: pictures to show side by side as near copies, the first `MAX_PAIRS` of them.
        lines: what is written below, the first `MAX_LINES` of them.
    """
    height, width = images.shape[1:3]
    factor = max(1, CELL // max(height, width))
    cell = (height * factor, width * factor)
    columns = max(1, (WIDTH - 2 * MARGIN + GAP) // (cell[1] + GAP))
    blocks: list[tuple[str, Image.Image]] = [
        (title, _grid([_tile(images[index], factor) for index in chosen], columns))
    ]
    if pairs:
        joined = [
            np.concatenate([_tile(images[index], factor) for index in pair], axis=1) for pair in pairs[:MAX_PAIRS]
        ]
        heading = f"copies, exact or nearly: {min(len(pairs), MAX_PAIRS)} of {len(pairs)} groups"
        blocks.append((heading, _grid(joined, max(1, columns // 2))))
    if lines:
        more = len(lines) - MAX_LINES
        shown = [*lines[:MAX_LINES], *([f"and {more} more, see report.json"] if more > 0 else [])]
        blocks.append(("set aside", _text(shown)))
    total = 2 * MARGIN + sum(LINE + GAP + block.height + MARGIN for _, block in blocks)
    sheet = Image.new("RGB", (WIDTH, total), GROUND)
    pen, top = ImageDraw.Draw(sheet), MARGIN
    for heading, block in blocks:
        pen.text((MARGIN, top), heading, INK, ImageFont.load_default(15))
        sheet.paste(block, (MARGIN, top + LINE + GAP))
        top += LINE + GAP + block.height + MARGIN
    return sheet


def _tile(image: Pixels, factor: int) -> Pixels:
    """Return uint8 [H * factor, W * factor, 3]: grey repeated, every pixel a square."""
    colour = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    return colour.repeat(factor, axis=0).repeat(factor, axis=1)


def _grid(tiles: Sequence[Pixels], columns: int) -> Image.Image:
    """Place tiles of one size row by row."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    block = Image.new("RGB", (WIDTH - 2 * MARGIN, rows * (height + GAP)), GROUND)
    for index, tile in enumerate(tiles):
        block.paste(Image.fromarray(tile), (index % columns * (width + GAP), index // columns * (height + GAP)))
    return block


def _text(lines: Sequence[str]) -> Image.Image:
    """Write lines below each other; what is too long is cut by the edge."""
    block = Image.new("RGB", (WIDTH - 2 * MARGIN, len(lines) * LINE), GROUND)
    pen = ImageDraw.Draw(block)
    for index, line in enumerate(lines):
        pen.text((0, index * LINE), line, INK, ImageFont.load_default(13))
    return block
