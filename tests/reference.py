"""Naive twins of the engine: float64, slower, less complicated, written from the papers.

None of it uses the engine's own code, but for the stream of numbers that a score draws. They change
a deep copy of the model in place where the engine substitutes tensors, build the whole Hessian
where it takes a product, sort where it partitions, and walk a graph where it differentiates.
"""

from __future__ import annotations

import copy
import math
from fractions import Fraction
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse.seeding import generator

Tensors = dict[str, Tensor]


def _masked_double(model: nn.Module, masks: Tensors, mode: str) -> nn.Module:
    twin = copy.deepcopy(model).double().train(mode == "train")
    for name, parameter in twin.named_parameters():
        parameter.requires_grad = True
        if name in masks:
            parameter.data *= masks[name]
    return twin


def magnitude(model: nn.Module, masks: Tensors, batches, mode: str) -> Tensors:
    twin = dict(_masked_double(model, masks, mode).named_parameters())
    return {name: twin[name].detach().abs() for name in masks}


def snip(model: nn.Module, masks: Tensors, batches, mode: str) -> Tensors:
    twin = _masked_double(model, masks, mode)
    samples = sum(len(y) for _, y in batches)
    for x, y in batches:
        (F.cross_entropy(twin(x.double()), y, reduction="sum") / samples).backward()
    parameters = dict(twin.named_parameters())
    return {name: (parameters[name] * parameters[name].grad).abs().detach() for name in masks}


def grasp(model: nn.Module, masks: Tensors, batches, mode: str) -> Tensors:
    """The whole Hessian of the mean loss, times the gradient of the weights that are left."""
    loss, start, split = _as_function(model, masks, batches, mode, temperature=200)
    gradient = torch.autograd.functional.jacobian(loss, start)
    hessian = torch.autograd.functional.hessian(loss, start, vectorize=True)  # all rows at once
    kept = torch.cat([masks[name].flatten() for name in masks])
    return split(start * (hessian @ (gradient * kept)))


def _as_function(model: nn.Module, masks: Tensors, batches, mode: str, temperature: float):
    """The mean loss of one vector of all scored weights, where it stands, and how it is parted."""
    twin = _masked_double(model, masks, mode)
    parameters = dict(twin.named_parameters())
    others = {name: p.detach() for name, p in parameters.items() if name not in masks}
    shapes = {name: parameters[name].shape for name in masks}
    start = torch.cat([parameters[name].detach().flatten() for name in masks])
    samples = sum(len(y) for _, y in batches)

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        named = {name: p.view(shapes[name]) for name, p in zip(shapes, parts, strict=True)}
        total = torch.zeros((), dtype=torch.float64)
        for x, y in batches:
            buffers = {name: b.clone() for name, b in twin.named_buffers()}
            output = torch.func.functional_call(twin, {**named, **others, **buffers}, (x.double(),))
            total = total + F.cross_entropy(output / temperature, y, reduction="sum") / samples
        return total

    def split(flat: Tensor) -> Tensors:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        return {name: p.view(shapes[name]) for name, p in zip(shapes, parts, strict=True)}

    return loss, start, split


def synflow(model: nn.Module, masks: Tensors, batches, mode: str) -> Tensors:
    twin = _masked_double(model, masks, "eval")
    for name, parameter in twin.named_parameters():
        parameter.data = parameter.data.abs()
        last = name.rpartition(".")[2]  # also in_proj_bias, and bias_ih_l0 of recurrent networks
        if (last.endswith("bias") or last.startswith("bias_")) and name not in masks:
            parameter.data.zero_()
    for name, buffer in twin.named_buffers():
        if name.endswith("running_mean"):
            buffer.zero_()
    twin(torch.ones(1, *batches[0][0].shape[1:], dtype=torch.float64)).sum().backward()
    parameters = dict(twin.named_parameters())
    return {name: (parameters[name] * parameters[name].grad).detach() for name in masks}


def gradient_norm(model: nn.Module, masks: Tensors, batches, mode: str) -> Tensors:
    twin = _with_gradients(model, masks, batches, mode)
    return {name: twin[name].grad ** 2 * masks[name] for name in masks}


def _with_gradients(model: nn.Module, masks: Tensors, batches, mode: str) -> dict:
    """The parameters of the pruned network, with gradients of pruned weights as well."""
    twin = _masked_double(model, masks, mode)
    samples = sum(len(y) for _, y in batches)
    for x, y in batches:
        (F.cross_entropy(twin(x.double()), y, reduction="sum") / samples).backward()
    return dict(twin.named_parameters())


def force(model: nn.Module, masks: Tensors, batches, mode: str) -> Tensors:
    dense, pruned = dict(model.named_parameters()), _with_gradients(model, masks, batches, mode)
    return {name: (dense[name].double() * pruned[name].grad).abs().detach() for name in masks}


def fd(model: nn.Module, masks: Tensors, batches, mode: str) -> Tensors:
    samples = [(x[i : i + 1], y[i : i + 1]) for x, y in batches for i in range(len(y))]
    found = {name: torch.zeros(mask.shape, dtype=torch.float64) for name, mask in masks.items()}
    for sample in samples:
        for name, square in gradient_norm(model, masks, [sample], mode).items():
            found[name] += square / len(samples)
    return found


def _taylor(model: nn.Module, masks: Tensors, gradient: Tensors, diagonal: Tensors) -> Tensors:
    theta = {name: p.detach().double() * masks[name] for name, p in model.named_parameters()
             if name in masks}  # fmt: skip
    return {n: (t * gradient[n] + t**2 * diagonal[n] / 2).abs() for n, t in theta.items()}


def fts(model: nn.Module, masks: Tensors, batches, mode: str) -> Tensors:
    parameters = _with_gradients(model, masks, batches, mode)
    gradient = {name: parameters[name].grad for name in masks}
    return _taylor(model, masks, gradient, fd(model, masks, batches, mode))


def hts(model: nn.Module, masks: Tensors, batches, mode: str) -> Tensors:
    """The whole Hessian between ten vectors of the engine's draws."""
    loss, start, split = _as_function(model, masks, batches, mode, temperature=200)
    gradient = torch.autograd.functional.jacobian(loss, start)
    hessian = torch.autograd.functional.hessian(loss, start, vectorize=True)  # all rows at once
    draw = generator(0, "hutchinson probes", 1)
    diagonal = torch.zeros_like(start)
    for _ in range(10):
        signs = [torch.randint(0, 2, m.shape, generator=draw) * 2 - 1 for m in masks.values()]
        z = torch.cat([s.flatten() for s in signs]).double()
        z *= torch.cat([mask.flatten() for mask in masks.values()])
        diagonal += z * (hessian @ z) / 10
    return _taylor(model, masks, split(gradient), split(diagonal))


def lamp(model: nn.Module, masks: Tensors, batches, mode: str) -> Tensors:
    result = magnitude(model, masks, batches, mode)
    for name, weights in result.items():
        squares = (weights**2).flatten().tolist()
        order = sorted(range(len(squares)), key=lambda i: (-squares[i], i))
        left, scores = 0.0, weights.flatten()
        for place in order:  # from the largest down: what is at least as large, itself included
            left += squares[place]
            scores[place] = squares[place] / left
        result[name] = scores.view(weights.shape)
    return result


def synflow_l2(model: nn.Module, masks: Tensors, batches, mode: str) -> Tensors:
    """SynFlow of a network whose parameters are the squares."""
    squared = copy.deepcopy(model).double()
    for parameter in squared.parameters():
        parameter.data **= 2
    return synflow(squared, masks, batches, mode)


def synflow_l2_halved(model: nn.Module, masks: Tensors, batches, mode: str) -> Tensors:
    theta = magnitude(model, dict.fromkeys(masks, 1), batches, mode)
    scores = synflow_l2(model, masks, batches, mode)
    return {name: scores[name] / theta[name] for name in masks}


def ntk_sap(model: nn.Module, masks: Tensors, batches, mode: str) -> Tensors:
    """Two networks beside each other, on the engine's draws."""
    draw = generator(0, "ntk-sap", 1)
    x = torch.randn(32, *batches[0][0].shape[1:], generator=draw).double()
    here, there = (_masked_double(model, masks, "eval") for _ in range(2))
    theta = {}
    for name, mask in masks.items():
        fan_in = nn.init._calculate_fan_in_and_fan_out(mask)[0]
        theta[name] = torch.randn(mask.shape, generator=draw) * (2 / fan_in) ** 0.5
        theta[name] = theta[name].double()
    moved = {n: t + 0.01 * torch.randn(t.shape, generator=draw).double() for n, t in theta.items()}
    for twin, weights in ((here, theta), (there, moved)):
        for name, parameter in twin.named_parameters():
            if name in masks:
                parameter.data = weights[name].double() * masks[name]
    for norm in here.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.momentum = 1.0
    with torch.no_grad():
        here.train()(x)
    here.eval()
    there.load_state_dict({k: v for k, v in here.state_dict().items() if "running" in k}, False)
    (here(x) - there(x)).pow(2).sum().backward()
    one, other = dict(here.named_parameters()), dict(there.named_parameters())
    return {
        name: (theta[name] * one[name].grad + moved[name] * other[name].grad).abs() * masks[name]
        for name in masks
    }


def px(model: nn.Module, masks: Tensors, batches, mode: str) -> Tensors:
    """Three copies of the network, and torch's ReLUs replaced for the second."""
    data, weights, paths = (_masked_double(model, masks, m) for m in (mode, "eval", "eval"))
    for twin, of in ((weights, torch.square), (paths, torch.ones_like)):
        for name, parameter in twin.named_parameters():
            if name.endswith("bias"):
                parameter.data.zero_()
            else:
                parameter.data = of(parameter.data) * masks.get(name, torch.tensor(1))
        for name, buffer in twin.named_buffers():
            if name.endswith("running_mean"):
                buffer.zero_()
    shape, seen, total = batches[0][0].shape[1:], [], 0

    def noted(x: Tensor, inplace: bool = False) -> Tensor:
        seen.append((x > 0).double())
        return x.clamp(min=0)

    def gated(x: Tensor, inplace: bool = False) -> Tensor:
        return x * seen.pop(0)

    for x, _ in batches:
        with patch.object(F, "relu", noted), patch.object(Tensor, "relu", noted), torch.no_grad():
            data(x.double())
        with patch.object(F, "relu", gated), patch.object(Tensor, "relu", gated), torch.no_grad():
            passed = paths(x.double() ** 2)
        total = total + (passed * weights(torch.ones(len(x), *shape).double())).sum()
    total.backward()
    parameters = dict(weights.named_parameters())
    return {name: (parameters[name] * parameters[name].grad).detach() for name in masks}


def prospr(model: nn.Module, masks: Tensors, batches, mode: str) -> Tensors:
    """Three steps of SGD with momentum, in place, then the gradient on the next batch."""
    twin = _masked_double(model, masks, mode)
    parameters = dict(twin.named_parameters())
    start = {name: parameters[name].detach().clone() for name in masks}
    speed = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for step in range(4):
        x, y = batches[step % len(batches)]
        twin.zero_grad()
        F.cross_entropy(twin(x.double()), y).backward()
        for name, mask in masks.items():
            parameters[name].grad *= mask
        for name, parameter in parameters.items() if step < 3 else ():
            speed[name] = 0.9 * speed[name] + parameter.grad
            parameter.data -= 0.5 * speed[name]
    return {name: (start[name] * parameters[name].grad).abs() for name in masks}


SCORES = {
    "magnitude": magnitude,
    "snip": snip,
    "grasp": grasp,
    "synflow": synflow,
    "iterative_snip": snip,
    "iterative_grasp": grasp,
    "gradient_norm": gradient_norm,
    "force": force,
    "fd": fd,
    "fts": fts,
    "hts": hts,
    "lamp": lamp,
    "prospr": prospr,
    "synflow_l2": synflow_l2,
    "synflow_l2_halved": synflow_l2_halved,
    "px": px,
    "ntk_sap": ntk_sap,
}


def keep_count(parameters: int, compression: Fraction) -> int:
    return math.ceil(Fraction(parameters) / compression)


def select(scores: Tensors, keep: int, masks: Tensors | None = None) -> Tensors:
    """Sort every survivor by score, ties by position, and keep the first ones."""
    entries = []
    for place, (name, score) in enumerate(scores.items()):
        for index, value in enumerate(score.flatten().tolist()):
            if masks is None or bool(masks[name].flatten()[index]):
                entries.append((-value, place, index, name))
    result = {name: torch.zeros(score.numel(), dtype=torch.bool) for name, score in scores.items()}
    for _, _, index, name in sorted(entries)[:keep]:
        result[name][index] = True
    return {name: mask.view(scores[name].shape) for name, mask in result.items()}


def apportion(sizes: list[int], keep: int) -> list[int]:
    """All claims of all layers, sorted in exact arithmetic."""
    claims = [
        (Fraction(2 * seat + 1, size), layer)
        for layer, size in enumerate(sizes)
        for seat in range(size)
    ]
    winners = [layer for _, layer in sorted(claims)[:keep]]
    return [winners.count(layer) for layer in range(len(sizes))]


def living_chain(model: nn.Sequential, masks: Tensors, shape: tuple[int, ...]) -> Tensors:
    """Dead weights of a chain by walking its units, one tap of one kernel at a time.

    A unit is a channel at a position. Layers: Linear, Conv2d, pooling (windows), Flatten.
    """
    forward_edges: list[tuple[tuple, tuple, tuple | None]] = []  # (from, to, weight) by depth
    levels: list[list[tuple[tuple, tuple, tuple | None]]] = []
    for depth, module in enumerate(model):
        forward_edges = []
        name = f"{depth}.weight"
        if isinstance(module, nn.Linear):
            for i in range(module.out_features):
                for j in range(module.in_features):
                    if masks[name][i, j]:
                        forward_edges.append(((j,), (i,), (name, i, j)))
            shape = (module.out_features,)
        elif isinstance(module, nn.Conv2d):
            forward_edges, shape = _convolution_edges(module, name, masks[name], shape)
        elif isinstance(module, nn.MaxPool2d):
            c, h, w = shape
            k = module.kernel_size
            shape = (c, h // k, w // k)
            for a in range(c):
                for y in range(shape[1]):
                    for x in range(shape[2]):
                        for dy in range(k):
                            for dx in range(k):
                                source = (a, y * k + dy, x * k + dx)
                                forward_edges.append((source, (a, y, x), None))
        elif isinstance(module, nn.Flatten):
            c, h, w = shape
            forward_edges = [
                ((a, y, x), ((a * h + y) * w + x,), None)
                for a in range(c) for y in range(h) for x in range(w)
            ]  # fmt: skip
            shape = (c * h * w,)
        else:  # activations and normalisations: unit by unit
            continue
        levels.append(forward_edges)

    reached = [{source for source, _, _ in levels[0]}]  # every input unit is a source
    for edges in levels:
        reached.append({to for source, to, _ in edges if source in reached[-1]})
    needed = [{to for _, to, _ in levels[-1]}]
    for edges in reversed(levels):
        needed.append({source for source, to, _ in edges if to in needed[-1]})
    needed.reverse()
    result = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    for depth, edges in enumerate(levels):
        for source, to, weight in edges:
            if weight is not None and source in reached[depth] and to in needed[depth + 1]:
                result[weight[0]][weight[1:]] = True
    return result


def _convolution_edges(module: nn.Conv2d, name: str, mask: Tensor, shape: tuple[int, ...]):
    _, height, width = shape
    (kh, kw), (sy, sx), (py, px) = module.kernel_size, module.stride, module.padding
    out = (
        module.out_channels,
        (height + 2 * py - kh) // sy + 1,
        (width + 2 * px - kw) // sx + 1,
    )
    per_group_in = module.in_channels // module.groups
    per_group_out = module.out_channels // module.groups
    edges = []
    for o, i, dy, dx in mask.nonzero().tolist():
        channel = (o // per_group_out) * per_group_in + i
        for y in range(out[1]):
            for x in range(out[2]):
                row, column = y * sy + dy - py, x * sx + dx - px
                if 0 <= row < height and 0 <= column < width:
                    edges.append(((channel, row, column), (o, y, x), (name, o, i, dy, dx)))
    return edges, out
