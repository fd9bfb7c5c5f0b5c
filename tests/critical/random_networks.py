"""``python -m tests.critical.random_networks``: critical results by brute force.

Each network is a random graph of linear layers with shortcuts, concatenations, shared weights and,
now and then, a function that is not homogeneous. Every number to keep is tried: own sort, own walk
from unit to unit, the naive scores of ``tests/reference.py``.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from collapse.critical import critical_compression
from collapse.errors import RequestError
from collapse.options import Pruning
from collapse.pruning import prune
from collapse.schedules import CERTIFIED_MARGIN
from tests import reference

Masks = dict[str, Tensor]
Edges = list[tuple[int, int, tuple[str, int, int] | None]]  # from unit, to unit, weight
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky": nn.LeakyReLU(0.2),
    "identity": lambda x: x,
    "softplus": nn.Softplus(),
    "shifted": lambda x: (x + 1e-3).relu(),
    "gelu": nn.GELU(),
}
HOMOGENEOUS = ("relu", "leaky", "identity")


@dataclass(frozen=True)
class Node:
    """A vector: ``layer`` of one other, or a sum (of equal widths) or concatenation of several."""

    kind: str  # layer, add, cat
    sources: tuple[int, ...]
    width: int
    layer: str = ""
    function: str = "identity"


@dataclass
class Plan:
    """A random network's nodes, the input first; the last one is the output."""

    nodes: list[Node] = field(default_factory=list)

    @property
    def is_chain_of_theorem_3(self) -> bool:
        """One path, each layer once, homogeneous functions only."""
        layers = [node.layer for node in self.nodes if node.kind == "layer"]
        chain = all(n.kind == "layer" and n.sources == (i,) for i, n in enumerate(self.nodes[1:]))
        homogeneous = all(n.function in HOMOGENEOUS for n in self.nodes)
        return chain and homogeneous and len(set(layers)) == len(layers)


class Network(nn.Module):
    """The module of a plan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        for node in plan.nodes:
            if node.kind == "layer" and not hasattr(self, node.layer):
                width = plan.nodes[node.sources[0]].width
                self.add_module(node.layer, nn.Linear(width, node.width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for node in self.plan.nodes[1:]:
            parts = [found[source] for source in node.sources]
            if node.kind == "layer":
                value = getattr(self, node.layer)(parts[0])
            else:
                value = torch.cat(parts, 1) if node.kind == "cat" else torch.stack(parts).sum(0)
            found.append(FUNCTIONS[node.function](value))
        return found[-1]


def random_plan(draw: np.random.Generator) -> Plan:
    """Two to five layers; every node is used, so that each layer lies on a path."""
    plan = Plan([Node("input", (), int(draw.integers(2, 5)))])
    odd = draw.random() < 0.15  # a network that is not homogeneous
    chain = draw.random() < 0.4
    nodes = plan.nodes

    def add(kind: str, sources: tuple[int, ...], width: int, layer: str = "") -> None:
        choices = list(FUNCTIONS) if odd else list(HOMOGENEOUS)
        function = str(draw.choice(choices)) if kind == "layer" else "identity"
        nodes.append(Node(kind, sources, width, layer, function))

    for number in range(int(draw.integers(2, 6))):
        source, last = (len(nodes) - 1,), nodes[-1]
        square = [n for n in nodes if n.kind == "layer" and n.width == nodes[n.sources[0]].width]
        if not chain and square and draw.random() < 0.2 and square[0].width == last.width:
            add("layer", source, last.width, square[0].layer)  # the same weight once more
        else:
            width = last.width if not chain and draw.random() < 0.5 else int(draw.integers(1, 5))
            add("layer", source, width, f"layer{number}")
        if not chain and draw.random() < 0.6:  # something beside the layer
            here, before = len(nodes) - 1, source[0]
            if nodes[here].width == nodes[before].width and draw.random() < 0.7:
                add("add", (here, before), nodes[here].width)
            else:
                add("cat", (before, here), nodes[before].width + nodes[here].width)
    add("layer", (len(nodes) - 1,), int(draw.integers(1, 4)), "head")
    nodes[-1] = Node("layer", nodes[-1].sources, nodes[-1].width, "head")  # no function behind
    return plan


def edges_of(plan: Plan) -> tuple[Edges, list[int], list[int]]:
    """Edges between numbered units, the units of the input, and those of the output."""
    first, count = [], 0
    for node in plan.nodes:
        first.append(count)
        count += node.width
    edges: Edges = []
    for at, node in enumerate(plan.nodes):
        offset = 0
        for source in node.sources:
            width = plan.nodes[source].width
            if node.kind == "layer":
                edges += [
                    (first[source] + j, first[at] + i, (f"{node.layer}.weight", i, j))
                    for i in range(node.width) for j in range(width)
                ]  # fmt: skip
            else:
                edges += [(first[source] + j, first[at] + offset + j, None) for j in range(width)]
                offset += width if node.kind == "cat" else 0
    last = plan.nodes[-1]
    return edges, list(range(plan.nodes[0].width)), list(range(first[-1], first[-1] + last.width))


def arrives(plan: Plan, masks: Masks) -> bool:
    """Whether a walk over kept weights leads from the input to the output."""
    edges, start, end = edges_of(plan)
    reached = set(start)
    for source, to, weight in edges:  # nodes come in order
        if source in reached and (weight is None or bool(masks[weight[0]][weight[1], weight[2]])):
            reached.add(to)
    return bool(reached & set(end))


def _full(masks: Masks) -> bool:
    return all(bool(mask.any()) for mask in masks.values())


def _kept(masks: Masks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def certified_masks(model: nn.Module, batches) -> Iterator[Masks]:
    """The masks of every number to keep that the certified schedule passes, most first."""
    masks = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in model.named_parameters()}
    yield masks
    while _kept(masks) > len(masks):
        scores = reference.synflow(model, masks, batches, "eval")
        ones = torch.ones(1, model.plan.nodes[0].width, dtype=torch.float64)
        R = float(_positive(model, masks)(ones).detach().sum())
        alive = np.sort(torch.cat([scores[n][masks[n]] for n in masks]).numpy())
        mass = np.cumsum(alive)
        removable = int((mass < R * (1 - CERTIFIED_MARGIN)).sum())
        before = _kept(masks)
        after = max(len(masks), before - removable)
        if after == before:
            return
        for keep in range(before - 1, after - 1, -1):
            following = reference.select(scores, keep, masks)
            yield following
        masks = following


def _positive(model: nn.Module, masks: Masks) -> nn.Module:
    twin = reference._masked_double(model, masks, "eval")
    for parameter in twin.parameters():
        parameter.data = parameter.data.abs()
    return twin


def complaints(seed: int) -> tuple[list[str], Counter[str]]:
    """What our results say of one network and brute force does not, and what was compared."""
    draw = np.random.default_rng(seed)
    plan = random_plan(draw)
    torch.manual_seed(seed)
    model = Network(plan).double()
    batches = [(torch.randn(6, plan.nodes[0].width).double(), torch.arange(6) % 2)]
    if plan.nodes[-1].width < 2:  # cross-entropy of one class is zero
        pruners = ["magnitude", "synflow"]
    else:
        pruners = ["magnitude", "synflow", "snip", "grasp"]
    wrong: list[str] = []
    compared: Counter[str] = Counter()
    total = sum(p.numel() for p in model.parameters())
    layers = len(list(model.parameters()))
    dense = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in model.named_parameters()}

    def compare(what: str, ours: object, theirs: object) -> None:
        compared[what.split(":")[0]] += 1
        if ours != theirs:
            wrong.append(f"network {seed}, {what}: {ours}, by brute force {theirs}")

    for pruner in pruners:
        scores = reference.SCORES[pruner](model, dense, batches, "eval")
        asked = partial(
            critical_compression, model, batches, Pruning(pruner, iterations=1, mode=_mode(pruner))
        )
        if not any(bool(score.any()) for score in scores.values()):  # every ReLU is off
            compare("nothing to rank", _refused(asked), True)
            continue
        result = asked()
        every = {k: reference.select(scores, k) for k in range(layers, total + 1)}
        full = min(k for k in every if _full(every[k]))
        compare(f"critical: {pruner}", result.critical_kept, full)
        paths = [k for k in every if arrives(plan, every[k])]
        compare(f"connected until: {pruner}", result.connected_kept, min(paths, default=None))

    options = Pruning("synflow", iterations=5)
    result = critical_compression(model, batches, options, scan=3)
    every = {k: prune(model, batches, options, keep=k, engine="plain").masks
             for k in range(layers, total + 1)}  # fmt: skip
    compare("search: critical survives", _full(every[result.critical_kept]), True)
    if result.collapse_kept is not None:
        compare("search: collapse collapses", _full(every[result.collapse_kept]), False)
    if result.connected_kept is not None:
        compare("search: connected", arrives(plan, every[result.connected_kept]), True)
    truth = min(k for k in every if _full(every[k]))
    compare("search: the truth is in the bracket", truth <= result.critical_kept, True)
    if result.proved:
        compare("search: what is proved is true", truth, result.critical_kept)

    result = critical_compression(model, batches, Pruning(schedule="certified"))
    passed = {_kept(masks): masks for masks in certified_masks(model, batches)}
    alive = [k for k in passed if all(_full(passed[j]) for j in passed if j >= k)]
    compare("certified: critical", result.critical_kept, min(alive))
    paths = [k for k in passed if arrives(plan, passed[k])]
    compare("certified: connected until", result.connected_kept, min(paths))
    named = result.evidence == "certified schedule"
    compare("label", named, plan.is_chain_of_theorem_3)
    if named:
        compare("promise", (result.critical_kept, result.connected_kept), (layers, layers))
    return wrong, compared


def _refused(work: Callable[[], object]) -> bool:
    try:
        work()
    except RequestError:
        return True
    return False


def _mode(pruner: str) -> str | None:
    return "eval" if pruner in ("snip", "grasp") else None


def main() -> int:
    """Print what was compared, and each difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    compared: Counter[str] = Counter()
    different = 0
    for seed in range(options.first, options.first + options.networks):
        wrong, more = complaints(seed)
        compared += more
        different += len(wrong)
        for line in wrong:
            print(line, flush=True)
    print(f"{options.networks} networks, {different} differences in {sum(compared.values())}:")
    for what, count in compared.items():
        print(f"  {count:5} {what}")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
