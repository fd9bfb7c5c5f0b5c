"""Paths through RNN, LSTM and GRU, which torch runs as one operation with a list of weights.

Each is run step by step: every matrix connects all that it multiplies, a gate is open and depends
on what it reads, and a state that does not come from the input is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from collapse.connectivity.noise import noisy

# A term, or zeros in its place if it does not come from the input.
From = Callable[[Any], Any]
# (what the input gives, what the state gives, the state's other tensors) → the state's tensors.
Step = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


def _plain(into: Tensor, back: Tensor, _: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (noisy(into + back),)


def _lstm(into: Tensor, back: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    entry, forget, cell, out = (into + back).chunk(4, -1)
    memory = noisy((1 + forget) * state[1] + (1 + entry) * cell)
    return noisy((1 + out) * memory), memory


def _gru(into: Tensor, back: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (reset, update, new), (reset_back, update_back, old) = into.chunk(3, -1), back.chunk(3, -1)
    candidate = noisy(new + (1 + reset + reset_back) * old)
    return (noisy((1 + update + update_back) * (candidate + state[0])),)


def _layer(step: Step, x: Tensor, state: tuple[Tensor, ...], weights: Sequence[Tensor]) -> Any:
    """One direction of one layer over ``x [time, batch, in]``: outputs, and the last state."""
    outputs = []
    for now in x:
        into, back = (
            noisy(F.linear(v, w)) for v, w in zip((now, state[0]), weights[:2], strict=True)
        )
        state = step(into, back, state)
        if len(weights) == 3:  # a projection of what goes out
            state = (noisy(F.linear(state[0], weights[2])), *state[1:])
        outputs.append(state[0])
    return torch.stack(outputs), state


def _sequence(step: Step) -> Callable[..., Any]:
    def run(
        from_input: From,
        x: Tensor,
        given: Any,
        weights: Any,
        has_biases: Any,
        layers: Any,
        dropout: float = 0.0,
        train: bool = False,
        bidirectional: bool = False,
        batch_first: bool = False,
    ) -> Any:
        if isinstance(given, Tensor) and not given.is_floating_point():
            return None  # packed sequences: the operation itself
        states = [from_input(s) for s in (given if isinstance(given, tuple | list) else (given,))]
        x = x.transpose(0, 1) if batch_first else x
        directions = 2 if bidirectional else 1
        matrices = [weight for weight in weights if weight.ndim == 2]
        each = len(matrices) // (layers * directions)
        last: list[tuple[Tensor, ...]] = []
        for _ in range(layers):
            found = []
            for direction in range(directions):
                state = tuple(s[len(last)] for s in states)
                way = x.flip(0) if direction else x
                out, end = _layer(step, way, state, matrices[each * len(last) :][:each])
                found.append(out.flip(0) if direction else out)
                last.append(end)
            x = torch.cat(found, -1)
        ends = [torch.stack(parts) for parts in zip(*last, strict=True)]
        return (x.transpose(0, 1) if batch_first else x, *ends)

    return run


def _cell(step: Step) -> Callable[..., Any]:
    def run(from_input: From, x: Tensor, given: Any, *weights: Any) -> Any:
        many = isinstance(given, tuple | list)
        state = tuple(from_input(s) for s in (given if many else (given,)))
        _, end = _layer(step, x[None], state, weights[:2])
        return end if many else end[0]

    return run


# By torch's function: run as its replacement, on the arguments of the call.
RECURRENT: dict[Any, Callable[..., Any]] = {
    torch.lstm: _sequence(_lstm),
    torch.gru: _sequence(_gru),
    torch.rnn_tanh: _sequence(_plain),
    torch.rnn_relu: _sequence(_plain),
    torch.lstm_cell: _cell(_lstm),
    torch.gru_cell: _cell(_gru),
    torch.rnn_tanh_cell: _cell(_plain),
    torch.rnn_relu_cell: _cell(_plain),
}
