"""The throughput benchmark compares like with like: its tutorial network is the same function as `dcgan`."""

from __future__ import annotations

import importlib.util
import json
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganvas.checkpoint import load_latest
from ganvas.config import DataSettings, NetworkSettings, make_config
from ganvas.errors import GanvasError
from ganvas.networks import build
from ganvas.objectives import adversarial
from ganvas.runtime import Machine
from ganvas.training import game
from ganvas.training.loop import train
from ganvas.training.monitor import Monitor
from ganvas.training.players import Players, make_players
from ganvas.training.step import play
from ganvas.training.team import Team

BATCH = 8
TURNS = {"slow": 2.0, "fast": 0.5}  # seconds


def load_tutorial() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "tutorial_dcgan.py"
    spec = importlib.util.spec_from_file_location("tutorial_dcgan", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tutorial = load_tutorial()


def weights(module: nn.Module) -> list[Tensor]:
    """Weights of the layers in order: linear and convolution as they are listed, normalisation after them."""
    layers = [part for part in module.modules() if isinstance(part, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))]
    layers.sort(key=lambda layer: isinstance(layer, nn.Linear))
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    return [tensor for part in (*layers, *norms) for tensor in part.state_dict().values()]


def live(weight: Tensor, like: Tensor) -> Tensor:
    """What of the tutorial's weight can touch anything: of 5×5 over a 1×1 map with padding 2, taps 2 and 3."""
    return weight if weight.shape == like.shape else weight[:, :, 2:4, 2:4]


@torch.no_grad()
def copy_weights(to: nn.Module, taught: nn.Module) -> None:
    for mine, theirs in zip(weights(to), weights(taught), strict=True):
        mine.copy_(live(theirs, mine))


def pair(channels: int) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
    torch.manual_seed(channels)
    loop = tutorial.Loop(channels, "cpu")
    for norm in (*loop.generator.modules(), *loop.discriminator.modules()):
        if isinstance(norm, nn.BatchNorm2d):  # as they start, all norms are alike: a mixed-up order would not show
            nn.init.normal_(norm.weight, 1.0, 0.1)
            nn.init.normal_(norm.bias, 0.0, 0.1)
    ours = build(NetworkSettings(network="dcgan", width=8, z_dim=100), (64, 64), channels)
    copy_weights(ours.generator, loop.generator)
    copy_weights(ours.discriminator, loop.discriminator)
    return ours.generator, ours.discriminator, loop.generator, loop.discriminator


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_the_tutorial_network_is_the_same_function(channels: int, training: bool) -> None:
    networks = pair(channels)
    for network in networks:
        network.train(training)
    generator, discriminator, taught_generator, taught_discriminator = networks
    z = torch.rand(BATCH, 100) * 2 - 1
    with torch.no_grad():
        images, taught_images = generator(z), taught_generator(z)
        assert taught_images.std() > 1e-3  # not a comparison of nothing with nothing
        torch.testing.assert_close(images, taught_images, atol=1e-4, rtol=0)
        torch.testing.assert_close(discriminator(images), taught_discriminator(images), atol=1e-4, rtol=0)


def copied_players(loop: nn.Module) -> Players:
    settings = {"batch": BATCH, "learning_rate": 2e-4}
    config = make_config(
        "noise", "dcgan", data=DataSettings(size=(64, 64)).model_dump(), network={"width": 8, "z_dim": 100},
        training=settings,
    )  # fmt: skip
    players = make_players(config, 1, 0, Machine("cpu", torch.float32, 1, "as asked"))
    copy_weights(players.generator, loop.generator)
    copy_weights(players.discriminator, loop.discriminator)
    return players


def test_a_step_of_both_loops_teaches_the_same() -> None:
    """Losses and the gradients of both players, read off Adam's first moment: (1 − β1) g after one step."""
    torch.manual_seed(0)
    loop = tutorial.Loop(1, "cpu")
    players = copied_players(loop)
    # Adam's first step goes by signs: where a gradient is next to nothing, rounding would decide which discriminator
    # the generator meets, and processors round in different orders.
    for discriminators in (players.discriminator_optimiser, loop.discriminator_optimiser):
        discriminators.param_groups[0]["eps"] = 1e-3
    real, z = torch.rand(BATCH, 1, 64, 64) * 2 - 1, torch.rand(BATCH, 100) * 2 - 1
    losses = play(
        players, real.clone(), z, None, adversarial("non-saturating"), None, 1.0, seed=0, team=Team(1, threads=1)
    )
    taught_discriminator, taught_generator = loop.step(real, z)
    torch.testing.assert_close(losses.discriminator, taught_discriminator, atol=1e-4, rtol=0)
    torch.testing.assert_close(losses.generator, taught_generator, atol=1e-3, rtol=0)

    def moments(optimiser: torch.optim.Adam, module: nn.Module) -> list[Tensor]:
        found = {parameter.data_ptr(): optimiser.state[parameter]["exp_avg"] for parameter in module.parameters()}
        return [found[tensor.data_ptr()] for tensor in weights(module) if tensor.data_ptr() in found]

    for module, optimiser, taught, taught_optimiser in (
        (players.discriminator, players.discriminator_optimiser, loop.discriminator, loop.discriminator_optimiser),
        (players.generator, players.generator_optimiser, loop.generator, loop.generator_optimiser),
    ):
        mine, theirs = moments(optimiser, module), moments(taught_optimiser, taught)
        assert len(mine) == len(list(module.parameters())) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            b = live(b, a)
            assert (a - b).norm() < 0.02 * b.norm()


def test_generation_counts_the_images_that_each_way_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way makes as many as it is timed for, of the size asked for; speeds are by the clock."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    generation = importlib.import_module("generation")
    generation.write_model(32, 1, "cpu", tmp_path / "model")
    model = generation.Generator.load(tmp_path / "model")
    made = generation.plain_images(model.network, 128, "cpu")
    assert sum(map(len, made)) == 128 == len(model.sample(range(128)))
    assert made[0].shape[1:] == (32, 32, 1) == model.sample([0]).shape[1:]
    (tmp_path / "files").mkdir()
    to_time = generation.ways(tmp_path / "model", 64, "cpu", tmp_path / "files")
    for way in to_time["files"].values():
        way()
        pictures = list((tmp_path / "files").iterdir())
        assert len(pictures) == 64
        for path in pictures:
            path.unlink()
    clock = [0.0]  # one that only the ways move: no time of this machine is asserted
    monkeypatch.setattr(generation.time, "perf_counter", lambda: clock[0])
    ways = {name: lambda seconds=seconds: clock.append(clock.pop() + seconds) for name, seconds in TURNS.items()}
    assert generation.take_rounds({"memory": ways}, 64, rounds=2)["memory"] == {"slow": [32, 32], "fast": [128, 128]}


def test_overhead_times_what_the_loop_calls_and_puts_it_back(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    overhead = importlib.import_module("overhead")
    before = [getattr(owner, name) for _, owner, name in overhead.TIMED]
    with overhead.timed() as found:
        train(pictures, tmp_path / "run", images=16, **{**tiny, "save_minutes": 1e-9})
    assert [getattr(owner, name) for _, owner, name in overhead.TIMED] == before
    steps = 16 // tiny["batch"]
    assert len(found["memory, before"]) == 1 and len(found["monitor"]) >= steps
    assert len(found["checkpoints"]) >= 2 and len(found["sample grids"]) >= 1
    assert all(seconds >= 0 for calls in found.values() for seconds in calls)


def test_the_gpu_benchmark_reports_every_part_and_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    gpu = importlib.import_module("gpu")
    scores = {"fd": 60.0, "precision": 0.7, "recall": 0.2}
    row = {"seen_images": 12_000, "images_per_second": 40.0, "scores": scores}
    speed = {"images_per_second": {"median": 80.0}, "gflop_per_second": {"median": 300.0}}
    answers: dict[str, Any] = {
        "generation": {"rows": [{"to": "files", "way": "plain", "images_per_second": 500.0, "against_plain": 1.0}]},
        "train_throughput": {"contenders": {"style": {**speed, "share_of_peak": {"median": 0.4}}}},
        "quality": {
            "entrants": {"ours": row},
            "real": {"scores": scores},
            "settings": {"data": "x", "size": 32, "minutes": 5},
        },
    }
    ran: list[tuple[str, list[str]]] = []

    def run_part(name: str, arguments: list[str], folder: Path, limit: float) -> Any:
        ran.append((name, arguments))
        return answers[name]

    monkeypatch.setattr(gpu, "run_part", run_part)
    asked = gpu.parse(["--device", "cpu", "--minutes", "2"])
    told = "\n".join(gpu.lines(gpu.run_all(asked, tmp_path)))
    assert [name for name, _ in ran] == ["generation", "train_throughput", "quality"]
    assert all("cpu" in arguments for _, arguments in ran) and "2.00" in ran[-1][1]
    for text in ("500 images/s", "style: 80 images/s", "40% of peak", "12,000 images", "FD 60.0", "recall 0.20"):
        assert text in told
    answers["quality"]["entrants"]["ours"] = {"failed": "its process died"}
    answers["generation"] = {"failed": "not done after 94 s"}
    told = "\n".join(gpu.lines(gpu.run_all(asked, tmp_path)))
    assert "quality: failed: its process died" in told and "generation: failed: not done after 94 s" in told
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.parse([])
    assert ended.value.code == 2 and "there is none here" in capsys.readouterr().err


@pytest.fixture
def monitored(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark of failures, which happen after 8 images."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    benchmark = importlib.import_module("monitor")
    monkeypatch.setattr(benchmark, "HALF", 8)
    return benchmark


def test_each_failure_is_provoked_and_taken_back(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monitored: Any
) -> None:
    plain = game.play, game.adversarial, Players.set_learning_rate, Monitor._roll_back

    def last(name: str, wrong: Any) -> str:
        """The last losses of a run, or how it failed."""
        try:
            with monitored.nobody_acts(), wrong():
                folder = train(pictures, tmp_path / name, images=200, **{**tiny, "interventions": False}).folder
        except GanvasError as error:
            return str(error)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return str([{**row, "seconds": 0, "images_per_second": 0} for row in rows])

    untouched = last("untouched", nullcontext)
    provoked = {name: wrong for name, (_, wrong) in monitored.FAILURES.items() if wrong is not None}
    assert len(provoked) >= 8
    for name, wrong in provoked.items():
        assert last(name.replace(" ", "-"), wrong) != untouched, name
    assert plain == (game.play, game.adversarial, Players.set_learning_rate, Monitor._roll_back)


def test_one_bit_of_the_newest_checkpoint_is_damaged(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monitored: Any
) -> None:
    folder = train(pictures, tmp_path / "run", images=16, **{**tiny, "save_minutes": 1e-9}).folder
    before = load_latest(folder)
    monitored.damage(folder)
    after = load_latest(folder)
    assert before is not None and after is not None
    assert after.seen_images < before.seen_images and after.skipped


def test_the_table_of_failures_compares_with_the_untouched_run(monitored: Any) -> None:
    well = {"fd": 100.0, "failed": None, "said": []}
    went_back = {"at": 22_000, "state": "diverged", "action": "roll back"}
    results = {
        "healthy faces 3": well,
        "healthy digits 3": {**well, "said": [{"at": 5, "state": "collapsing", "action": None}]},
        f"{monitored.NOTHING}: watched": well,
        "weights x30: unwatched": {"fd": None, "failed": "broken", "said": []},
        "weights x30: watched": {"fd": 110.0, "failed": None, "said": [went_back]},
    }
    text = monitored.table(results)
    assert "2 healthy runs, false alarms in 1: healthy digits 3" in text
    assert "| weights x30 | 22000 | diverged | 1x roll back | none (failed) | 110.0 | 1.10 |" in text


@pytest.mark.parametrize("words", [["--only", "nonsense"], ["--table", "--to", "nowhere.json"]])
def test_a_failure_or_a_file_that_is_not_there_is_one_line(
    monitored: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["monitor.py", *words])
    with pytest.raises(SystemExit) as caught:
        monitored.main()
    assert caught.value.code == 2 and words[-1] in capsys.readouterr().err.splitlines()[-1]
