"""Scores that are not finite: are the data, the loss or its gradient to blame, and where?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapse import masks as masking
from collapse.errors import RequestError
from collapse.scores import ScoreInputs, score


def test_scores_that_are_not_finite_have_the_true_cause(mlp: nn.Module) -> None:
    class Logs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.sharp = mlp, nn.Softmax(1)

        def forward(self, x: Tensor) -> Tensor:
            masked = self.body(x).masked_fill(torch.eye(2, 3, dtype=torch.bool), -torch.inf)
            return (self.sharp(masked) - 2).log()  # the mask before it is as it should be

    class Root(Logs):
        def forward(self, x: Tensor) -> Tensor:
            return (self.body(x) * 0).sqrt()

    x, y = torch.ones(2, 6), torch.tensor([0, 1])

    def said(model: nn.Module, **options: Any) -> str:
        with pytest.raises(RequestError) as error:
            score(model, "snip", masking.dense(model), ScoreInputs([(x, y)], **options))
        return str(error.value).split("is not finite: ")[1]

    first = "the first values that are not finite come from"
    assert said(Logs()) == f"the loss is nan; {first} log in the forward"
    assert (
        said(mlp, loss=lambda y, _: y.sum() / 0) == f"the loss is inf; {first} div in the forward"
    )
    assert said(Root()).startswith("the loss is finite and its gradient is not")
    x[0, 0] = float("nan")
    assert said(mlp) == "the data hold NaN or infinite values"


@pytest.mark.parametrize("pruner", ["snip", "grasp", "synflow"])
def test_a_forward_that_overwrites_what_it_has_read_is_one_line(pruner: str) -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x).relu()
            h[:, :4] = self.head(h)[:, :4]
            return h

    model = Overwriting()
    inputs = ScoreInputs([(torch.randn(4, 6), torch.arange(4))])
    with pytest.raises(RequestError, match=r"backward pass failed: .* inplace .* \.clone\(\) it"):
        score(model, pruner, masking.dense(model), inputs)
