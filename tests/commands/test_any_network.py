"""The commands on networks of tokens, on batches of one's own and with a loss of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collapse import tables
from collapse.commands import conservation, critical, pruning, train
from tests.conftest import Run

MODULE = """
import torch
import torch.nn.functional as F
from torch import nn

class Words(nn.Module):
    def __init__(self, each=True, classes=3):
        super().__init__()
        self.words, self.body = nn.Embedding(12, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 12 if each else classes)
        self.each = each
    def forward(self, ids):
        x = self.head(self.body(self.words(ids)).relu())
        return x if self.each else x.mean(1)
def classifier(classes): return Words(False, classes)

class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 2)
    def forward(self, x, shift):
        h = (self.body(x) + shift).relu()
        return {"one": self.one(h), "two": self.two(h)}
def batches(seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(9, 4, generator=draw)
    targets = {"class": torch.arange(9) % 3, "real": x[:, :2]}
    return [({"x": x, "shift": torch.zeros(9, 1)}, targets)]
def loss(output, targets):
    first = F.cross_entropy(output["one"], targets["class"])
    return first + F.mse_loss(output["two"], targets["real"])

def three(): return [(torch.randn(5, 3), torch.arange(5), 1)]
def none(): return []
class Seven(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(32, 7)
    def forward(self, x): return self.head(x[:, 0, 0])
def score(model, masks, inputs): return {n: mask.float() for n, mask in masks.items()}
"""


@pytest.fixture(autouse=True)
def _module(module_named: Any) -> None:
    module_named("nets", MODULE)


@pytest.mark.parametrize("model", ["nets:Words", "nets:classifier"])
def test_tokens(model: str, run: Run, tmp_path: Path) -> None:
    shape = "--model " + model + " --dataset tokens --input-shape 5 --quiet"
    out = tmp_path / "critical.csv"
    code, _, err = run(
        critical, f"{shape} --iterations 4 --scan 0 --samples-per-class 2 --out {out}"
    )
    assert (code, err) == (0, "")
    table, _ = tables.read(out, "critical")
    assert list(table["pruner"]) == ["random", "magnitude", "snip", "grasp", "synflow", "synflow"]
    assert set(table["dataset"]) == {"tokens"}
    assert set(table["input_shape"].astype(str)) == {"5"}
    assert list(table["evidence"])[-1] == "certified schedule"
    for pruner in ("snip", "synflow"):
        code, text, _ = run(conservation, f"{shape} --pruner {pruner} --dtype float64")
        assert code == 0
        assert "cuts 2 of 2" in text


def test_transformers_on_tokens(run: Run) -> None:
    pytest.importorskip("transformers")
    code, text, err = run(
        pruning,
        "--model transformers:GPT2LMHeadModel?n_layer=1&n_embd=8&n_head=2&vocab_size=20 "
        "--dataset tokens --pruner snip --compression 4 --quiet",
    )
    assert (code, err) == (0, "")
    assert "lm_head" in text or "wte" in text


def test_batches_and_a_loss_of_ones_own(run: Run) -> None:
    request = "--model nets:Heads --dataset nets:batches --output all --quiet"
    code, text, err = run(pruning, f"{request} --pruner snip --compression 4 --loss nets:loss")
    assert (code, err) == (0, "")
    assert "54 parameters, 14 kept" in text
    code, text, _ = run(conservation, f"{request} --pruner snip --loss nets:loss")
    assert code == 0
    assert "cuts 3 of 3" in text
    code, text, _ = run(critical, f"{request} --pruners synflow --iterations 3 --scan 0")
    assert code == 0


HEADS = "--model nets:Heads --dataset nets:batches --quiet"
MISTAKES: dict[str, tuple[Any, str]] = {
    f"{HEADS} --pruners synflow": (critical, "parts one, two; choose one"),
    f"{HEADS} --output all --pruners snip": (critical, "cross-entropy takes an output"),
    f"{HEADS} --output all --pruners synflow --loss nets:loss": (critical, "expected a pruner"),
    f"{HEADS} --output all --pruners snip --loss nets:los": (critical, "nearest: loss"),
    f"{HEADS} --output one --samples 4": (critical, "which are scored as they are"),
    f"{HEADS} --output one --input-shape 5": (critical, "has inputs of shape (4,)"),
    "--model fc --output logits --quiet": (critical, "the model returns one tensor; leave the opt"),
    "--model fc --dataset nets:three": (critical, "'nets:three': batch 1: expected a pair"),
    "--model fc --dataset nets:none": (critical, "expected at least one batch, got none"),
    "--model fc --dataset tokens": (critical, "Sequential has no nn.Embedding"),
    "--model nets:Words --dataset tokens --input-shape 3 8 8": (critical, "how many tokens"),
    "--model nets:Words --dataset tokens --samples 0": (critical, "expected at least 1"),
    "--model nets:Words --dataset tokens": (train, "random tokens are for scoring a"),
    "--model nets:Heads --dataset nets:batches": (train, "for scoring only"),
    "--model nets:Words --pruners synflow": (critical, "ids of tokens are integers"),
    "--model nets:Seven --pruner nets:score": (conservation, "an output of shape [batch, cl"),
}  # fmt: skip


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: str, run: Run) -> None:
    command, message = MISTAKES[arguments]
    code, out, err = run(command, arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
