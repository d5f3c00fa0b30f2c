"""Seeds to latents, the same for ever: each image has a seed of its own, and its latent follows from nothing else.

A batch drawn by one random generator would give an image another latent in another batch. Here every seed starts a
Philox counter of its own (Salmon et al. 2011), whose bits are fixed by its publication rather than by a library's
version, and normal deviates come from them by the Box-Muller transform.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ganvas.errors import SettingError

MAX_SEED = 2**63 - 1
LATENT_STREAM, LABEL_STREAM = 0, 1  # what a seed's bits are for: two keys, so that one never shifts the other


def uniforms(seed: int, count: int, stream: int = LATENT_STREAM) -> np.ndarray:
    """Return `count` fp64 numbers, uniform on the open interval (0, 1), that depend on `seed` and `stream` alone."""
    bits = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)).random_raw(count)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def latents(seeds: Iterable[int], z_dim: int, prior: str = "normal") -> np.ndarray:
    """Return the latents of many seeds: fp32 `[N, z_dim]`; row i depends on the i-th seed alone.

    Standard normal, or uniform on (-1, 1).
    """
    pairs = -(-z_dim // 2)
    rows = [uniforms(seed, z_dim if prior == "uniform" else 2 * pairs) for seed in seeds]
    if not rows:
        return np.zeros((0, z_dim), np.float32)
    numbers = np.stack(rows)
    if prior == "uniform":
        return (numbers * 2.0 - 1.0).astype(np.float32)
    radius, angle = np.sqrt(-2.0 * np.log(numbers[:, :pairs])), 2.0 * np.pi * numbers[:, pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1)[:, :z_dim].astype(np.float32)


def label_of(seed: int, classes: int) -> int:
    """Return the class, 0 to `classes` - 1, that a seed gets when none is asked for."""
    return int(uniforms(seed, 1, LABEL_STREAM)[0] * classes)


def parse_seeds(text: str) -> list[range]:
    """Read `"0-63"`, `"7"` or `"0-9,20,30-39"` as ranges; raise SettingError for anything else."""
    found = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isascii() or not first.isdigit() or (dash and not (last.isascii() and last.isdigit())):
            raise SettingError(f"seeds '{text}': '{part.strip()}' is not a number or a range; write 0-63 or 1,5,9-12")
        low, high = int(first), int(last or first)
        if low > high:
            raise SettingError(f"seeds '{text}': the range {low}-{high} runs backwards; write {high}-{low}")
        if high > MAX_SEED:
            raise SettingError(f"seeds '{text}': {high} is above the largest seed; write one up to {MAX_SEED}")
        found.append(range(low, high + 1))
    return found
