"""Naive twins of the engine: float64, slower, less complicated, written from the papers.

None of it uses the engine's own code. They change a deep copy of the model in place where the
engine substitutes tensors, build the whole Hessian where it takes a product, sort where it
partitions, and walk a graph where it differentiates.
"""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
            total = total + F.cross_entropy(output / 200, y, reduction="sum") / samples
        return total

    gradient = torch.autograd.functional.jacobian(loss, start)
    hessian = torch.autograd.functional.hessian(loss, start)
    kept = torch.cat([masks[name].flatten() for name in masks])
    scores = (start * (hessian @ (gradient * kept))).split([s.numel() for s in shapes.values()])
    return {name: part.view(shapes[name]) for name, part in zip(shapes, scores, strict=True)}


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


SCORES = {"magnitude": magnitude, "snip": snip, "grasp": grasp, "synflow": synflow}


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
