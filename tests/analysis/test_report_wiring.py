"""The graph of layers: who takes from whom, and lanes that no two nodes share at a time."""

from __future__ import annotations

import pytest
import torch

from analysis.report.wiring import Node, placed, wiring
from collapse.problem import Problem
from tests.zoo import ZOO


def test_a_skip_and_a_side_branch_are_seen() -> None:
    case = ZOO["residual"]()
    nodes = wiring(Problem(case.model, case.batches))
    names = [node.name.removesuffix(".weight") for node in nodes]
    assert names == ["input", "stem", "branch.0", "+", "side", "joined", "head", "output"]
    into = {
        name: [names[row] for row in node.into] for name, node in zip(names, nodes, strict=True)
    }
    assert into["+"] == ["stem", "branch.0"]  # the skip
    assert into["joined"] == ["+", "side"]
    assert into["head"] == ["joined"]
    assert nodes[2].lane != nodes[1].lane  # the skip stays in its lane beside the branch


def test_a_layer_that_runs_twice_is_two_rows() -> None:
    case = ZOO["shared"]()
    rows = [node.name for node in wiring(Problem(case.model, case.batches)) if node.kind == "layer"]
    assert rows.count("first.weight") == 3  # twice by itself, once through the second module


@pytest.mark.parametrize("seed", range(20))
def test_no_connection_runs_through_another_node(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    nodes = [Node("input", "input", ())]
    for row in range(1, 15):
        count = int(torch.randint(1, 4, (1,), generator=generator))
        sources = torch.randint(max(0, row - 4), row, (count,), generator=generator).tolist()
        nodes.append(Node("layer", str(row), tuple(sorted(set(sources)))))
    drawn = placed(nodes)
    for row, node in enumerate(drawn):
        for source in node.into:  # an edge stays in its source's lane until the row before
            between = drawn[source + 1 : row]
            assert all(other.lane != drawn[source].lane for other in between)
