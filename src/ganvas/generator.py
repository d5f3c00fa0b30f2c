"""A trained model in use: seeds to latents to images.

    generator = Generator.load("runs/photos")
    images = generator.sample(seeds=range(64))                   # uint8 [64, H, W, C]

An image depends on the weights, its own seed and the options, never on the batch it was made in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ganvas import __version__
from ganvas.checkpoint import Expected, load, load_latest, publish, weights_hash
from ganvas.config import RunConfig, describe
from ganvas.errors import CheckpointError, SettingError, did_you_mean
from ganvas.images import Provenance
from ganvas.latents import label_of, latents
from ganvas.networks import FAMILIES, build_generator
from ganvas.networks.blocks import settle
from ganvas.runtime import choose_machine, one_thread, usable_cores

MEAN_OF = 16_384  # latents that the mean for truncation is taken of: always the same ones
# Images are always computed in batches of this many, the last one filled up: convolution libraries pick other kernels,
# and so other roundings, for other batch sizes.
BATCH = {"cpu": 16, "cuda": 128, "mps": 32}


class Generator:
    """A generator with what it needs to make images; build one with `Generator.load`."""

    def __init__(self, network: nn.Module, about: dict[str, Any], device: str) -> None:
        self.network = settle(network.eval().requires_grad_(False).to(device))
        self.device = device
        self.config = RunConfig.model_validate(about["config"])
        self.channels: int = about["channels"]
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.seen_images: int = about["seen_images"]
        self.about = about
        self._means: dict[int | None, Tensor] = {}
        self.weights = weights_hash(self.network.state_dict())[:16]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its images, in pixels."""
        assert self.config.data.size is not None
        return self.config.data.size

    @property
    def prior(self) -> str:
        """The distribution of its latents: "normal", or "uniform" on [-1, 1]."""
        return FAMILIES[self.config.network.network].prior

    @classmethod
    def load(cls, path: Path | str, *, device: str | None = None, precision: str | None = "fp32") -> Generator:
        """Load the newest sound checkpoint of a run folder, or a folder that `save` wrote.

        `precision` None picks the fastest; fp32, the default, makes the same images everywhere to within rounding.
        Raises CheckpointError, one line naming the file, for anything that is not a sound model.
        """
        machine = choose_machine(device, precision)
        path = Path(path)
        if (path / "manifest.json").is_file() and not (path / "checkpoints").exists():
            found = load(path, expected, parts=["generator"])
        else:
            latest = load_latest(path, expect=expected, parts=["generator"]) if path.is_dir() else None
            if latest is None:
                raise CheckpointError(missing(path))
            found = latest
        network = _build(found.state, machine.dtype)
        network.load_state_dict(found.tensors["generator"])
        about = {**found.state, "seen_images": found.seen_images}
        return cls(network, about, machine.device)

    def save(self, folder: Path | str) -> None:
        """Write the generator alone, without what only training needs, into `folder`; `load` reads it."""
        about = {key: value for key, value in self.about.items() if key != "seen_images"}
        publish(folder, self.seen_images, {"generator": self.network.state_dict()}, about)

    def provenance(self, seed: int | None) -> Provenance:
        """What is written into an image's file about where it came from."""
        return Provenance(version=__version__, weights=self.weights, seed=seed, data=self.about.get("licence"))

    def label(self, name: str | None) -> int | None:
        """The number of a class; raises SettingError for an unknown name, or for any name if there are no classes."""
        if name is None:
            return None
        if not self.classes:
            raise SettingError(f"class '{name}': this generator was trained without classes; leave --class out")
        if name not in self.classes:
            known = ", ".join(self.classes[:20])
            raise SettingError(f"class '{name}' is unknown{did_you_mean(name, self.classes)}: {known}")
        return self.classes.index(name)

    def sample(self, seeds: Iterable[int], *, truncation: float = 1.0, label: str | None = None) -> np.ndarray:
        """Return the images of `seeds`: uint8 `[N, H, W, C]`, in memory at once. See `stream` for the options."""
        made = [images for _, images in self.stream(seeds, truncation=truncation, label=label)]
        return np.concatenate(made) if made else np.zeros((0, *self.size, self.channels), np.uint8)

    def stream(
        self, seeds: Iterable[int], *, truncation: float = 1.0, label: str | None = None
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield `(seeds, images uint8 [B, H, W, C])` a batch at a time, in memory that does not grow with their number.

        `truncation` ψ, 0 to 1: below 1 latents are pulled towards their mean, for fewer and safer images
        (Karras et al. 2019, section B: w̄ + ψ (w − w̄)). `label` is a class by name; None lets each seed pick its own.
        """
        if not 0.0 <= truncation <= 1.0:
            raise SettingError(f"truncation {truncation:g}: is outside 0 to 1; 0.7 is safer, 1 is most varied")
        return self._batches(iter(seeds), truncation, self.label(label))

    def _batches(
        self, queue: Iterator[int], truncation: float, chosen: int | None
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        size, workers = BATCH[self.device], usable_cores() if self.device == "cpu" else 1

        def make(batch: list[int]) -> tuple[list[int], np.ndarray]:
            full = batch + [batch[-1]] * (size - len(batch))
            return batch, to_pixels(self.images(full, truncation, chosen))[: len(batch)]

        # Cores of a CPU work on batches of their own: sharing each operation, they would wait for each other after it.
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(workers, "ganvas", initializer=one_thread if self.device == "cpu" else None) as pool:
            try:
                waiting: deque[Future[tuple[list[int], np.ndarray]]] = deque()
                while batch := list(islice(queue, size)):
                    waiting.append(pool.submit(make, batch))
                    if len(waiting) > workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                torch.set_num_threads(threads)  # which threads to come begin with; one_thread changed it

    @torch.inference_mode()
    def images(self, seeds: list[int], truncation: float = 1.0, label: int | None = None) -> Tensor:
        """Images of `seeds` as the network makes them: fp32 `[N, C, H, W]`, about [-1, 1]."""
        network: Any = self.network
        z = torch.from_numpy(latents(seeds, network.z_dim, self.prior)).to(self.device)
        if not hasattr(network, "mapping"):
            plain: Tensor = network(z * truncation)
            return plain
        w = network.mapping(z, self._labels(seeds, label))
        if truncation < 1.0:
            w = torch.lerp(self._mean_w(label), w, truncation)
        images: Tensor = network.synthesise(w)
        return images

    def _mean_w(self, label: int | None) -> Tensor:
        """The mean intermediate latent `[D]`, of a class or of all: what truncation pulls towards."""
        if label not in self._means:
            network: Any = self.network
            seeds = list(range(MEAN_OF))
            z = torch.from_numpy(latents(seeds, network.z_dim, self.prior)).to(self.device)
            self._means[label] = network.mapping(z, self._labels(seeds, label)).mean(0)
        return self._means[label]

    def _labels(self, seeds: list[int], label: int | None) -> Tensor | None:
        if not self.classes:
            return None
        chosen = [label_of(seed, len(self.classes)) if label is None else label for seed in seeds]
        return torch.tensor(chosen, device=self.device)


def expected(state: Mapping[str, Any]) -> dict[str, Expected]:
    """The tensors that a generator must have whose checkpoint says `state`: part -> name -> (shape, dtype).

    Nothing is allocated, whatever numbers stand there. Raises ValueError where it describes no generator of ours.
    """
    try:
        with torch.device("meta"):  # shapes without memory
            network = _build(state, torch.float32)
    except ValidationError as error:
        raise ValueError(f"is not a generator of this ganvas ({describe(error)[:200]})") from None
    except (KeyError, TypeError, ValueError, RuntimeError, SettingError) as error:
        reason = (str(error).splitlines() or ["a setting is missing"])[0][:120]
        raise ValueError(f"is not a generator of this ganvas ({reason})") from None
    return {"generator": {name: (tuple(one.shape), one.dtype) for name, one in network.state_dict().items()}}


def _build(state: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
    """The network that a checkpoint's `state` describes; raises ValueError and others where it does not."""
    config = RunConfig.model_validate(state["config"])
    channels, classes, licence = state["channels"], state["classes"], state.get("licence")
    if config.data.size is None or state["size"] != list(config.data.size):
        raise ValueError("its size is not that of its settings")
    if config.network.width is None or config.network.z_dim is None:
        raise ValueError("its width or z_dim is missing")
    if type(channels) is not int or channels not in (1, 3):
        raise ValueError("its channels are neither 1 nor 3")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError("its classes are no list of names")
    if not isinstance(licence, str | None):
        raise ValueError("its licence is no text")
    return build_generator(config.network, config.data.size, channels, len(classes), dtype)


def to_pixels(images: Tensor) -> np.ndarray:
    """What networks make to pictures: fp32 `[B, C, H, W]` in [-1, 1] to `uint8 [B, H, W, C]`, clipped and rounded."""
    scaled = ((images.float().clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def missing(path: Path) -> str:
    """One line for a path that holds no model: what is there instead, and what to do."""
    if not path.exists():
        near = sorted(p.name for p in path.parent.iterdir() if p.is_dir()) if path.parent.is_dir() else []
        return f"{path}: there is no such run folder{did_you_mean(path.name, near)}; train one with ganvas train"
    if not path.is_dir():
        return f"{path}: is a file, not a run folder; give the folder that ganvas train wrote, such as runs/photos"
    return f"{path}: holds no checkpoint; give the folder that ganvas train wrote, such as runs/photos"
