"""Features of large vision networks: DINOv2 and CLIP, from the model hub or from a folder in the hub's own format.

    open_foundation("dinov2")("uint8 [B, H, W, C]") ──▶ float32 [B, 1024]

`dinov2`: the class token of ViT-L/14 after the last normalisation, which the FD-DINOv2 of Stein et al. 2023 ("Exposing
flaws of generative model evaluation metrics", section 3) is computed on. `clip`: the projected image embedding of
ViT-L/14, not scaled to unit length. CMMD (Jayasumana et al. 2024) takes the same network at 336 pixels, but the hub
has that one only as a pickle, which is not opened here; converted to safetensors it is `clip:FOLDER`.

The hub's `transformers` library, an extra, holds the networks. It gets settings and tensors that were read here: JSON
of which only the fields that shape the network are passed on, and safetensors. So a model's folder is data, whatever
else is in it. The library's port interpolates DINOv2's position embeddings from 518 to 224 pixels a little differently
from the original code; distances agree closely with published ones, not to the last digit.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ganvas.errors import CheckpointError, MissingExtra, SettingError
from ganvas.evaluate.inputs import RECIPE, in_full_batches, resize
from ganvas.files import JSON, one_line, read_json
from ganvas.runtime import choose_machine
from ganvas.tensorfile import read_tensors, weights_hash

Name: TypeAlias = Literal["dinov2", "clip"]
Colour: TypeAlias = tuple[float, float, float]

ANSWER_SECONDS = 5.0  # how long the hub may take to answer before a model counts as out of reach
FILES = ["config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json"]
MAX_SIDE = 1024
# What of a model's config.json is passed on; its other fields are about training, or could make the library load more.
SHAPE = {
    "hidden_act", "hidden_size", "image_size", "intermediate_size", "layer_norm_eps", "layerscale_value", "mlp_ratio",
    "num_attention_heads", "num_channels", "num_hidden_layers", "num_register_tokens", "patch_size", "projection_dim",
    "qkv_bias", "use_swiglu_ffn",
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """One family of networks: where its usual member is, and how that one wants its images."""

    default: str  # on the hub
    classes: Mapping[str, str]  # the model_type of a config.json -> the library's class
    mean: Colour  # of channels in [0, 1]
    std: Colour


KINDS: dict[Name, Kind] = {
    "dinov2": Kind(
        "facebook/dinov2-large",
        {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"},
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    ),
    "clip": Kind(
        "openai/clip-vit-large-patch14",
        {"clip": "CLIPVisionModelWithProjection", "clip_vision_model": "CLIPVisionModelWithProjection"},
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
}


class Foundation:
    """One of these networks as features; build one with `open_foundation`."""

    def __init__(self, name: str, network: nn.Module, side: int, mean: Colour, std: Colour, device: str) -> None:
        self.name = name
        self.device = device
        self.resizer = f"bicubic, antialiased, to {side}x{side}"
        # Vectors depend on how images are prepared as much as on the weights.
        recipe = json.dumps([RECIPE, weights_hash(network.state_dict()), side, mean, std])
        self.identity = f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
        self._network = network.eval().requires_grad_(False).to(device)
        self._side = side
        self._mean = 255 * torch.tensor(mean, device=device)[:, None, None]
        self._std = 255 * torch.tensor(std, device=device)[:, None, None]
        self.dimensions = len(self._vectors(np.zeros((1, 8, 8, 3), np.uint8))[0])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Vectors of images: uint8 `[B, H, W, 1 or 3]` to fp32 `[B, D]`; each depends on its image alone."""
        return in_full_batches(images, self.device, self.dimensions, self._vectors)

    @torch.inference_mode()
    def _vectors(self, images: np.ndarray) -> np.ndarray:
        x = (resize(images, self._side, self.device) - self._mean) / self._std
        # On a GPU convolutions otherwise round to TF32's ten bits, by whichever kernel is fastest that day.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            made: Any = self._network(pixel_values=x)
        vectors: Tensor = made.image_embeds if hasattr(made, "image_embeds") else made.last_hidden_state[:, 0]
        return vectors.float().cpu().numpy()


def open_foundation(
    kind: Name, model: str | None = None, *, device: str | None = None, threads: int | None = None
) -> Foundation:
    """Open `dinov2` or `clip`: the usual model, another one of the hub by its name, or a folder.

    Raises MissingExtra without the extra, and CheckpointError or SettingError, one line, where there is no such model,
    it cannot be reached, or it is not of this kind.
    """
    if find_spec("transformers") is None:
        raise MissingExtra(f"{kind} features", "foundation")
    known = KINDS[kind]
    folder = _find(kind, model or known.default)
    network = _build(folder, *_read_config(folder, kind), _read_weights(folder))
    side, mean, std = _read_preparation(folder, known, network)
    chosen = choose_machine(device, "fp32", threads).device
    name = kind if model is None or model == known.default else f"{kind}:{folder.name if is_folder(model) else model}"
    try:
        return Foundation(name, network, side, mean, std, chosen)
    except (ValueError, RuntimeError) as error:
        raise _unusable(folder, error) from None


def is_folder(model: str) -> bool:
    """Whether a model is named by a folder; a name on the hub has no more than one slash."""
    return Path(model).expanduser().is_dir()


def _find(kind: Name, model: str) -> Path:
    """The folder of a model: as named, or that of the hub's cache, into which it is fetched."""
    if is_folder(model):
        return Path(model).expanduser().resolve()
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model, flags=re.ASCII):
        example = f"{kind}:{KINDS[kind].default}"
        raise SettingError(one_line(f"{kind}:{model}: is no folder and no name on the hub, such as {example}"))
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    offline = False
    try:  # asked first, because the library would retry for long on a machine without a network
        HfApi().model_info(model, timeout=ANSWER_SECONDS)
    except GatedRepoError:
        step = f"accept its terms at https://huggingface.co/{model}, then: hf auth login"
        raise CheckpointError(f"{model}: the hub gives it only to people who accepted its terms; {step}") from None
    except RepositoryNotFoundError:
        raise CheckpointError(f"{model}: the hub has no such model, or it is private (hf auth login)") from None
    except Exception:  # no name server, no route, a proxy's refusal, a time-out, offline mode: all one to the user
        offline = True
    try:
        return Path(snapshot_download(model, allow_patterns=FILES, local_files_only=offline))
    except Exception as error:  # the library raises a dozen kinds of its own and of those below it
        if offline:
            step = f"fetch it where there is a network (hf download {model} --local-dir FOLDER) and name it"
            raise CheckpointError(
                f"{model}: the hub cannot be reached and it was not fetched before; {step}: {kind}:FOLDER"
            ) from None
        raise CheckpointError(one_line(f"{model}: cannot be fetched ({_first_line(error)}); try again")) from None


def _read_config(folder: Path, kind: Name) -> tuple[str, dict[str, Any]]:
    """The library's class for the model in `folder`, and the fields of its settings that shape it."""
    found = _read_object(folder / "config.json")
    classes = KINDS[kind].classes
    if found.get("model_type") not in classes:
        what = f"holds a model of type {str(found.get('model_type'))[:40]!r}"
        raise CheckpointError(one_line(f"{folder}: {what}; {kind} takes {' or '.join(classes)}"))
    inner = found.get("vision_config")  # where there is a text half beside it
    fields = {"projection_dim": found.get("projection_dim")} | inner if isinstance(inner, dict) else found
    shape = {key: value for key, value in fields.items() if key in SHAPE and isinstance(value, (int, float, str))}
    return classes[str(found["model_type"])], shape


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model's safetensors file or files, without those of a text half."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    names = [single.name] if single.is_file() else []
    if not names and index.is_file():
        listed = _read_object(index).get("weight_map")
        names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
    if not names or not all(re.fullmatch(r"model[\w-]*\.safetensors", name, flags=re.ASCII) for name in names):
        why = "other kinds of weights can hold code and are not opened"
        raise CheckpointError(one_line(f"{folder}: holds no model.safetensors; {why}"))
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= read_tensors((folder / name).resolve())  # in the hub's cache these are links
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(("text_", "logit_scale"))}


def _build(folder: Path, class_name: str, shape: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """The network with its weights, fp32; CheckpointError where they do not fill it: it would stay random there."""
    import transformers

    model: Any = getattr(transformers, class_name)
    with _quiet():
        try:
            network, found = model.from_pretrained(
                None,
                config=model.config_class(**shape),
                state_dict=tensors,
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # told below, by name
                output_loading_info=True,
            )
        except Exception as error:  # as above; whatever it is, it comes from what the folder says
            raise _unusable(folder, error) from None
    wrong = sorted(str(entry[0]) for entry in found["mismatched_keys"])
    wrong += sorted(name for name in found["missing_keys"] if not name.endswith("mask_token"))  # of training alone
    if wrong:
        what = f"{len(wrong)} of its tensors are missing or of another shape than its config.json says"
        raise CheckpointError(one_line(f"{folder}: {what} ({wrong[0][:80]}, …); restore it"))
    made: nn.Module = network
    return made


def _read_preparation(folder: Path, known: Kind, network: Any) -> tuple[int, Colour, Colour]:
    """How a model wants its images: the side in pixels, and mean and standard deviation of channels in [0, 1].

    Where it would cut the middle out of a larger image, the whole image is resized to that middle's size instead, as
    in the published distances: all of a picture counts.
    """
    path = folder / "preprocessor_config.json"
    found = _read_object(path) if path.is_file() else {}
    is_clip = hasattr(network, "visual_projection")
    side: Any = found.get("crop_size") or found.get("size") or (network.config.image_size if is_clip else 224)
    if isinstance(side, dict):
        side = side.get("height", side.get("shortest_edge"))
    mean, std = _colour(found.get("image_mean"), known.mean), _colour(found.get("image_std"), known.std)
    if type(side) is not int or not 1 <= side <= MAX_SIDE or mean is None or std is None or min(std) <= 0:
        rule = f"asks for images that cannot be made: a side of 1 to {MAX_SIDE}, three means, three deviations above 0"
        raise CheckpointError(one_line(f"{path}: {rule}"))
    return side, mean, std


def _colour(value: JSON, default: Colour) -> Colour | None:
    """Three numbers; the default where there are none, None where they are something else."""
    if value is None:
        return default
    if not isinstance(value, list) or len(value) != 3:
        return None
    numbers = [float(part) for part in value if isinstance(part, (int, float))]
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None


def _read_object(path: Path) -> dict[str, JSON]:
    found = read_json(path.resolve())  # in the hub's cache these are links
    if not isinstance(found, dict):
        raise CheckpointError(one_line(f"{path}: is not a JSON object; restore it"))
    return found


def _unusable(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(one_line(f"{folder}: is not a model that can be used ({_first_line(error)})"))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:200]


@contextmanager
def _quiet() -> Iterator[None]:
    """No reports, warnings and progress bars of the library: what matters in them is checked and said here."""
    from transformers.utils import logging

    library: Any = logging
    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity(library.CRITICAL)
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()
