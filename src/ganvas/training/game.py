"""One turn of training, whoever plays it: which pictures and latents, from what a turn says and nothing else."""

from __future__ import annotations

import struct
from typing import NamedTuple

import torch

from ganvas.data.batches import Batches, gather
from ganvas.data.cache import Dataset
from ganvas.networks import FAMILIES
from ganvas.objectives import adversarial, penalty
from ganvas.training.ema import half_life, update_average
from ganvas.training.memory import exhaustion
from ganvas.training.plan import Plan, default_r1
from ganvas.training.players import Players
from ganvas.training.step import Losses, draw_latents, play, to_tensor
from ganvas.training.team import Team


class Turn(NamedTuple):
    """Everything about a step that does not follow from the configuration."""

    seen_images: int  # before it
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


LAYOUT = struct.Struct("<2q4d")  # a turn's numbers at full precision


class Game:
    """The pictures, the players and the rules of a run."""

    def __init__(self, plan: Plan, dataset: Dataset, players: Players, team: Team) -> None:
        config, settings = plan.config, plan.config.training
        assert settings.batch is not None and config.network.z_dim is not None
        self.players, self.team = players, team
        self.batch, self.z_dim = settings.batch, config.network.z_dim
        self.objective = adversarial(config.objective.objective)
        # Where none was asked for, R1 stands by: a turn brings it if the monitor finds that it takes one.
        kind, gamma = config.objective.penalty, config.objective.gamma
        self.penalty = default_r1(dataset.images) if kind == "none" else penalty(kind, gamma=gamma)
        self._dataset, self._device, self._ema_images = dataset, plan.machine.device, settings.ema_images
        self.prior = FAMILIES[config.network.network].prior
        self._batches = Batches(len(dataset.train), settings.batch, settings.seed, bool(config.data.flip))
        labels = dataset.labels if plan.classes else None
        self._labels = torch.from_numpy(labels[dataset.train]) if labels is not None else None

    def step(self, turn: Turn) -> Losses:
        """Train both players on the batch that follows `turn.seen_images`, and move the average along.

        Raises TrainingError where memory is used up, or another process of the run is gone.
        """
        with exhaustion():
            losses = self._play(turn)
        halving = half_life(self.batch, turn.seen_images + self.batch, self._ema_images)
        with self.team.resting():
            update_average(self.players.average, self.players.generator, self.batch, halving)
        return losses

    def _play(self, turn: Turn) -> Losses:
        self.players.set_learning_rate(turn.rate, turn.critic_rate)
        indices, flips = self._batches.batch(turn.seen_images)
        random = torch.Generator().manual_seed(turn.seed)
        return play(
            self.players,
            to_tensor(gather(self._dataset, indices, flips), self._device),
            draw_latents(self.prior, self.batch, self.z_dim, random, self._device),
            self._labels[indices].to(self._device) if self._labels is not None else None,
            self.objective,
            self.penalty if turn.penalty else None,
            turn.penalty,
            turn.seed,
            self.team,
            turn.augmentation,
        )
