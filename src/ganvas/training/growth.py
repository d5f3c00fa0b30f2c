"""How many images a step takes: few at first, when any rough direction will do, and more as finer ones are wanted."""

from __future__ import annotations

import math
from dataclasses import dataclass

PATIENCE = 250  # a batch of b is doubled after PATIENCE · b² images, so that it grows with the root of the images seen


@dataclass(frozen=True)
class Growth:
    """A batch that grows from `first` to `last` images, which is `first` doubled some times, or as often as not at all.

    Small batches take more steps of the same images, which counts while a step's direction is hardly in doubt; large
    ones are quicker by the image, and less noisy (McCandlish et al. 2018, "An Empirical Model of Large-Batch
    Training": the batch that pays grows as training goes on). Everything is a function of the images seen, so that a
    run goes on as it would have gone on.
    """

    first: int
    last: int

    @staticmethod
    def fits(first: int, last: int) -> bool:
        """Whether `last` is `first` doubled some times, or `first`."""
        return last % first == 0 and (last // first).bit_count() == 1

    def batch(self, seen_images: int) -> int:
        """The images of the step that begins after `seen_images`."""
        batch = self.first
        while batch < self.last and seen_images >= PATIENCE * batch**2:
            batch *= 2
        return batch

    def steps(self, seen_images: int) -> int:
        """The steps that `seen_images` took."""
        steps, before, batch = 0, 0, self.first
        while batch < self.last and seen_images > PATIENCE * batch**2:
            steps += (PATIENCE * batch**2 - before) // batch
            before, batch = PATIENCE * batch**2, 2 * batch
        return steps + (seen_images - before) // batch

    def pace(self, batch: int) -> float:
        """What the learning rate is multiplied by at a `batch`: the square root of how much it has grown.

        The direction of a mean of more images is less in doubt, by just that (Malladi et al. 2022, "On the SDEs and
        Scaling Rules for Adaptive Gradient Algorithms", section 4).
        """
        return math.sqrt(batch / self.first)
