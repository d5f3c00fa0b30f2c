"""What came of a set of files: counted, grouped by reason, and what is remarkable about the set as a whole."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from ganvas.data.decode import SetAside
from ganvas.data.workers import Outcome, Prepared

SHOWN_NAMES = 20
FEW = 100
MANY_DUPLICATES = 0.05
MIXED_ASPECT = 1.5  # widest over narrowest proportion, between the 5th and the 95th percentile


class Tally:
    """Counts outcomes one by one, and holds no pixels."""

    def __init__(self, set_aside: Iterable[SetAside] = ()) -> None:
        self.accepted = self.warned = self.set_aside = self.seen = 0
        self._reasons: dict[str, dict[str, Any]] = {}
        self._warnings: dict[str, dict[str, Any]] = {}
        self._modes: Counter[str] = Counter()
        self._sizes: Counter[tuple[int, int]] = Counter()
        self.digests: list[bytes] = []
        for aside in set_aside:
            self.add(aside)

    def add(self, outcome: Outcome) -> None:
        """Count one file: accepted, warned or set aside."""
        self.seen += 1
        if isinstance(outcome, Prepared):
            self.digests.append(outcome.digest)
            self._modes[outcome.mode] += 1
            self._sizes[outcome.size] += 1
            self.warned += bool(outcome.warnings)
            self.accepted += not outcome.warnings
            for warning in outcome.warnings:
                _group(self._warnings, warning, outcome.name, "")
        else:
            self.set_aside += 1
            _group(self._reasons, outcome.reason, outcome.name, outcome.fix)

    def report(self, name: str, licence: str | None, not_chosen: int) -> dict[str, Any]:
        """Return the report as JSON values; `seen == accepted + warned + set_aside` always."""
        assert self.seen == self.accepted + self.warned + self.set_aside
        groups = Counter(self.digests)
        return {
            "source": name,
            "licence": licence,
            "seen": self.seen,
            "accepted": self.accepted,
            "warned": self.warned,
            "set_aside": self.set_aside,
            "not_chosen": not_chosen,
            "set_aside_reasons": _by_count(self._reasons),
            "warning_reasons": _by_count(self._warnings),
            "modes": dict(self._modes.most_common()),
            "sizes": self._size_summary(),
            "exact_duplicates": len(self.digests) - len(groups),
            "duplicate_groups": sum(count > 1 for count in groups.values()),
            "set_warnings": self._set_warnings(groups),
        }

    def main_reasons(self) -> str:
        """Return up to three reasons with their counts, in words."""
        return "; ".join(f"{group['count']}: {group['reason']}" for group in _by_count(self._reasons)[:3])

    def _size_summary(self) -> dict[str, Any]:
        if not self._sizes:
            return {}
        sides = np.array(list(self._sizes))
        counts = np.array(list(self._sizes.values()))
        median = [int(np.median(np.repeat(sides[:, axis], counts))) for axis in (0, 1)]
        common = [{"size": list(size), "count": count} for size, count in self._sizes.most_common(10)]
        smallest, largest = sides[sides.prod(axis=1).argmin()], sides[sides.prod(axis=1).argmax()]
        return {
            "smallest": smallest.tolist(),
            "median": median,
            "largest": largest.tolist(),
            "distinct": len(self._sizes),
            "most_common": common,
        }

    def _set_warnings(self, groups: Counter[bytes]) -> list[str]:
        """Say what makes a set of pictures hard to learn from, or will surprise its owner."""
        count = len(self.digests)
        warnings = []
        if count == 1:
            warnings.append("there is 1 picture: training can only repeat it")
        elif len(groups) == 1:
            warnings.append(f"all {count} pictures are alike")
        elif count < FEW:
            warnings.append(f"there are only {count} pictures: training will mostly repeat them; give {FEW} or more")
        duplicates = count - len(groups)
        if duplicates > MANY_DUPLICATES * count and len(groups) > 1:
            warnings.append(f"{duplicates} of {count} pictures ({duplicates / count:.0%}) repeat another one exactly")
        points = self._sizes[1, 1]
        if points:
            warnings.append(f"{points} pictures are 1x1: a single colour each")
        ratios = np.array([width / height for height, width in self._sizes])
        weights = np.array(list(self._sizes.values()))
        low, high = _percentiles(ratios, weights)
        if high / low > MIXED_ASPECT:
            warnings.append(
                f"proportions differ (width / height from {low:.2f} to {high:.2f}): look at what --fit crop cuts off"
            )
        return warnings


def _group(groups: dict[str, dict[str, Any]], reason: str, name: str, fix: str) -> None:
    """Count under one heading what differs in its numbers only, and keep the first names."""
    group = groups.setdefault(
        re.sub(r"-?\d[\d.]*", "0", reason), {"reason": reason, "fix": fix, "count": 0, "names": []}
    )
    group["count"] += 1
    if len(group["names"]) < SHOWN_NAMES:
        group["names"].append(name)


def _by_count(groups: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(groups.values(), key=lambda group: -group["count"])


def _percentiles(values: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return the weighted 5th and 95th percentile."""
    order = values.argsort()
    share = np.cumsum(weights[order]) / weights.sum()
    low, high = (int(at) for at in np.searchsorted(share, (0.05, 0.95)))
    return float(values[order[low]]), float(values[order[min(high, len(values) - 1)]])


def held_out_size(count: int) -> int:
    """Return how many of `count` pictures are held out: 5 %, at least 64 of 640 or more, at most 5,000; 0 under 20."""
    if count < 20:
        return 0
    return min(5000, max(64, count // 20)) if count >= 640 else count // 20


def split(names: Sequence[str], digests: Sequence[bytes]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return (train, held out) as sorted int64 indices; the same for the same pictures, whatever the machine.

    Pictures with equal pixels stay together, so that no held-out picture is trained on. Groups are drawn in the order
    of a hash of their names, which does not move when pictures are added, until `held_out_size` is reached; a group
    that no longer fits is passed over.
    """
    groups: dict[bytes, list[int]] = {}
    for index, digest in enumerate(digests):
        groups.setdefault(digest, []).append(index)
    ranks = [blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names]
    wanted = held_out_size(len(names))
    held: list[int] = []
    for members in sorted(groups.values(), key=lambda members: min(ranks[index] for index in members)):
        if len(held) + len(members) <= wanted:
            held += members
        if len(held) == wanted:
            break
    heldout = np.array(sorted(held), dtype=np.int64)
    return np.setdiff1d(np.arange(len(names), dtype=np.int64), heldout), heldout
