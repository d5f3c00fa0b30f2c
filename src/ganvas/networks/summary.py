"""What a network is made of: one row a layer, with its output's shape, its parameters and its arithmetic per image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class LayerRow:
    """One layer of a network, as its forward pass met it."""

    name: str
    """The path in the network, `body.0.weight`-style; "(itself)" for what the outermost module does by itself."""
    kind: str
    """The class of the layer."""
    output_shape: tuple[int, ...]
    """Shape of the layer's (last) output, batch first; () where it was never called or answers no tensor."""
    parameters: int
    """Numbers that training changes or may change, held by this layer and no other; shared ones count once."""
    gflop: float
    """10⁹ floating-point operations of a forward pass per image, multiplications and additions each one."""


def summarise(module: nn.Module, *inputs: Tensor, **named: Any) -> list[LayerRow]:
    """Return the layers of `module` in the order in which `module(*inputs, **named)` first reaches them.

    Nothing is computed or allocated: the pass runs on the meta device, on shapes alone, and leaves weights, running
    statistics and `module.training` as they were. Inputs: any tensors of the right shapes, batch first; a batch of 1
    gives the same rows as any other, apart from `output_shape` and from work done once a batch, which is shared out.

    FLOP = 2 per multiplication-and-addition of convolutions, transposed convolutions, linear layers, matrix products
    and attention, wherever they are called, `F.conv2d` inside a module of one's own included; biases, activations,
    normalisations and resizing count as 0 (they cost memory traffic, not arithmetic). A product belongs to the
    innermost module whose `forward` runs it. A row is a module without children, or one with parameters or products
    of its own. The columns add up: to all parameters of `module`, and to all of its products per image.
    """
    modules = dict(module.named_modules())
    names = {layer: name for name, layer in modules.items()}
    order: dict[str, None] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    own_flop = dict.fromkeys(modules, 0)
    running: list[list[int]] = []  # innermost last: [counter when it began, what its children have used]

    def enter(layer: nn.Module, *_: object) -> None:
        order.setdefault(names[layer])
        running.append([counter.get_total_flops(), 0])

    def leave(layer: nn.Module, _: object, output: object) -> None:
        began, children = running.pop()
        used = counter.get_total_flops() - began
        own_flop[names[layer]] += used - children
        if running:
            running[-1][1] += used
        shapes[names[layer]] = _shape(output)

    hooks = [layer.register_forward_pre_hook(enter, prepend=True) for layer in names]
    hooks += [layer.register_forward_hook(leave) for layer in names]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            functional_call(module, _on_meta(modules), _to_meta(inputs), _to_meta(named), tie_weights=False)
    finally:
        for hook in hooks:
            hook.remove()

    images = next((len(x) for x in (*inputs, *named.values()) if isinstance(x, Tensor) and x.ndim), 1)
    own_parameters = _own_parameters(modules)
    return [
        LayerRow(
            name or "(itself)",
            type(modules[name]).__name__,
            shapes.get(name, ()),
            own_parameters[name],
            own_flop[name] / images / 1e9,
        )
        for name in (*order, *(name for name in modules if name not in order))
        if own_parameters[name] or own_flop[name] or (name in order and not any(modules[name].children()))
    ]


def table(rows: list[LayerRow], title: str | None = None) -> Table:
    """Return `rows` as a table for the terminal, with the totals of the two columns that add up."""
    result = Table(title=title, show_footer=True)
    result.add_column("layer", footer="total", overflow="fold")
    result.add_column("kind")
    result.add_column("output", justify="right")
    result.add_column("parameters", footer=f"{sum(row.parameters for row in rows):,}", justify="right")
    result.add_column("GFLOP per image", footer=f"{sum(row.gflop for row in rows):.3g}", justify="right")
    for row in rows:
        shape = "×".join(map(str, row.output_shape)) or "–"
        result.add_row(row.name, row.kind, shape, f"{row.parameters:,}", f"{row.gflop:.3g}" if row.gflop else "–")
    return result


def _own_parameters(modules: Mapping[str, nn.Module]) -> dict[str, int]:
    """Return how many numbers each module holds itself; a parameter that several hold counts for the first."""
    seen: set[nn.Parameter] = set()
    result = {}
    for name, layer in modules.items():
        own = [parameter for parameter in layer.parameters(recurse=False) if parameter not in seen]
        seen.update(own)
        result[name] = sum(parameter.numel() for parameter in own)
    return result


def _on_meta(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return what every module holds, by path, without its numbers.

    Once for each module and not for each path to it: given both paths of a module that is in two places,
    functional_call puts the meta tensors back where the weights were.
    """
    return {
        f"{name}.{key}" if name else key: tensor.detach().to("meta")
        for name, layer in modules.items()
        for key, tensor in (
            *layer.named_parameters(recurse=False, remove_duplicate=False),
            *layer.named_buffers(recurse=False, remove_duplicate=False),
        )
    }


def _to_meta(value: Any) -> Any:
    """Return `value` with every tensor in it (also in tuples, lists and dicts) moved to the meta device."""
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, dict):
        return {key: _to_meta(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_to_meta(item) for item in value)
    return value


def _shape(output: object) -> tuple[int, ...]:
    """Return the shape of a layer's output, of the first tensor where there are several, () where there is none."""
    if isinstance(output, (tuple, list)):
        return next((shape for shape in map(_shape, output) if shape), ())
    return tuple(output.shape) if isinstance(output, Tensor) else ()
