"""What a command says of the layers that it leaves out, and of those that are all zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from collapse.commands import conservation, critical, imp, pruning, train
from tests.conftest import Run

PARTLY = (
    "import torch\n"
    "from torch import nn\n"
    "class Net(nn.Module):\n"
    "    def __init__(self):\n"
    "        super().__init__()\n"
    "        self.own = nn.Parameter(torch.randn(64, 8))\n"
    "        self.body, self.head, self.aux = nn.Linear(8, 8), nn.Linear(8, 10), nn.Linear(8, 10)\n"
    "    def forward(self, x):\n"
    "        x = x[:, 0, ::4, ::4].flatten(1) @ self.own\n"
    "        return self.head(self.body(x.relu()).relu())\n"
)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (critical, "--pruners magnitude --quiet"),
        (pruning, "--pruner magnitude --compression 2 --scope layer --quiet"),
        (conservation, "--pruner snip --quiet"),
        (train, "--epochs 1 --train-samples 40 --test-samples 20 --quiet"),
        (imp, "--compression 2 --epochs 1 --train-samples 40 --test-samples 20 --quiet"),
    ],
)
def test_every_command_says_what_is_left_out(
    run: Run, module_named: Callable[[str, str], None], command: object, options: str
) -> None:
    module_named("partly", PARTLY)
    for _ in range(2 if command is train else 1):  # a run that is there already says it as well
        code, out, err = run(command, f"--model partly:Net {options}")
        assert (code, err) == (0, "")
        assert "not counted: 512 parameters of 1 tensor (largest: own 512)" in out
        assert "never reached: the output does not depend on aux.weight 80, so it is" in out
    code, out, err = run(command, f"--model partly:Net {options} --include own --exclude aux body")
    assert (code, err) == (0, "")
    assert "144 parameters of 2 tensors (largest: aux.weight 80, body.weight 64)" in out
    assert "never reached" not in out
    code, _, err = run(command, f"--model partly:Net {options} --exclude boddy")
    assert (code, err.count("\n")) == (2, 1)
    assert "--exclude 'boddy' matches no layer" in err
    assert "body.weight" in err


def test_a_head_of_zeros_is_named_and_does_not_look_like_a_collapse(
    run: Run, module_named: Callable[[str, str], None]
) -> None:
    module_named(
        "zeros",
        "from torch import nn\n"
        "def net():\n"
        "    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(), nn.Linear(8, 10))\n"
        "    nn.init.zeros_(model[3].weight)\n"
        "    return model\n",
    )
    code, out, _ = run(critical, "--model zeros:net --pruners magnitude --quiet")
    assert code == 0
    assert "'3.weight' is all zero in the given weights" in out
    assert "--init kaiming" in out
    code, out, _ = run(critical, "--model zeros:net --pruners magnitude --quiet --init kaiming")
    assert "all zero" not in out
    code, out, _ = run(pruning, "--model zeros:net --pruner magnitude --compression 2 --quiet")
    assert code == 1
    assert "'3.weight' is all zero in the given weights" in out
