"""Paths through operations that hold several weights: recurrent networks, attention, norms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapse import masks as masking
from collapse.connectivity import connected, living
from collapse.models import plain


class Read(nn.Module):
    """A recurrent layer, read at its last step."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Cells(nn.Module):
    """One cell, run over the steps of a sequence, or fed with the first of them only."""

    def __init__(self, cell: nn.Module, once: bool = False) -> None:
        super().__init__()
        self.cell, self.head, self.once = cell, nn.Linear(3, 2), once

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for index, step in enumerate(x.unbind(1)):
            now = torch.zeros_like(step) if index and self.once else step
            state = self.cell(now, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Attending(nn.Module):
    """Attention with a mask, and cross attention to two widths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.own = nn.MultiheadAttention(4, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(4, 2, kdim=3, vdim=3, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        hidden = torch.ones(len(x[0]), len(x[0])).triu(1).bool()
        y = y + self.own(y, y, y, attn_mask=hidden, need_weights=False)[0]
        return self.head(self.cross(y, x, x)[0].mean(1))


CASES = {
    "lstm": lambda: Read(nn.LSTM(3, 3, 2, batch_first=True), 3),
    "lstm, both ways, projected": lambda: Read(
        nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True, proj_size=2), 4
    ),
    "gru": lambda: Read(nn.GRU(3, 3, 2, batch_first=True), 3),
    "gru, both ways": lambda: Read(nn.GRU(3, 2, batch_first=True, bidirectional=True), 4),
    "rnn": lambda: Read(nn.RNN(3, 3, 2, batch_first=True), 3),
    "lstm cell": lambda: Cells(nn.LSTMCell(3, 3)),
    "gru cell": lambda: Cells(nn.GRUCell(3, 3)),
    "gru cell, fed once": lambda: Cells(nn.GRUCell(3, 3), once=True),
    "lstm cell, fed once": lambda: Cells(nn.LSTMCell(3, 3), once=True),
    "rnn cell": lambda: Cells(nn.RNNCell(3, 3)),
    "attention": Attending,
}


def generic(model: nn.Module, masks: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """A weight is on a path where the output changes with it, at random weights and inputs."""
    tensors = {}
    for name, p in model.named_parameters():
        weight = torch.randn_like(p) * masks.get(name, torch.zeros_like(p))
        tensors[name] = weight.requires_grad_()
    y = torch.func.functional_call(model, tensors, (x,))
    grads = torch.autograd.grad(y.sum(), [tensors[n] for n in masks], materialize_grads=True)
    return {n: m & (g != 0) for (n, m), g in zip(masks.items(), grads, strict=True)}


@pytest.mark.parametrize("case", CASES)
def test_paths_are_those_along_which_the_output_changes(case: str) -> None:
    torch.manual_seed(0)
    model = plain(CASES[case]()).double().eval()
    x = torch.randn(1, 4, 3, dtype=torch.float64)
    cut = 0
    for draw in range(6):
        share = (0.3, 0.5, 0.8)[draw % 3]
        masks = {n: torch.rand(m.shape) < share for n, m in masking.dense(model).items()}
        expected = generic(model, masks, x)
        found = living(model, masks, x)
        for name in masks:
            assert torch.equal(found[name], expected[name]), (draw, name)
        cut += not any(m.any() for m in expected.values())
        assert connected(model, masks, x) == any(bool(m.any()) for m in expected.values())
    assert cut < 6


def test_a_recurrent_matrix_is_dead_where_there_is_one_step_only() -> None:
    model = Read(nn.LSTM(3, 3, batch_first=True), 3)
    alive = living(model, masking.dense(model), torch.zeros(1, 1, 3))
    assert not alive["layer.weight_hh_l0"].any()
    assert alive["layer.weight_ih_l0"][6:9].all()  # the cell's
    assert not alive["layer.weight_ih_l0"][3:6].any()  # a forget gate has nothing to forget
    alive = living(model, masking.dense(model), torch.zeros(1, 3, 3))
    assert all(bool(mask.all()) for mask in alive.values())


def test_a_packed_attention_is_three_layers_on_the_users_own_model() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten())
    masks = masking.dense(model)
    masks["0.self_attn.v_proj_weight"][1] = False
    alive = living(model, masks, torch.zeros(1, 3, 4))
    assert not alive["0.self_attn.out_proj.weight"][:, 1].any()
    assert alive["0.self_attn.q_proj_weight"].all()


def test_a_scored_scale_of_a_normalisation_cuts_its_channel() -> None:
    for norm in (nn.BatchNorm2d(3), nn.GroupNorm(1, 3), nn.InstanceNorm2d(3, affine=True)):
        model = nn.Sequential(nn.Conv2d(2, 3, 1), norm, nn.Conv2d(3, 2, 1))
        masks = masking.dense(model, include=["1.weight"])
        masks["1.weight"][1] = False
        alive = living(model, masks, torch.zeros(1, 2, 4, 4))
        assert alive["1.weight"].tolist() == [True, False, True]
        assert not alive["0.weight"][1].any()
        assert not alive["2.weight"][:, 1].any()
        assert alive["0.weight"][0].all()
    tokens = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    masks = masking.dense(tokens, include=["1.weight"])
    masks["1.weight"][1] = False
    assert not living(tokens, masks, torch.zeros(1, 5, 2))["0.weight"][1].any()


class _Packed(nn.Module):
    """An operation that is run as it is: what its biases make comes from no input."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([x.shape[1]]), batch_first=True)
        _, (last, _) = self.lstm(packed)
        return self.head(last[-1])


def test_a_bias_carries_no_path_through_packed_sequences() -> None:
    model, example = _Packed(), torch.zeros(1, 5, 3)
    masks = masking.dense(model)
    assert connected(model, masks, example)
    masks["lstm.weight_ih_l0"].zero_()
    assert not connected(model, masks, example)
    assert not living(model, masks, example)["head.weight"].any()


class _Gated(torch.autograd.Function):
    """``x ⊙ tanh(x Wᵀ + b)``, computed again in the backward pass, which cannot be looked into."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        return x * torch.tanh(x @ weight.t() + bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias = ctx.saved_tensors
        gate = torch.tanh(x @ weight.t() + bias)
        inner = gradients[0] * x * (1 - gate**2)
        return gradients[0] * gate + inner @ weight, inner.t() @ x, inner.sum(0)


class Gate(nn.Module):
    """A gate in one call, or in torch's own."""

    def __init__(self, one_call: bool) -> None:
        super().__init__()
        self.first, self.gate, self.one_call = nn.Linear(3, 3), nn.Linear(3, 3), one_call

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.one_call:
            return _Gated.apply(x, self.gate.weight, self.gate.bias)
        return x * torch.tanh(self.gate(x))


@pytest.mark.parametrize("one_call", [False, True])
def test_a_bias_opens_no_gate(one_call: bool) -> None:
    model, x = Gate(one_call), torch.ones(2, 3)
    masks = masking.dense(model)
    assert connected(model, masks, x)
    masks["gate.weight"] = torch.zeros(3, 3, dtype=torch.bool)
    assert not connected(model, masks, x)
