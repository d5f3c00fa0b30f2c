"""A trained model in use: an image is its seed's, a model is loaded whole or refused, and saves as it was."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faults import in_child, memory_limit
from ganvas import checkpoint
from ganvas.checkpoint import publish, weights_hash
from ganvas.errors import CheckpointError, SettingError
from ganvas.generator import BATCH, Generator, to_pixels
from ganvas.runtime import usable_cores

KINDS = ["trained", "trained_classes", "trained_dcgan"]


@pytest.fixture(params=KINDS)
def generator(request: pytest.FixtureRequest) -> Generator:
    return Generator.load(request.getfixturevalue(request.param))


def test_images_are_pictures(generator: Generator) -> None:
    images = generator.sample(range(5))
    assert images.shape == (5, *generator.size, generator.channels) and images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 5, "and no two are the same"


def test_an_image_depends_on_its_own_seed_alone(generator: Generator) -> None:
    """Alone, in any batch, in any order, beside copies of itself: the same bytes."""
    alone = {seed: generator.sample([seed]).tobytes() for seed in (0, 5, 2**40)}
    rest = list(range(10, 10 + 2 * BATCH["cpu"]))
    for seeds in ([0, 5, 2**40], [2**40, 0, 5, 0, 0], [*rest, 5, 0, 2**40], [5, *rest, 0, *rest, 2**40]):
        for seed, image in zip(seeds, generator.sample(seeds), strict=True):
            if seed in alone:
                assert image.tobytes() == alone[seed], (seed, len(seeds))


def test_loading_twice_makes_the_same_images(request: pytest.FixtureRequest) -> None:
    for kind in KINDS:
        one, two = (Generator.load(request.getfixturevalue(kind)) for _ in range(2))
        assert one.sample(range(3)).tobytes() == two.sample(range(3)).tobytes() and one.weights == two.weights


def test_seeds_may_be_any_iterable_and_none(generator: Generator) -> None:
    expected = generator.sample([3, 4])
    assert np.array_equal(generator.sample(iter((3, 4))), expected)
    assert np.array_equal(generator.sample(range(3, 5)), expected)
    assert generator.sample([]).shape == (0, *generator.size, generator.channels)


def test_streaming_reads_seeds_only_as_it_goes(generator: Generator) -> None:
    taken: list[int] = []

    def endless() -> Any:
        seed = 0
        while True:
            taken.append(seed)
            yield seed
            seed += 1

    stream = generator.stream(endless())
    for step in range(1, 4):
        seeds, images = next(stream)
        assert len(seeds) == len(images) == BATCH["cpu"]
        assert len(taken) <= (step + usable_cores()) * BATCH["cpu"], "at most a batch ahead for each core"


def test_images_do_not_depend_on_the_number_of_cores(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor on whether a stream was read to its end; and a caller's threads stay as many as they were."""
    model, before = Generator.load(trained), torch.get_num_threads()
    made = {}
    for cores in (1, 2, 5):
        monkeypatch.setattr("ganvas.generator.usable_cores", lambda cores=cores: cores)
        next(model.stream(range(10 * BATCH["cpu"])))
        made[cores] = model.sample(range(3 * BATCH["cpu"] + 1)).tobytes()
    assert made[1] == made[2] == made[5]
    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before, "threads that begin later too"


def test_truncation_pulls_every_image_towards_the_mean(generator: Generator) -> None:
    label = generator.classes[0] if generator.classes else None
    mean = generator.sample(range(6), truncation=0.0, label=label)
    assert all(np.array_equal(image, mean[0]) for image in mean), "0 is the mean image, whatever the seed"
    spread = [generator.sample(range(12), truncation=t, label=label).std(0).mean() for t in (0.0, 0.5, 1.0)]
    assert spread[0] == 0 < spread[1] < spread[2]
    full = generator.sample(range(6), label=label)
    assert np.array_equal(generator.sample(range(6), truncation=1.0, label=label), full)


def test_truncation_is_a_line_between_the_mean_and_w(trained: Path) -> None:
    """Karras et al. 2019, section B: w̄ + ψ (w − w̄), the mean taken over many latents."""
    generator = Generator.load(trained)
    network: Any = generator.network
    torch.manual_seed(0)
    with torch.inference_mode():
        mean = network.mapping(torch.randn(500_000, network.z_dim)).mean(0)
        found = generator.images([1, 2], 0.0)
        expected = network.synthesise(mean.expand(2, -1))
    assert (found - expected).abs().max() < 0.1 * expected.std()


@pytest.mark.parametrize("truncation", [-0.1, 1.1, float("nan"), float("inf")])
def test_truncation_outside_0_to_1_is_refused(trained: Path, truncation: float) -> None:
    with pytest.raises(SettingError, match="outside 0 to 1"):
        Generator.load(trained).sample([0], truncation=truncation)


def test_a_class_by_name_is_that_class(trained_classes: Path) -> None:
    generator = Generator.load(trained_classes)
    assert generator.classes == ("early", "late")
    early, late, own = (generator.sample(range(20), label=label) for label in ("early", "late", None))
    assert not np.array_equal(early, late)
    picks = [np.array_equal(mine, one) for mine, one in zip(own, early, strict=True)]
    assert 0 < sum(picks) < 20, "left open, each seed picks its own"
    for mine, one, other in zip(own, early, late, strict=True):
        assert np.array_equal(mine, one) or np.array_equal(mine, other)


def test_an_unknown_class_is_refused(trained: Path, trained_classes: Path) -> None:
    with pytest.raises(SettingError, match=r"class 'erly' is unknown \(did you mean 'early'\?\): early, late"):
        Generator.load(trained_classes).sample([0], label="erly")
    with pytest.raises(SettingError, match="trained without classes"):
        Generator.load(trained).sample([0], label="early")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_alone_makes_the_same_images(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    generator = Generator.load(request.getfixturevalue(kind))
    generator.save(tmp_path / "model")
    again = Generator.load(tmp_path / "model")
    assert again.sample(range(3)).tobytes() == generator.sample(range(3)).tobytes()
    assert (again.weights, again.classes, again.size, again.config) == (
        generator.weights, generator.classes, generator.size, generator.config,
    )  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "generator.safetensors", "manifest.json", "state.json",
    ]  # fmt: skip
    again.save(tmp_path / "model")
    assert Generator.load(tmp_path / "model").seen_images == generator.seen_images, "and may be saved over itself"


def test_precision_changes_images_by_roundings_only(trained: Path) -> None:
    exact = Generator.load(trained, precision="fp32").sample(range(4)).astype(int)
    rough = Generator.load(trained, precision="bf16").sample(range(4)).astype(int)
    assert abs(exact - rough).mean() < 3


def test_provenance_says_where_an_image_came_from(trained: Path) -> None:
    generator = Generator.load(trained)
    mark = generator.provenance(7)
    assert mark.seed == 7 and mark.weights == generator.weights
    assert mark.weights == weights_hash(generator.network.state_dict())[:16]


def test_pixels_are_clipped_and_rounded() -> None:
    images = torch.tensor([-9.0, -1.0, -0.999, 0.0, 0.999, 1.0, 9.0]).view(1, 1, 1, 7)
    assert to_pixels(images)[0, 0, :, 0].tolist() == [0, 0, 0, 128, 255, 255, 255]
    wide = torch.rand(2, 3, 4, 5) * 2 - 1
    expected = np.rint((wide.numpy().transpose(0, 2, 3, 1) + 1) * 127.5)
    assert np.array_equal(to_pixels(wide), expected) and to_pixels(wide).flags.c_contiguous


def test_a_picture_survives_the_trip_to_a_network_and_back() -> None:
    from ganvas.training.step import to_tensor

    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    assert np.array_equal(to_pixels(to_tensor(pixels, "cpu")), pixels)


def assert_refused(path: Path, *words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CheckpointError) as caught:
            Generator.load(path)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 600
    assert all(word in line for word in words), line


def test_a_path_that_holds_no_model_says_what_to_do(trained: Path, tmp_path: Path) -> None:
    assert_refused(trained.with_name("dsics"), "no such run folder", "did you mean 'discs'")
    assert_refused(tmp_path / "a" / "b", "no such run folder")
    (tmp_path / "file.pt").write_bytes(b"\x80\x04.")
    assert_refused(tmp_path / "file.pt", "is a file")
    assert_refused(tmp_path, "holds no checkpoint")
    (tmp_path / "checkpoints").mkdir()
    assert_refused(tmp_path, "holds no checkpoint")


def state_of(folder: Path) -> dict[str, Any]:
    return json.loads((max((folder / "checkpoints").iterdir()) / "state.json").read_text())


def set_config(state: dict[str, Any], group: str, **values: Any) -> None:
    state["config"][group].update(values)


# States that a sound file may hold (its checksums are right), and that describe no generator of ours.
LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no config": lambda state: state.pop("config"),
    "no size": lambda state: state.pop("size"),
    "a config of another kind": lambda state: state.update(config=[1, 2]),
    "an unknown network": lambda state: set_config(state, "network", network="evil"),
    "another network": lambda state: set_config(state, "network", network="dcgan"),
    "another width": lambda state: set_config(state, "network", width=16),
    "a width of 10^9": lambda state: set_config(state, "network", width=10**9),
    "a z_dim below 0": lambda state: set_config(state, "network", z_dim=-5),
    "no z_dim": lambda state: set_config(state, "network", z_dim=None),
    "an unknown setting": lambda state: set_config(state, "training", exec="rm -rf"),
    "a size of 10^6": lambda state: state.update(size=[10**6, 10**6]),
    "a size of one number": lambda state: state.update(size=64),
    "another size": lambda state: state.update(size=[64, 64]),
    "a negative channel": lambda state: state.update(channels=-3),
    "grey channels": lambda state: state.update(channels=1),
    "a text of channels": lambda state: state.update(channels="3"),
    "classes that the weights lack": lambda state: state.update(classes=["a", "b"]),
    "a number of classes": lambda state: state.update(classes=7),
    "a class that is no text": lambda state: state.update(classes=["a", 7]),
    "no classes": lambda state: state.pop("classes"),
    "100,000 classes, 512 wide": lambda state: [
        set_config(state, "network", width=512, z_dim=1024),
        set_config(state, "data", size="256x256"),
        state.update(size=[256, 256], classes=[str(index) for index in range(100_000)]),
    ],
    "a million classes": lambda state: state.update(classes=[""] * 1_000_000),
    "a size unlike its settings": lambda state: set_config(state, "data", size="64x64"),
    "no size in its settings": lambda state: set_config(state, "data", size=None),
    "a size of fractions": lambda state: state.update(size=[32.5, 32]),
    "a size of texts": lambda state: state.update(size=["32", "32"]),
    "a size of 1024": lambda state: [set_config(state, "data", size=1024), state.update(size=[1024, 1024])],
    "10^9 channels": lambda state: state.update(channels=10**9),
    "2 channels": lambda state: state.update(channels=2),
    "true channels": lambda state: state.update(channels=True),
    "no width": lambda state: set_config(state, "network", width=None),
    "a licence that is no text": lambda state: state.update(licence={"a": [1]}),
    "settings nested without end": lambda state: state.update(config={"a": nested(900)}),
    "10,000 unknown settings": lambda state: state["config"].update({f"x{n}": n for n in range(10_000)}),
    "numbers for settings": lambda state: state.update(config=dict.fromkeys(state["config"], 10**300)),
}


def nested(depth: int) -> Any:
    """A list in a list, and so on."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("lie", sorted(LIES))
def test_a_state_that_describes_something_else_is_refused(lie: str, trained: Path, tmp_path: Path) -> None:
    state = state_of(trained)
    LIES[lie](state)
    tensors = {"generator": Generator.load(trained).network.state_dict()}
    publish(tmp_path / "model", 24, tensors, state)
    assert_refused(tmp_path / "model", str(tmp_path / "model"))


def test_a_lie_costs_no_memory(trained: Path, tmp_path: Path) -> None:
    """What it would take to believe each of them is gigabytes; it is refused in a process that may not have them."""
    tensors = {"generator": Generator.load(trained).network.state_dict()}
    for lie, tell in LIES.items():
        state = state_of(trained)
        tell(state)
        publish(tmp_path / lie, 24, tensors, state)

    def work() -> None:
        memory_limit(400 * 2**20)
        for lie in LIES:
            before = time.monotonic()
            assert_refused(tmp_path / lie, str(tmp_path))
            print(f"{time.monotonic() - before:.3f} s  {lie}")

    ended = in_child(work)
    assert ended.code == 0, ended.err
    slowest = max(ended.out.splitlines())
    print(f"model files: {len(LIES)} states that lie, {len(LIES)} refused within 400 MB; the slowest: {slowest}")


def test_a_file_of_terabytes_is_refused_by_its_header(trained: Path, tmp_path: Path) -> None:
    """A sparse file takes no place on a disk, and would fill the memory: it is refused before its data is read."""
    Generator.load(trained).save(tmp_path / "model")
    path, sides = tmp_path / "model" / "generator.safetensors", [1024, 1024, 1024, 3]
    header = json.dumps({"constant": {"dtype": "F32", "shape": sides, "data_offsets": [0, 12 * 2**30]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + 12 * 2**30)
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_bytes())
    del manifest["sha256"]
    manifest["files"][path.name]["bytes"] = path.stat().st_size
    (tmp_path / "model" / "manifest.json").write_bytes(checkpoint._seal(manifest))

    def work() -> None:
        memory_limit(200 * 2**20)
        assert_refused(tmp_path / "model", str(path), "configuration")

    ended = in_child(work)
    assert ended.code == 0, ended.err


def test_the_newest_state_that_tells_the_truth_is_used(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    state = state_of(run)
    state["channels"] = 1
    publish(run / "checkpoints" / f"{10**6:012d}", 10**6, {"generator": {}}, state)
    assert Generator.load(run).weights == Generator.load(trained).weights


def test_a_state_told_twice_is_accepted(trained: Path, tmp_path: Path) -> None:
    """The refusals above are for the lies: the same file without one loads."""
    publish(tmp_path / "model", 24, {"generator": Generator.load(trained).network.state_dict()}, state_of(trained))
    assert Generator.load(tmp_path / "model").weights == Generator.load(trained).weights


@pytest.mark.parametrize("name", ["generator.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "link", "empty"])
def test_a_damaged_model_is_refused(name: str, damage: str, trained: Path, tmp_path: Path) -> None:
    Generator.load(trained).save(tmp_path / "model")
    path = tmp_path / "model" / name
    data = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    elif damage == "cut":
        path.write_bytes(data[:-7])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.rename(tmp_path / "elsewhere")
        if damage == "link":
            path.symlink_to(tmp_path / "elsewhere")
    assert_refused(tmp_path / "model")


def test_the_newest_sound_checkpoint_is_used(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    newest = max((run / "checkpoints").iterdir())
    bad = newest.with_name(f"{10**6:012d}")
    shutil.copytree(newest, bad)  # a manifest that belongs to another checkpoint
    assert Generator.load(run).weights == Generator.load(trained).weights
    shutil.rmtree(newest)
    assert_refused(run, "none of 1 checkpoints can be used")
