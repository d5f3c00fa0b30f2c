"""Arithmetic and parameters counted by hand, and the promise that the columns add up and nothing is touched."""

import io

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ganvas.networks.summary import LayerRow, summarise, table


def gflop(rows: list[LayerRow]) -> dict[str, float]:
    return {row.name: row.gflop for row in rows}


def test_convolution() -> None:
    rows = summarise(nn.Conv2d(3, 8, 5, stride=2, padding=2), torch.zeros(1, 3, 32, 16))
    flop = 2 * (3 * 5 * 5) * 8 * (16 * 8)  # 2 · inputs to one output value · channels · positions
    assert rows == [LayerRow("(itself)", "Conv2d", (1, 8, 16, 8), 8 * 3 * 25 + 8, flop / 1e9)]


def test_grouped_convolution() -> None:
    (row,) = summarise(nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False), torch.zeros(1, 8, 6, 6))
    assert (row.parameters, row.gflop) == (8 * 2 * 9, pytest.approx(2 * (2 * 9) * 8 * 36 / 1e9))


def test_linear() -> None:
    (row,) = summarise(nn.Linear(100, 30), torch.zeros(1, 100))
    assert (row.output_shape, row.parameters) == ((1, 30), 3030)
    assert row.gflop == pytest.approx(2 * 100 * 30 / 1e9)


def test_transposed_convolution() -> None:
    (row,) = summarise(nn.ConvTranspose2d(6, 4, 5, 2, 2, 1, bias=False), torch.zeros(1, 6, 8, 8))
    assert row.output_shape == (1, 4, 16, 16)
    assert row.gflop == pytest.approx(2 * (6 * 4 * 25) * (8 * 8) / 1e9), "each input value meets each weight once"


class Modulated(nn.Module):
    """Products of its own beside a child's, as in a modulated convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4, 3, 3))
        self.style = nn.Linear(16, 4)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(x * self.style(w)[:, :, None, None], self.weight, padding=1)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = Modulated()
        self.norm = nn.BatchNorm2d(8)
        self.twice = nn.Conv2d(8, 8, 1)
        self.head = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5, bias=False))
        self.same = self.head[2]
        self.never, self.tied = nn.Linear(7, 7), nn.Linear(7, 7)
        self.tied.weight = self.never.weight
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        x = self.twice(self.twice(self.norm(self.body(x, w))))
        noise = torch.randn(x.shape, device=x.device)
        return self.head(x + noise) * self.scale, x @ x


INPUTS = (torch.zeros(2, 4, 8, 8), torch.zeros(2, 16))


def test_every_layer_by_hand() -> None:
    """Products inside a module of one's own, a layer used twice, one never used, one in two places, a weight in two."""
    rows = summarise(Network(), *INPUTS)
    assert {row.name: (row.kind, row.output_shape, row.parameters, round(row.gflop * 1e9)) for row in rows} == {
        "(itself)": ("Network", (2, 5), 5, 2 * 8 * 8 * 8 * 8),
        "body": ("Modulated", (2, 8, 8, 8), 8 * 4 * 9, 2 * 36 * 8 * 64),
        "body.style": ("Linear", (2, 4), 68, 2 * 16 * 4),
        "norm": ("BatchNorm2d", (2, 8, 8, 8), 16, 0),
        "twice": ("Conv2d", (2, 8, 8, 8), 72, 2 * (2 * 8 * 8 * 64)),
        "head.0": ("ReLU", (2, 8, 8, 8), 0, 0),
        "head.1": ("Flatten", (2, 512), 0, 0),
        "head.2": ("Linear", (2, 5), 5 * 512, 2 * 5 * 512),
        "never": ("Linear", (), 56, 0),
        "tied": ("Linear", (), 7, 0),
    }
    assert [row.name for row in rows][:4] == ["(itself)", "body", "body.style", "norm"], "in the order of the pass"


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_columns_add_up_for_any_batch(batch: int) -> None:
    network = Network()
    rows = summarise(network, torch.zeros(batch, 4, 8, 8), torch.zeros(batch, 16))
    assert sum(row.parameters for row in rows) == sum(parameter.numel() for parameter in network.parameters())
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 4, 8, 8), torch.zeros(1, 16))
    assert sum(row.gflop for row in rows) == pytest.approx(counter.get_total_flops() / 1e9)


def test_nothing_is_touched() -> None:
    network = Network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random = torch.get_rng_state()
    summarise(network, *INPUTS)
    assert network.training and all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert all(parameter.grad is None and parameter.device.type == "cpu" for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())


def test_nothing_large_is_computed() -> None:
    """A network of 4 TB and 10¹⁷ operations, on the meta device from the start."""
    with torch.device("meta"):
        network = nn.Conv2d(2**18, 2**18, 4, padding=1)
        (row,) = summarise(network, torch.zeros(1, 2**18, 257, 257))
    assert row.parameters == 2**40 + 2**18
    assert row.gflop == pytest.approx(2 * 2**40 * 256 * 256 / 1e9)


def test_hooks_go_after_an_error() -> None:
    network = Network()
    with pytest.raises(RuntimeError):
        summarise(network, torch.zeros(2, 5, 8, 8), torch.zeros(2, 16))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())


def test_mixed_precision_and_named_inputs() -> None:
    network = Network().to(torch.bfloat16)
    rows = summarise(network, x=INPUTS[0].bfloat16(), w=INPUTS[1].bfloat16())
    assert gflop(rows) == gflop(summarise(Network(), *INPUTS))


def test_table_shows_every_layer_and_the_totals() -> None:
    rows = summarise(Network(), *INPUTS)
    text = io.StringIO()
    Console(file=text, width=120).print(table(rows, "critic"))
    shown = text.getvalue()
    assert "critic" in shown and "2×8×8×8" in shown
    assert all(row.name in shown and row.kind in shown for row in rows)
    assert f"{sum(row.parameters for row in rows):,}" in shown
    assert f"{sum(row.gflop for row in rows):.3g}" in shown
