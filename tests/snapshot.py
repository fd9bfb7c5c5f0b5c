"""Everything of a user's model that scoring must not touch."""

from __future__ import annotations

import copy
import random

import numpy as np
import torch
from torch import Tensor, nn


def snapshot(model: nn.Module) -> dict[str, object]:
    """Everything of the user's that scoring must not touch."""
    return {
        "state": copy.deepcopy(model.state_dict()),
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "flags": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "identity": [id(p) for p in model.parameters()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "torch": torch.random.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),  # noqa: NPY002  # the legacy stream is the user's
        "python": random.getstate(),
    }


def assert_same(before: object, after: object) -> None:
    if isinstance(before, dict):
        assert before.keys() == after.keys()
        for key in before:
            assert_same(before[key], after[key])
    elif isinstance(before, Tensor):
        assert torch.equal(before, after)
    elif isinstance(before, np.ndarray):
        assert np.array_equal(before, after)
    elif isinstance(before, list):
        assert len(before) == len(after)
        for one, other in zip(before, after, strict=True):
            assert_same(one, other)
    else:
        assert before == after


def decorate(model: nn.Module) -> None:
    """Mixed training flags, a gradient and a hook: what a user may have left on a model."""
    model.train()
    next(model.children()).eval()
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    next(model.children()).register_forward_hook(lambda *_: None)
