"""The FID network against a second way of writing it, and its weights file against everything that can go wrong."""

from __future__ import annotations

import hashlib
import http.client
import io
import itertools
from collections.abc import Callable, Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ganvas.errors import CheckpointError, StorageError
from ganvas.evaluate import inception, inputs
from ganvas.evaluate.inception import Inception, expected, find_weights, fold, open_inception, pool3, read_weights
from ganvas.tensorfile import pack


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """Weights by chance, in a range in which signals neither die out nor blow up."""
    source = torch.Generator().manual_seed(0)
    made = {}
    for name, shape in expected().items():
        values = torch.randn(shape, generator=source)
        if len(shape) > 1:
            values *= (2 / np.prod(shape[1:])) ** 0.5
        elif name.endswith(("running_var", "bn.weight")):
            values = 0.5 + torch.rand(shape, generator=source)
        else:
            values *= 0.1
        made[name] = values
    return made


@pytest.fixture(scope="module")
def counted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with the counters that batch normalisation keeps beside its statistics, as in the known file."""
    layers = {name.rsplit(".", 1)[0] for name in tensors if ".bn." in name}
    return tensors | {f"{layer}.num_batches_tracked": torch.tensor(0) for layer in layers}


@pytest.fixture(scope="module")
def safe_file(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    path.write_bytes(pack(tensors))
    yield path
    path.unlink()  # 95 MB


@pytest.fixture(scope="module", params=["zip", "as of 2018"])
def torch_file(
    request: pytest.FixtureRequest, counted: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A file as torch writes it, or wrote it when the known file was made."""
    path = tmp_path_factory.mktemp("weights") / "any name.pth"
    torch.save(counted, path, _use_new_zipfile_serialization=request.param == "zip")
    yield path
    path.unlink()


def pin(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a file's content for that of the published one."""
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(inception, "BYTES", len(data))


DATA = bytes(range(256)) * 64


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, no variable that names a file, and no network."""

    def nowhere(*_: object, **__: object) -> None:
        raise URLError("no network in tests")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(inception.VARIABLE, raising=False)
    monkeypatch.setattr(inception, "urlopen", nowhere)
    return tmp_path / "cache" / "ganvas" / inception.FILE


def images(count: int, side: int = 40, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


# The network


def mean_pool(x: Tensor) -> Tensor:
    """Mean of a 3x3 neighbourhood over the pixels that exist: the sum of nine shifts, over the sum of nine ones."""

    def nine(values: Tensor) -> Tensor:
        height, width = values.shape[2:]
        padded = F.pad(values, (1, 1, 1, 1))
        shifts = itertools.product(range(3), range(3))
        return torch.stack([padded[:, :, dy : dy + height, dx : dx + width] for dy, dx in shifts]).sum(0)

    return nine(x) / nine(torch.ones_like(x))


def max_pool(x: Tensor) -> Tensor:
    return F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-torch.inf), 3, 1)


def shrink(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2)


def reference(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network written out layer by layer, with batch normalisation as a step of its own."""

    def step(name: str, x: Tensor, stride: int = 1, padding: int | tuple[int, int] = 0) -> Tensor:
        x = F.conv2d(x, tensors[f"{name}.conv.weight"], None, stride, padding)
        statistics = tensors[f"{name}.bn.running_mean"], tensors[f"{name}.bn.running_var"]
        affine = tensors[f"{name}.bn.weight"], tensors[f"{name}.bn.bias"]
        return F.relu(F.batch_norm(x, *statistics, *affine, training=False, eps=0.001))

    def thrice(block: str, x: Tensor, stride: int = 1) -> Tensor:
        x = step(f"{block}.branch3x3dbl_2", step(f"{block}.branch3x3dbl_1", x), 1, 1)
        return step(f"{block}.branch3x3dbl_3", x, stride, 1 if stride == 1 else 0)

    x = step("Conv2d_1a_3x3", x, 2)
    x = step("Conv2d_2b_3x3", step("Conv2d_2a_3x3", x), 1, 1)
    x = step("Conv2d_4a_3x3", step("Conv2d_3b_1x1", shrink(x)))
    x = shrink(x)
    for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        fives = step(f"{block}.branch5x5_2", step(f"{block}.branch5x5_1", x), 1, 2)
        pooled = step(f"{block}.branch_pool", mean_pool(x))
        x = torch.cat([step(f"{block}.branch1x1", x), fives, thrice(block, x), pooled], 1)
    x = torch.cat([step("Mixed_6a.branch3x3", x, 2), thrice("Mixed_6a", x, 2), shrink(x)], 1)
    for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        sevens = step(f"{block}.branch7x7_2", step(f"{block}.branch7x7_1", x), 1, (0, 3))
        sevens = step(f"{block}.branch7x7_3", sevens, 1, (3, 0))
        double = step(f"{block}.branch7x7dbl_1", x)
        for number, padding in ((2, (3, 0)), (3, (0, 3)), (4, (3, 0)), (5, (0, 3))):
            double = step(f"{block}.branch7x7dbl_{number}", double, 1, padding)
        pooled = step(f"{block}.branch_pool", mean_pool(x))
        x = torch.cat([step(f"{block}.branch1x1", x), sevens, double, pooled], 1)
    threes = step("Mixed_7a.branch3x3_2", step("Mixed_7a.branch3x3_1", x), 2)
    sevens = step("Mixed_7a.branch7x7x3_2", step("Mixed_7a.branch7x7x3_1", x), 1, (0, 3))
    sevens = step("Mixed_7a.branch7x7x3_4", step("Mixed_7a.branch7x7x3_3", sevens, 1, (3, 0)), 2)
    x = torch.cat([threes, sevens, shrink(x)], 1)
    for block, pool in (("Mixed_7b", mean_pool), ("Mixed_7c", max_pool)):
        one = step(f"{block}.branch3x3_1", x)
        two = step(f"{block}.branch3x3dbl_2", step(f"{block}.branch3x3dbl_1", x), 1, 1)
        fans = [
            step(f"{block}.{name}{way}", start, 1, padding)
            for name, start in (("branch3x3_2", one), ("branch3x3dbl_3", two))
            for way, padding in (("a", (0, 1)), ("b", (1, 0)))
        ]
        x = torch.cat([step(f"{block}.branch1x1", x), *fans, step(f"{block}.branch_pool", pool(x))], 1)
    assert x.shape[1] == 2048
    return x.flatten(2).mean(2)


@pytest.mark.parametrize("side", [299, 107])
def test_the_table_is_the_network(tensors: dict[str, Tensor], side: int) -> None:
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(3)) * 2 - 1
    with torch.inference_mode():
        made, wanted = pool3(x, fold(tensors)), reference(tensors, x)
    assert made.shape == (1, 2048) and wanted.std() > 0.1
    assert torch.linalg.norm(made - wanted) < 2e-6 * torch.linalg.norm(wanted)


def test_a_folded_convolution_is_convolution_and_normalisation(tensors: dict[str, Tensor]) -> None:
    """In fp64 by the formula, for each of them alone."""
    folded = fold(tensors)
    for name, channels, conv in inception.convolutions():
        x = torch.randn(1, channels, 7, 7, dtype=torch.float64)
        plain = F.conv2d(x, tensors[f"{name}.conv.weight"].double())
        mean, var, gamma, beta = (
            tensors[f"{name}.bn.{part}"].double()[None, :, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        weight, bias = folded[name]
        made = F.conv2d(x, weight.double(), bias.double())
        assert made.shape[1] == conv.out
        torch.testing.assert_close(made, gamma * (plain - mean) / (var + 1e-3).sqrt() + beta, rtol=0, atol=2e-6)


def test_pools_against_numpy() -> None:
    """The mean is over the pixels that exist, four of them in a corner; so is the maximum."""
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 6)).astype(np.float32) - 5
    for step, of in (("mean", np.mean), ("max", np.max)):
        made = inception._run((step,), torch.from_numpy(x), "", {}).numpy()
        for y, column in itertools.product(range(5), range(6)):
            around = x[:, :, max(0, y - 1) : y + 2, max(0, column - 1) : column + 2]
            np.testing.assert_allclose(made[:, :, y, column], of(around, axis=(2, 3)), rtol=1e-5)


def test_parameters_are_those_of_the_known_file(counted: dict[str, Tensor]) -> None:
    """Against published counts, and what the network for the FID has and lacks beside the published one."""
    published = 27_161_264  # parameters of the usual library's Inception-v3, with 1000 outputs and a second classifier
    second = (768 * 128 + 2 * 128) + (128 * 768 * 25 + 2 * 768) + (768 + 1) * 1000
    learnt = [name for name in expected() if "running" not in name]
    assert sum(int(np.prod(expected()[name])) for name in learnt) == published - second + 8 * (2048 + 1)
    assert len(counted) == 566  # entries of the known file
    # Szegedy et al. 2016, table 1: the grids have 35x35x288, 17x17x768, 8x8x1280 and 8x8x2048 values.
    inputs = {name: channels for name, channels, _ in inception.convolutions()}
    assert inputs["Mixed_5b.branch1x1"] == 192 and inputs["Mixed_6a.branch3x3"] == 288
    assert inputs["Mixed_6b.branch1x1"] == 768 and inputs["Mixed_7a.branch3x3_1"] == 768
    assert inputs["Mixed_7b.branch1x1"] == 1280 and inputs["Mixed_7c.branch1x1"] == 2048
    assert expected()["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert expected()["Mixed_6e.branch7x7dbl_3.conv.weight"] == (192, 192, 1, 7)
    assert expected()["fc.weight"] == (1008, 2048)


# The features


@pytest.fixture
def features(tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> Inception:
    """The features on images of 75 pixels, the smallest that the network can take, four at a time."""
    monkeypatch.setattr(inception, "SIDE", 75)
    monkeypatch.setitem(inputs.BATCH, "cpu", 4)
    return Inception(tensors, "cpu")


def test_a_vector_depends_on_its_image_alone(features: Inception) -> None:
    pictures = images(9)
    alone = np.concatenate([features(pictures[index : index + 1]) for index in range(9)])
    assert alone.shape == (9, 2048) and alone.dtype == np.float32 and alone.std() > 0
    np.testing.assert_array_equal(features(pictures), alone)
    np.testing.assert_array_equal(features(pictures[::-1]), alone[::-1])
    assert features(pictures[:0]).shape == (0, 2048)


def test_grey_is_colour_with_equal_channels(features: Inception) -> None:
    grey = images(2, channels=1)
    np.testing.assert_array_equal(features(grey), features(np.repeat(grey, 3, axis=3)))


@pytest.mark.parametrize("side", [32, 64, 299, 500])
def test_images_are_prepared_as_clean_fid_does(
    tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    """Parmar et al. 2022: each channel resized by Pillow's bicubic filter as float, then clipped to 0..255."""
    monkeypatch.setitem(inputs.BATCH, "cpu", 2)
    seen: list[Tensor] = []
    monkeypatch.setattr(inception, "pool3", lambda x, folded: seen.append(x.clone()) or torch.zeros(len(x), 2048))
    pictures = images(2, side)
    Inception(tensors, "cpu")(pictures)
    for picture, made in zip(pictures, seen[0], strict=True):
        for channel in range(3):
            plane = Image.fromarray(picture[:, :, channel].astype(np.float32), "F")
            wanted = np.asarray(plane.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
            np.testing.assert_allclose(made[channel].numpy() * 128 + 128, wanted, rtol=0, atol=2e-3)


# The weights


def one_line(error: pytest.ExceptionInfo[Exception], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text and len(text) < 600
    for part in parts:
        assert part in text


def test_all_forms_of_the_file_are_the_same_features(
    torch_file: Path, safe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(torch_file.read_bytes(), monkeypatch)
    first, second = open_inception(str(torch_file), device="cpu"), open_inception(str(safe_file), device="cpu")
    assert first.identity == second.identity and first.identity.startswith("inception-")
    assert (first.name, first.dimensions) == ("inception", 2048) and "299" in first.resizer


def test_identity_is_of_the_weights(tensors: dict[str, Tensor]) -> None:
    other = {**tensors, "fc.bias": tensors["fc.bias"] + 1}
    assert Inception(other, "cpu").identity != Inception(tensors, "cpu").identity


def test_identity_is_of_the_preparation_too(tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    before = Inception(tensors, "cpu").identity
    monkeypatch.setattr(inception, "RECIPE", inception.RECIPE + 1)
    assert Inception(tensors, "cpu").identity != before


def test_another_file_is_refused_unread(torch_file: Path) -> None:
    """These tensors would fit, but they are not the published ones."""
    with pytest.raises(CheckpointError) as error:
        open_inception(str(torch_file))
    one_line(error, str(torch_file), "SHA-256")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("fc.bias"), "fc.bias is missing"),
        (lambda t: t.update(extra=torch.zeros(2)), "extra is [2]"),
        (lambda t: t.update({"fc.bias": torch.zeros(1000)}), "[1000], float32; the FID network asks for [1008]"),
        (lambda t: t.update({"fc.bias": t["fc.bias"].half()}), "float16"),
    ],
    ids=["missing", "more", "shape", "type"],
)
def test_other_tensors_are_refused_by_name(
    tensors: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, Tensor]], object],
    says: str,
) -> None:
    changed = dict(tensors)
    change(changed)
    monkeypatch.setattr(inception, "read_tensors", lambda path: changed)
    with pytest.raises(CheckpointError) as error:
        read_weights(Path("a.safetensors"))
    one_line(error, "a.safetensors", says)


def test_where_weights_are_looked_for(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named file before the variable before the cache; each that is named must be there."""
    cache.parent.mkdir(parents=True)
    files = [cache, tmp_path / "by variable.pth", tmp_path / "by name.pth"]
    for path in files:
        path.write_bytes(DATA)
    assert find_weights() == files[0]
    monkeypatch.setenv(inception.VARIABLE, str(files[1]))
    assert find_weights() == files[1]
    assert find_weights(str(files[2])) == files[2]
    monkeypatch.setenv(inception.VARIABLE, "/not/there.pth")
    with pytest.raises(CheckpointError) as error:
        find_weights()
    one_line(error, "/not/there.pth", inception.VARIABLE, inception.ADDRESS)
    with pytest.raises(CheckpointError) as error:
        find_weights("nowhere.pth")
    one_line(error, "nowhere.pth", "--features", inception.ADDRESS)


class Answer(io.BytesIO):
    """What a server sends; counts what was taken of it."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        part = super().read(size)
        self.taken += len(part)
        return part


def test_a_download_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(DATA, monkeypatch)
    answers = [Answer(DATA)]
    monkeypatch.setattr(inception, "urlopen", lambda *_, **__: answers.pop())
    assert find_weights() == find_weights() == cache  # asked for once
    assert list(cache.parent.iterdir()) == [cache] and cache.read_bytes() == DATA


@pytest.mark.parametrize(
    "fault",
    [
        URLError("Name or service not known"),
        HTTPError("https://a", 404, "Not Found", Message(), None),
        TimeoutError("timed out"),
        ConnectionResetError(104, "Connection reset by peer"),
        http.client.IncompleteRead(b"abc"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_no_network_says_what_to_fetch_and_where_to_put_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(inception, "urlopen", fail)
    with pytest.raises(CheckpointError) as error:
        open_inception()
    one_line(error, inception.ADDRESS, str(cache), "inception:PATH")
    assert not cache.exists()


@pytest.mark.parametrize("sent", [b"", b"<html>please log in</html>", "cut off", "changed", "endless"], ids=str)
def test_what_is_not_the_file_is_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes | str) -> None:
    pin(DATA, monkeypatch)
    answer = Answer({"cut off": DATA[:-1], "changed": DATA[:-1] + b"x", "endless": DATA * 1000}.get(sent, sent))
    monkeypatch.setattr(inception, "urlopen", lambda *_, **__: answer)
    with pytest.raises(CheckpointError) as error:
        open_inception()
    one_line(error, inception.ADDRESS, str(cache))
    assert not cache.exists()
    assert answer.taken <= inception.BYTES + 2**20


def test_a_cache_that_cannot_be_written_is_a_storage_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(DATA, monkeypatch)
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the folder should be")
    monkeypatch.setattr(inception, "urlopen", lambda *_, **__: Answer(DATA))
    with pytest.raises(StorageError) as error:
        open_inception()
    one_line(error, str(cache.parent))


@pytest.fixture
def server() -> Iterator[str]:
    """A server on this machine that sends a file, after sending the client to another address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/first":
                self.send_response(302)
                self.send_header("Location", "/second")
                self.end_headers()
            elif self.path == "/second":
                self.send_response(200)
                self.send_header("Content-Length", str(len(DATA)))
                self.end_headers()
                self.wfile.write(DATA)
            else:
                self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_against_a_real_server(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(DATA, monkeypatch)
    monkeypatch.setattr(inception, "urlopen", urlopen)
    monkeypatch.setattr(inception, "ADDRESS", f"{server}/first")
    inception.fetch(tmp_path / "new" / "kept")
    assert (tmp_path / "new" / "kept").read_bytes() == DATA
    monkeypatch.setattr(inception, "ADDRESS", f"{server}/other")
    with pytest.raises(CheckpointError) as error:
        inception.fetch(tmp_path / "new" / "other")
    one_line(error, "404")
