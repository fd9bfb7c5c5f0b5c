"""The hot paths beside the naive way and beside the machine's limit, as ratios within one run.

    uv run python benchmarks/hotpaths.py [--only selection scoring checks]

*Selection* of exactly k of N random scores beside ``torch.kthvalue``, ``torch.topk``,
``torch.sort`` and ``numpy.partition``, which give the threshold only: half of the scores removed,
and 4.5 % of them, as in each of 100 iterations to compression 100. *Scoring* beside plain autograd
on a copy of the network, and beside the least time that its operations (forward and backward
convolutions and matrix products, two a multiply-add) and bytes (each weight read twice, each score
written and read once) would take at the speed that this machine reaches on large matrix products
or convolutions, whichever is the faster, and arrays. Results are compared before they are timed.
*Checks* beside what they check: the conservation ledger beside one plain pass, the weights that are
alive and the search for the compression at which the network is cut beside one scoring.
"""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import limits, medians
from collapse import masks as masking
from collapse.connectivity import living
from collapse.conservation import ledger
from collapse.critical import critical_compression
from collapse.flow import record
from collapse.models import build, stand_ins
from collapse.options import Pruning
from collapse.processes import keep_freed_memory
from collapse.scores import ScoreInputs, score

Part = Literal["selection", "scoring", "checks"]
SIZES = (15_000_000, 140_000_000)
LAYER = 512 * 512 * 9  # the largest layer of most networks


@dataclass(frozen=True)
class Config:
    """Time the hot paths.

    Attributes:
        only: some of the parts.
        repeats: of each, in turn; medians count.
    """

    only: tuple[Part, ...] = ("selection", "scoring", "checks")
    repeats: int = 5


def selection(repeats: int) -> None:
    """Exact selection beside what finds a threshold."""
    ways = ("ours", "np.partition", "kthvalue", "topk", "sort")
    print("\nselection: milliseconds, and times ours in brackets")
    print(f"{'scores':>13s}{'removed':>9s}" + "".join(f"{way:>18s}" for way in ways))
    for size in SIZES:
        values = torch.rand(size, generator=torch.Generator().manual_seed(0)).pow_(3)
        scores = {str(i): part for i, part in enumerate(values.split(LAYER))}
        masks = {name: torch.ones(len(part), dtype=torch.bool) for name, part in scores.items()}
        for share in (0.5, 0.045):
            drop = int(size * share)
            threshold = torch.kthvalue(values, drop + 1).values
            chosen = torch.cat(list(masking.select(scores, size - drop, masks=masks).values()))
            assert int(chosen.count_nonzero()) == size - drop
            assert bool((values[chosen] >= threshold).all())
            works = {
                "ours": partial(masking.select_with_mass, scores, size - drop, masks)
                if share > 0.2
                else partial(masking.drop_lowest, scores, masks, size, drop),
                "np.partition": partial(np.partition, values.numpy(), drop),
                "kthvalue": partial(torch.kthvalue, values, drop + 1),
                "topk": partial(torch.topk, values, drop, largest=False, sorted=False),
                "sort": partial(torch.sort, values),
            }
            spent = medians(works, repeats if size < 10**8 else 1)
            print(
                f"{size:13,}{share:8.1%} "
                + "".join(
                    f"{spent[way] * 1e3:10.0f} ({spent[way] / spent['ours']:5.1f})" for way in ways
                ),
                flush=True,
            )


def plain(model: nn.Module, pruner: str, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Scores by autograd on a copy, as one would write them down."""
    twin = copy.deepcopy(model).eval()
    masks = masking.dense(twin)
    parameters = dict(twin.named_parameters())
    leaves = [parameters[name] for name in masks]
    if pruner == "synflow":
        with torch.no_grad():
            for name, tensor in twin.state_dict().items():
                tensor.abs_() if tensor.is_floating_point() else None
                if name.endswith(("bias", "running_mean")):
                    tensor.zero_()
        value = twin(torch.ones_like(batches[0][0][:1])).sum()
        gradients = torch.autograd.grad(value, leaves)
        return {n: g * p.detach() for n, g, p in zip(masks, gradients, leaves, strict=True)}
    samples = sum(len(y) for _, y in batches)

    def losses(temperature: float) -> list[Tensor]:
        return [F.cross_entropy(twin(x) / temperature, y) * (len(y) / samples) for x, y in batches]

    def total(parts: list[tuple[Tensor, ...]]) -> list[Tensor]:
        return [torch.stack(grads).sum(0) for grads in zip(*parts, strict=True)]

    if pruner == "snip":
        gradients = total([torch.autograd.grad(loss, leaves) for loss in losses(1.0)])
        pairs = zip(masks, gradients, leaves, strict=True)
        return {n: (g * p.detach()).abs() for n, g, p in pairs}
    first = total([torch.autograd.grad(loss, leaves) for loss in losses(200.0)])
    parts = []
    for loss in losses(200.0):
        local = torch.autograd.grad(loss, leaves, create_graph=True)
        value = sum((a * b).sum() for a, b in zip(local, first, strict=True))
        parts.append(torch.autograd.grad(value, leaves))
    return {n: g * p.detach() for n, g, p in zip(masks, total(parts), leaves, strict=True)}


def scoring(repeats: int) -> None:
    """One scoring of each pruner beside plain autograd and the machine's limit."""
    speed, bandwidth = limits()
    print(f"\nscoring: limit at {speed / 1e9:.0f} GFLOP/s and {bandwidth / 1e9:.0f} GB/s")
    print(f"{'work':32s}{'ours':>9s}{'plain':>9s}{'ratio':>7s}{'limit':>9s}{'ours/limit':>12s}")
    for pruner, name, shape, samples in (
        ("synflow", "vgg16_bn", (3, 32, 32), 1),
        ("synflow", "resnet18", (3, 32, 32), 1),
        ("synflow", "vgg19", (3, 224, 224), 1),
        ("snip", "vgg16_bn", (3, 32, 32), 256),
        ("grasp", "vgg16_bn", (3, 32, 32), 256),
    ):
        classes = 1000 if shape[1] == 224 else 100
        model = build(name, input_shape=shape, classes=classes, init="kaiming").eval()
        torch.manual_seed(0)
        batches = [(torch.randn(samples, *shape), torch.arange(samples) % classes)]
        masks = masking.dense(model)
        inputs = ScoreInputs(batches, mode="eval")
        works = {
            "ours": partial(score, model, pruner, masks, inputs),
            "plain": partial(plain, model, pruner, batches),
        }
        one, other = works["ours"](), works["plain"]()
        for layer, values in other.items():  # rounding turns a ReLU over now and then
            error = (one[layer] - values).double().norm() / values.double().norm()
            assert float(error) < 0.02, (name, layer)
        del one, other
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(batches[0][0])
        # A gradient is three forwards; GraSP's product with the Hessian is eight more.
        passes = 11 if pruner == "grasp" else 3
        moved = 4 * 4 * masking.total(masks)
        limit = passes * counter.get_total_flops() / speed + moved / bandwidth
        spent = medians(works, repeats)
        label = f"{pruner}, {name}, {samples} × {shape[1]}²"
        print(
            f"{label:32s}{spent['ours']:8.3f}s{spent['plain']:8.3f}s"
            f"{spent['plain'] / spent['ours']:7.2f}{limit:8.3f}s{spent['ours'] / limit:12.2f}",
            flush=True,
        )


def checks(repeats: int) -> None:
    """The ledger beside one plain pass; living weights and their search beside one scoring."""
    print(f"\n{'checks':48s}{'ours':>9s}{'beside':>9s}{'ratio':>7s}")

    def line(label: str, ours: float, beside: float) -> None:
        print(f"{label:48s}{ours:8.3f}s{beside:8.3f}s{ours / beside:7.2f}", flush=True)

    torch.manual_seed(0)
    model = build("vgg19", input_shape=(3, 224, 224), classes=1000, init="kaiming").eval()
    x, y = torch.randn(4, 3, 224, 224), torch.arange(4)

    def one_pass() -> None:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()

    def checked() -> None:
        trace = record(model, stand_ins(model), x, lambda out: F.cross_entropy(out, y))
        assert len(ledger(trace))

    spent = medians({"ours": checked, "plain": one_pass}, repeats)
    line("ledger, one pass; vgg19, 4 × 224²", spent["ours"], spent["plain"])

    model = build("vgg16_bn", classes=100, init="kaiming").eval()
    batches = [(torch.randn(100, 3, 32, 32), torch.arange(100))]
    draw = torch.Generator().manual_seed(0)
    dense = masking.dense(model)
    masks = {name: torch.rand(mask.shape, generator=draw) < 0.01 for name, mask in dense.items()}
    for pruner in ("synflow", "snip"):
        works: dict[str, Callable[[], Any]] = {
            "scoring": partial(score, model, pruner, dense, ScoreInputs(batches, mode="eval")),
            "living": partial(living, model, masks, batches[0][0][:1]),
        }
        for name, effective in (("search", True), ("without", False)):
            options = Pruning(pruner, iterations=1)
            works[name] = partial(
                critical_compression, model, batches, options, effective=effective
            )
        spent = medians(works, repeats)
        beside = f"one {pruner} scoring; vgg16_bn, 32²"
        line(f"living, {beside}", spent["living"], spent["scoring"])
        line(f"connected until, {beside}", spent["search"] - spent["without"], spent["scoring"])


def main(config: Config) -> None:
    """Print the tables."""
    keep_freed_memory()  # as our commands do
    versions = f"torch {torch.__version__}, NumPy {np.__version__}, Python"
    print(f"{versions} {platform.python_version()}, {torch.get_num_threads()} threads")
    for part in config.only:
        {"selection": selection, "scoring": scoring, "checks": checks}[part](config.repeats)


if __name__ == "__main__":
    main(tyro.cli(Config))
