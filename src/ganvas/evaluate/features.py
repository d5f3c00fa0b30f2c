"""Images to vectors: the registry of networks, and the one resizing that all of them share.

    features = open_features("lite0")
    rows = vectors(features, batches)                            # float32 [N, D]

A row depends on its image alone, never on the batch it was computed in: so any order, and any batching, gives the same
figures. Rectangles are squashed to a square, as every published FID does: nothing is cropped away.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch

from ganvas.errors import SettingError, did_you_mean
from ganvas.evaluate.inputs import RECIPE, area, check_images, in_full_batches, resize
from ganvas.evaluate.lite0 import DIMENSIONS, SHA256, Lite0, load_lite0
from ganvas.files import one_line
from ganvas.runtime import choose_machine

Function: TypeAlias = Callable[[np.ndarray], Any]

NAMES = ("lite0", "pixels", "inception", "dinov2", "clip")
# 400 faces of 128 px hardly tell a faint checkerboard, or JPEG at 50, from none at side 96, and clearly do at 128.
# lite0@224 separates such faults two to four times as far, in three times the time.
LITE0_SIDE, PIXELS_SIDE = 128, 32
WINDOW = 64  # images that `vectors` gathers before it asks for their rows; a multiple of each of those


@runtime_checkable
class Features(Protocol):
    """Something that turns images into vectors. Call it with uint8 `[B, H, W, 1 or 3]` for float32 `[B, D]`."""

    name: str  # as printed: "lite0@128"
    dimensions: int  # D; 0 where only the first images tell
    resizer: str  # in words
    identity: str  # name and a hash of all that makes the vectors: what kept vectors are found by

    def __call__(self, images: np.ndarray) -> np.ndarray: ...


def open_features(spec: str | Function, *, device: str | None = None, threads: int | None = None) -> Features:
    """Open features by name, or make them of a callable.

    `spec` is one of

    - `lite0` or `lite0@SIDE` (side in pixels: 64 to 512, a multiple of 32): EfficientNet-Lite0, offline;
    - `pixels` or `pixels@SIDE` (4 to 32): area means, for the nearest picture and nothing subtle;
    - `inception` or `inception:PATH` (of its weights): the network of papers' FID;
    - `dinov2`, `clip`, or one with `:` and a model of the hub or a folder: foundation models, through the hub;
    - `module:function`, or a callable: uint8 `[B, H, W, C]` to floats `[B, D]`. The module is imported, which runs it,
      and is looked for in the working directory too.

    `device` and `threads` are as for `choose_machine`. Raises SettingError for what is none of these, MissingExtra
    where a package is not installed, CheckpointError where weights are not the published ones.
    """
    if not isinstance(spec, str):
        return spec if isinstance(spec, Features) else _Own(spec, _name_of(spec))
    head, colon, rest = spec.partition(":")
    name, at, side = head.partition("@")
    if name not in NAMES:
        if not colon or at:
            raise SettingError(
                one_line(f"features '{spec}': unknown{did_you_mean(name, NAMES)}; give {', '.join(NAMES)}")
                + ", or your own as module:function"
            )
        return _Own(_import(spec, head, rest), spec)
    has_side = name in ("lite0", "pixels")
    if (colon and (has_side or not rest)) or (at and not has_side):
        takes = f"a side, as {name}@SIDE" if has_side else f"its weights, as {name}:PATH"
        raise SettingError(one_line(f"features '{spec}': after its name, {name} takes {takes}, or nothing"))
    if name == "pixels":
        return _Pixels(_side(spec, side, PIXELS_SIDE, 4, 32, 1) if at else PIXELS_SIDE)
    chosen = _side(spec, side, LITE0_SIDE, 64, 512, 32) if at else LITE0_SIDE
    machine = choose_machine(device, "fp32", threads)
    if name == "lite0":
        return _Lite0(chosen, machine.device)
    if name == "inception":
        from ganvas.evaluate.inception import open_inception

        return open_inception(rest or None, device=machine.device, threads=machine.threads)
    from ganvas.evaluate.foundation import open_foundation

    kind: Literal["dinov2", "clip"] = "dinov2" if name == "dinov2" else "clip"
    return open_foundation(kind, rest or None, device=machine.device, threads=machine.threads)


def vectors(
    features: Features,
    batches: Iterable[np.ndarray],
    count: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Rows of all images, float32 `[N, D]`, in their order; memory grows with the rows, not with the images.

    `batches` are uint8 `[B, H, W, C]`, of any B. At most `count` images are taken, and no batch beyond them is asked
    for. `progress` is called with images done, and `count` or, where that is not known, images done again.
    """
    rows: list[np.ndarray] = []
    done = 0
    for images in _windows(batches, count):
        rows.append(features(images))
        done += len(images)
        if progress is not None:
            progress(done, max(count or 0, done))
    return np.concatenate(rows) if rows else np.zeros((0, features.dimensions), np.float32)


def _windows(batches: Iterable[np.ndarray], count: int | None) -> Iterator[np.ndarray]:
    """The first `count` images, or all, WINDOW at a time, and then the rest."""
    waiting: list[np.ndarray] = []
    for images in batches if count is None else _first(batches, count):
        waiting.append(images)
        if sum(map(len, waiting)) >= WINDOW:
            together = np.concatenate(waiting)
            whole = len(together) // WINDOW * WINDOW
            for start in range(0, whole, WINDOW):
                yield together[start : start + WINDOW]
            waiting = [together[whole:]]
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)


def _first(batches: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """The first `count` images, without a look at the batch after them."""
    source = iter(batches)
    while count > 0 and (images := next(source, None)) is not None:
        yield images[:count]
        count -= len(images)


class _Lite0:
    """EfficientNet-Lite0 on images squashed to a square."""

    dimensions = DIMENSIONS

    def __init__(self, side: int, device: str) -> None:
        self.side, self.device = side, device
        self.name = f"lite0@{side}"
        self.resizer = f"bicubic, antialiased, to {side}x{side}"
        self.identity = _identity(self.name, SHA256)
        self._network: Lite0 = load_lite0(device)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        # On a GPU convolutions otherwise round to TF32's ten bits, by whichever kernel is fastest that day.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            return in_full_batches(images, self.device, DIMENSIONS, self._rows)

    def _rows(self, images: np.ndarray) -> np.ndarray:
        rows: np.ndarray = self._network.features(resize(images, self.side, self.device)).cpu().numpy()
        return rows


class _Pixels:
    """The picture itself, made small: area means, -1 to 1. Sums of whole numbers, so exact before the last rounding."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.name = f"pixels@{side}"
        self.dimensions = 0
        self.resizer = f"area means, {side}x{side}"
        self.identity = _identity(self.name, "")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        check_images(images)
        count, height, width, channels = images.shape
        self.dimensions = self.side * self.side * channels
        rows, columns = area(height, self.side), area(width, self.side)
        made = np.zeros((count, self.dimensions), np.float32)
        for start in range(0, count, 16):  # fp64 takes eight times the memory
            x = images[start : start + 16].transpose(0, 3, 1, 2).astype(np.float64)
            sums = rows @ (x @ columns.T)
            made[start : start + 16] = (sums / (height * width * 127.5) - 1.0).reshape(len(x), -1)
        return made


class _Own:
    """A user's own function."""

    resizer = "its own"

    def __init__(self, function: Function, name: str) -> None:
        self.name, self.function = name, function
        self.dimensions = 0
        self._is_checked = False
        self.identity = _identity(name, self._fingerprint())

    def __call__(self, images: np.ndarray) -> np.ndarray:
        check_images(images)
        rows = self._rows(images)
        if not self._is_checked and len(images) > 1:
            alone = self._rows(images[:1])
            if np.abs(alone - rows[:1]).max() > 0.01 * np.abs(rows[:1]).max() + 1e-6:
                raise SettingError(
                    one_line(f"features {self.name}: the vector of an image differs with the images beside it, or ")
                    + "from call to call; make it depend on its image alone (a network: eval mode, no dropout)"
                )
            self._is_checked = True
        return rows

    def _rows(self, images: np.ndarray) -> np.ndarray:
        """What the function makes of images, float32 `[B, D]`; SettingError where that is not what it should be."""
        try:
            made = np.asarray(self.function(images))
        except Exception as error:
            raise SettingError(
                one_line(f"features {self.name}: failed on uint8 {list(images.shape)} ({_short(error)}); mend it")
            ) from error
        wrong = None
        if made.dtype.kind != "f":
            wrong = f"returned {made.dtype}; return floats"
        elif made.ndim != 2 or len(made) != len(images) or not made.shape[1]:
            wrong = f"returned shape {list(made.shape)} for {len(images)} images; return [{len(images)}, D]"
        elif self.dimensions and made.shape[1] != self.dimensions:
            wrong = f"returned {made.shape[1]} numbers an image after {self.dimensions} before; return as many always"
        elif not np.isfinite(made).all():
            wrong = "returned values that are not finite; mend it, or scale its input"
        if wrong:
            raise SettingError(one_line(f"features {self.name}: {wrong}"))
        self.dimensions = made.shape[1]
        return made.astype(np.float32)

    def _fingerprint(self) -> str:
        """What tells this function from others of its name: its source file, and its vectors of four images of noise.

        The vectors answer for all that the file does not show: weights, settings, helpers. A function that does not
        take those images answers for nothing, so no vectors are kept from one process to the next.
        """
        digest = hashlib.sha256()
        with suppress(TypeError, OSError):
            digest.update(Path(inspect.getsourcefile(self.function) or "").read_bytes())
        try:
            probe = np.random.Generator(np.random.Philox(0)).integers(0, 256, (4, 64, 64, 3), np.uint8)
            digest.update(np.ascontiguousarray(self._rows(probe)).tobytes())
        except SettingError:
            digest.update(secrets.token_bytes(16))
        self.dimensions = 0  # the pictures may have other channels
        return digest.hexdigest()


def _import(spec: str, module: str, function: str) -> Function:
    """The callable `function` (dots allowed) of `module`, which may lie in the working directory."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # first, and to stay, as python -m does
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # whatever the user's module raises
        raise SettingError(one_line(f"features '{spec}': cannot import {module} ({_short(error)}); mend it")) from error
    for part in function.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        names = [name for name in vars(sys.modules[module]) if not name.startswith("_")]
        raise SettingError(
            one_line(f"features '{spec}': {module} has no function '{function}'{did_you_mean(function, names)}")
        )
    result: Function = found
    return result


def _side(spec: str, text: str, usual: int, low: int, high: int, step: int) -> int:
    """The side after the @, in pixels."""
    if text.isascii() and text.isdigit() and low <= int(text[:6]) <= high and int(text[:6]) % step == 0:
        return int(text)
    which = f"a multiple of {step} from {low} to {high}" if step > 1 else f"from {low} to {high}"
    raise SettingError(one_line(f"features '{spec}': the side after @ must be {which}; {usual} is usual"))


def _identity(name: str, what: str) -> str:
    return f"{name}-{hashlib.sha256(f'{RECIPE} {what}'.encode()).hexdigest()[:16]}"


def _name_of(function: Function) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return one_line(f"{getattr(function, '__module__', None) or '?'}:{name}")


def _short(error: Exception) -> str:
    return f"{type(error).__name__}, {error}"[:160]
