"""Large vision networks as features: on small ones of the same kinds, with weights by chance, as the hub has them."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

transformers = pytest.importorskip("transformers")

from ganvas.errors import CheckpointError, MissingExtra, SettingError  # noqa: E402
from ganvas.evaluate import foundation  # noqa: E402
from ganvas.evaluate.foundation import KINDS, open_foundation  # noqa: E402
from ganvas.tensorfile import pack, read_tensors  # noqa: E402

Name = Literal["dinov2", "clip"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}
PREPARED: dict[str, Any] = {
    "crop_size": {"height": 42, "width": 42},
    "size": {"shortest_edge": 64},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.25],
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Folders in the hub's own format, by kind, each with the library's own network."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    dinov2 = transformers.Dinov2Model(transformers.Dinov2Config(image_size=70, **SIZES))
    vision = {"image_size": 42, "intermediate_size": 32, "projection_dim": 8, **SIZES}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
    clip = transformers.CLIPModel(transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=8))
    with foundation._quiet():
        for name, network in (("dinov2", dinov2), ("clip", clip)):
            for parameter in network.parameters():  # the library's own are too small to tell images apart
                torch.nn.init.normal_(parameter, std=0.3)
            network.eval().save_pretrained(root / name)
            (root / name / "preprocessor_config.json").write_text(json.dumps(PREPARED))
    return {"dinov2": (root / "dinov2", dinov2), "clip": (root / "clip", clip)}


@pytest.fixture
def copy(saved: dict[str, tuple[Path, Any]], tmp_path: Path) -> Callable[[Name], Path]:
    """A folder of a kind that may be damaged."""
    return lambda kind: Path(shutil.copytree(saved[kind][0], tmp_path / f"my {kind}"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def images(count: int, side: int = 50, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def one_line(error: pytest.ExceptionInfo[Exception], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text and len(text) < 600
    for part in parts:
        assert part in text


@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_vectors_are_those_of_the_library(saved: dict[str, tuple[Path, Any]], kind: Name) -> None:
    """Prepared with Pillow, as its documentation says, and put through the network that was saved."""
    folder, network = saved[kind]
    pictures = images(3)
    prepared = np.zeros((3, 3, 42, 42))
    for row, channel in np.ndindex(3, 3):
        plane = Image.fromarray(pictures[row, :, :, channel].astype(np.float32), "F")
        values = np.asarray(plane.resize((42, 42), Image.Resampling.BICUBIC)).clip(0, 255) / 255
        prepared[row, channel] = (values - PREPARED["image_mean"][channel]) / PREPARED["image_std"][channel]
    x = torch.from_numpy(prepared).float()
    with torch.inference_mode():
        if kind == "dinov2":
            wanted = network(pixel_values=x).last_hidden_state[:, 0]
        else:
            wanted = network.visual_projection(network.vision_model(pixel_values=x).pooler_output)
    features = open_foundation(kind, str(folder), device="cpu")
    made = features(pictures)
    assert made.dtype == np.float32 and made.shape == (3, 16 if kind == "dinov2" else 8) == (3, features.dimensions)
    assert wanted.std(0).mean() > 3e-3  # images do differ
    np.testing.assert_allclose(made, wanted.numpy(), rtol=0, atol=2e-5)
    assert features.name == f"{kind}:{kind}" and "42x42" in features.resizer


@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_a_vector_depends_on_its_image_alone(saved: dict[str, tuple[Path, Any]], kind: Name) -> None:
    features = open_foundation(kind, str(saved[kind][0]), device="cpu")
    pictures = images(35)
    together = features(pictures)
    np.testing.assert_array_equal(np.concatenate([features(pictures[i : i + 1]) for i in range(35)]), together)
    np.testing.assert_array_equal(features(pictures[::-1]), together[::-1])
    assert features(pictures[:0]).shape == (0, features.dimensions)
    grey = images(2, channels=1)
    np.testing.assert_array_equal(features(grey), features(np.repeat(grey, 3, axis=3)))


def test_the_usual_models_are_those_of_published_distances() -> None:
    """ViT-L/14 both; the means and deviations of ImageNet, and of CLIP's training, in [0, 1]."""
    assert KINDS["dinov2"].default.endswith("/dinov2-large")
    assert KINDS["clip"].default.endswith("/clip-vit-large-patch14")
    for known in KINDS.values():
        np.testing.assert_allclose(known.mean, (0.48, 0.455, 0.406), atol=0.006)
        assert all(0.2 < value < 0.3 for value in known.std)


def test_identity_is_of_weights_and_preparation(copy: Callable[[Name], Path]) -> None:
    folder = copy("dinov2")
    first = open_foundation("dinov2", str(folder), device="cpu").identity
    assert open_foundation("dinov2", str(folder), device="cpu").identity == first
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPARED | {"crop_size": 56}))
    second = open_foundation("dinov2", str(folder), device="cpu").identity
    tensors = read_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes(pack(tensors | {"layernorm.bias": tensors["layernorm.bias"] + 1}))
    assert len({first, second, open_foundation("dinov2", str(folder), device="cpu").identity}) == 3


def test_without_a_preparation_the_usual_one_is_taken(copy: Callable[[Name], Path]) -> None:
    folders = [copy("dinov2"), copy("clip")]
    for folder in folders:
        (folder / "preprocessor_config.json").unlink()
    assert "224x224" in open_foundation("dinov2", str(folders[0]), device="cpu").resizer
    assert "42x42" in open_foundation("clip", str(folders[1]), device="cpu").resizer  # its network takes no other


def test_weights_in_several_files(copy: Callable[[Name], Path]) -> None:
    folder = copy("dinov2")
    whole = open_foundation("dinov2", str(folder), device="cpu")(images(2))
    tensors = read_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, chosen in parts.items():
        (folder / file).write_bytes(pack({name: tensors[name] for name in chosen}))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, chosen in parts.items() for name in chosen}}))
    np.testing.assert_array_equal(open_foundation("dinov2", str(folder), device="cpu")(images(2)), whole)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "../../elsewhere.safetensors")}))
    with pytest.raises(CheckpointError) as error:
        open_foundation("dinov2", str(folder))
    one_line(error, "model.safetensors")


def test_a_folder_is_data_and_never_code(copy: Callable[[Name], Path], tmp_path: Path) -> None:
    """Code beside the weights is not run, nor does config.json make the library load anything else."""
    folder, trace = copy("dinov2"), tmp_path / "was run"
    before = open_foundation("dinov2", str(folder), device="cpu")(images(2))
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"},
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "transformers_weights": "adapter_model.bin",
        "_name_or_path": "someone/else",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/else"}))
    torch.save({"layernorm.bias": torch.ones(16)}, folder / "adapter_model.bin")
    np.testing.assert_array_equal(open_foundation("dinov2", str(folder), device="cpu")(images(2)), before)
    assert not trace.exists()


def drop_weights(folder: Path) -> None:
    tensors = read_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes(
        pack({name: t for name, t in tensors.items() if "layernorm" not in name})
    )


def shrink_weights(folder: Path) -> None:
    tensors = read_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes(pack(tensors | {"layernorm.bias": torch.zeros(3)}))


def pickle_instead(folder: Path) -> None:
    tensors = read_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")


def pickle_in_disguise(folder: Path) -> None:
    torch.save(read_tensors(folder / "model.safetensors"), folder / "model.safetensors")


def set_in(file: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(found | values))

    return change


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json: is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: is not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json: is not a JSON object"),
        (set_in("config.json", model_type="bert"), "holds a model of type 'bert'; dinov2 takes dinov2"),
        (set_in("config.json", hidden_size=32), "of another shape than its config.json says"),
        (set_in("config.json", hidden_act="no such"), "is not a model that can be used"),
        (set_in("config.json", num_attention_heads=0), "is not a model that can be used"),
        (set_in("config.json", patch_size="wide"), "is not a model that can be used"),
        (set_in("preprocessor_config.json", crop_size={"height": 10**6}), "a side of 1 to"),
        (set_in("preprocessor_config.json", crop_size="big"), "a side of 1 to"),
        (set_in("preprocessor_config.json", image_mean=[0.5]), "three means"),
        (set_in("preprocessor_config.json", image_std=[0.5, 0.0, 0.5]), "deviations above 0"),
        (set_in("preprocessor_config.json", crop_size=4), "is not a model that can be used"),  # less than a patch
        (drop_weights, "2 of its tensors are missing"),
        (shrink_weights, "layernorm.bias"),
        (pickle_instead, "holds no model.safetensors; other kinds of weights can hold code"),
        (pickle_in_disguise, "zip archive, as torch.save writes"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "is empty"),
    ],
)
def test_a_damaged_folder_is_one_line(
    copy: Callable[[Name], Path], damage: Callable[[Path], object], says: str
) -> None:
    folder = copy("dinov2")
    damage(folder)
    with pytest.raises(CheckpointError) as error:
        open_foundation("dinov2", str(folder), device="cpu")
    one_line(error, str(folder), says)


def test_clip_is_not_dinov2(saved: dict[str, tuple[Path, Any]]) -> None:
    with pytest.raises(CheckpointError) as error:
        open_foundation("dinov2", str(saved["clip"][0]))
    one_line(error, "'clip'", "dinov2_with_registers")


@pytest.mark.parametrize("model", ["no such folder", "a/b/c", "../up", "name", "https://a/b"])
def test_neither_folder_nor_name(model: str) -> None:
    with pytest.raises(SettingError) as error:
        open_foundation("clip", model)
    one_line(error, model, "clip:openai/")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache in the place of the user's."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_no_network_is_one_line(hub_cache: Path, kind: Name) -> None:
    with pytest.raises(CheckpointError) as error:
        open_foundation(kind)
    one_line(error, KINDS[kind].default, "cannot be reached", f"{kind}:FOLDER")


def test_what_was_fetched_before_opens_without_a_network(hub_cache: Path, saved: dict[str, tuple[Path, Any]]) -> None:
    """Laid out as the hub's cache is: files by their hash, and links to them below a revision."""
    repository = hub_cache / "models--someone--small"
    revision = "0123456789abcdef0123456789abcdef01234567"
    for folder in ("blobs", "refs", f"snapshots/{revision}"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    for number, file in enumerate(sorted(saved["dinov2"][0].iterdir())):
        shutil.copy(file, repository / "blobs" / str(number))
        (repository / "snapshots" / revision / file.name).symlink_to(f"../../blobs/{number}")
    features = open_foundation("dinov2", "someone/small", device="cpu")
    assert features.name == "dinov2:someone/small"
    own = open_foundation("dinov2", str(saved["dinov2"][0]), device="cpu")
    np.testing.assert_array_equal(features(images(2)), own(images(2)))


@pytest.mark.parametrize(("status", "says"), [(404, "no such model"), (403, "accepted its terms"), (500, "reached")])
def test_what_the_hub_answers_is_one_line(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, status: int, says: str
) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    kinds = {404: errors.RepositoryNotFoundError, 403: errors.GatedRepoError, 500: errors.HfHubHTTPError}

    def answer(*_: object, **__: object) -> None:
        error = kinds[status].__new__(kinds[status])  # its own constructor wants a whole HTTP response
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", answer)
    with pytest.raises(CheckpointError) as error:
        open_foundation("dinov2", "someone/small")
    one_line(error, "someone/small", says)


def test_without_the_extra_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foundation, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'ganvas\[foundation\]'"):
        open_foundation("clip")


def test_the_library_speaks_again_afterwards(saved: dict[str, tuple[Path, Any]], capfd: Any) -> None:
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    open_foundation("clip", str(saved["clip"][0]), device="cpu")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")
