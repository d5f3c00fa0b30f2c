"""One turn of training, whoever plays it: which pictures and latents, from what a turn says and nothing else."""

from __future__ import annotations

import struct
from typing import NamedTuple

import torch
from torch import Tensor

from ganvas.data.batches import Batches, Flips, Indices, gather
from ganvas.data.cache import Dataset
from ganvas.networks import FAMILIES
from ganvas.objectives import adversarial, penalty
from ganvas.training.augment import draw_changes
from ganvas.training.ema import half_life, update_average
from ganvas.training.memory import exhaustion, free_bytes
from ganvas.training.plan import Plan, default_r1
from ganvas.training.players import Players
from ganvas.training.recorder import Recorder
from ganvas.training.step import Losses, draw_latents, play, to_tensor
from ganvas.training.team import Team

AUGMENT_STREAM = 1 << 61  # keeps what augmentation draws apart from the latents
RESIDENT = 0.25  # of a GPU's free memory: pictures that take less of it lie there


class Turn(NamedTuple):
    """Everything about a step that does not follow from the configuration."""

    seen_images: int  # before it
    batch: int  # images in it
    seed: int  # of all that is drawn in it
    rate: float  # the generator's learning rate
    critic_rate: float  # the discriminator's, as a multiple of it
    penalty: float  # weight; 0: this step goes without
    augmentation: float  # probability of each change to what the discriminator sees

    def message(self) -> bytes:
        """As bytes, for other processes."""
        return LAYOUT.pack(*self)

    @classmethod
    def read(cls, message: bytes) -> Turn:
        """The turn that `message` holds."""
        return cls(*LAYOUT.unpack(message))


LAYOUT = struct.Struct("<3q4d")  # a turn's numbers at full precision


class Game:
    """The pictures, the players and the rules of a run."""

    def __init__(self, plan: Plan, dataset: Dataset, players: Players, team: Team) -> None:
        config, settings = plan.config, plan.config.training
        assert config.network.z_dim is not None
        self.players, self.team, self.z_dim = players, team, config.network.z_dim
        self.objective = adversarial(config.objective.objective)
        # Where none was asked for, R1 stands by: a turn brings it if the monitor finds that it takes one.
        kind, gamma = config.objective.penalty, config.objective.gamma
        self.penalty = default_r1(dataset.images) if kind == "none" else penalty(kind, gamma=gamma)
        self._dataset, self._device, self._ema_images = dataset, plan.machine.device, settings.ema_images
        self.prior = FAMILIES[config.network.network].prior
        self._batches = Batches(len(dataset.train), settings.seed, bool(config.data.flip))
        labels = dataset.labels if plan.classes else None
        self._labels = torch.from_numpy(labels[dataset.train]) if labels is not None else None
        self._resident: Tensor | None = None
        self._recorder: Recorder | None = None
        if self._device == "cuda":
            taken = len(dataset.train) * dataset.images[0].nbytes
            if taken < RESIDENT * (free_bytes("cuda") or 0):
                self._resident = torch.from_numpy(dataset.images[dataset.train]).to("cuda")
            if team.crew.size == 1:  # several processes meet within a step
                self._recorder = Recorder()

    def step(self, turn: Turn) -> Losses:
        """Train both players on the batch that follows `turn.seen_images`, and move the average along.

        Raises TrainingError where memory is used up, or another process of the run is gone.
        """
        with exhaustion():
            losses = self._play(turn)
        halving = half_life(turn.batch, turn.seen_images + turn.batch, self._ema_images)
        with self.team.resting():
            self.players.learn(losses.finite, self.team.each)
            update_average(self.players.average, self.players.generator, turn.batch, halving)
        return losses

    def _play(self, turn: Turn) -> Losses:
        self.players.set_learning_rate(turn.rate, turn.critic_rate)
        smooth = self.penalty if turn.penalty else None

        def step(real: Tensor, latents: Tensor, labels: Tensor | None, changes: Tensor | None) -> Losses:
            rules = self.objective, smooth, turn.penalty, turn.seed
            return play(self.players, real, latents, labels, *rules, self.team, changes)

        inputs = self._draw(turn)
        if self._recorder is None or (smooth is not None and smooth.draws):
            return step(*inputs)
        return self._recorder((turn.penalty, turn.batch), step, *inputs)

    def _draw(self, turn: Turn) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """What a turn is played on: pictures, latents, labels where there are classes, and what augmentation does."""
        indices, flips = self._batches.take(turn.seen_images, turn.batch)
        random = torch.Generator().manual_seed(turn.seed)
        latents = draw_latents(self.prior, turn.batch, self.z_dim, random, self._device)
        labels = self._labels[indices].to(self._device) if self._labels is not None else None
        changes = None
        if turn.augmentation:
            random = torch.Generator().manual_seed(turn.seed + AUGMENT_STREAM)
            changes = draw_changes(turn.batch, turn.augmentation, random).to(self._device)
        return self._pictures(indices, flips), latents, labels, changes

    def _pictures(self, indices: Indices, flips: Flips) -> Tensor:
        """A batch as networks see it, `[B, C, H, W]`."""
        if self._resident is None:
            return to_tensor(gather(self._dataset, indices, flips), self._device)
        chosen = self._resident[torch.from_numpy(indices).to(self._device)]
        if flips.any():
            mirrored = torch.from_numpy(flips).to(self._device)[:, None, None, None]
            chosen = torch.where(mirrored, chosen.flip(2), chosen)
        return to_tensor(chosen, self._device)
