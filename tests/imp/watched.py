"""Small trainings whose dynamics are watched."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from collapse import masks as masking
from collapse.data import Dataset
from collapse.imp import Dynamics, conserved_table, conserving_units
from collapse.train import Trainer
from tests.train.test_train import SETTINGS

FULL_BATCH = replace(
    SETTINGS, train_batch_size=64, momentum=0.0, weight_decay=0.0, lr_drops=(), lr=0.01
)


def vectors() -> Dataset:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 5, generator=draw)
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
    return Dataset("vectors", inputs, labels, 3, (0.0,), (1.0,))


def perceptron() -> nn.Module:
    """Homogeneous units with biases, in float64."""
    torch.manual_seed(0)
    layers = [nn.Linear(5, 8), nn.LeakyReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)]
    return nn.Sequential(*layers).double()


def watched(model: nn.Module, settings, epochs: int, dataset: Dataset | None = None):
    """Rows of the dynamics, and the conserved table, of some epochs of training."""
    dataset = dataset or vectors()
    trainer = Trainer(model, dataset, dataset, settings)
    groups = conserving_units(trainer)
    watch = Dynamics(trainer, masking.dense(model), groups, 0)
    rows, observations = [], []
    for epoch in range(epochs + 1):
        _, numbers = trainer.epoch(0, epoch - 1, watch) if epoch else trainer.test(0, 0, watch)
        layers, observation = watch.observe(numbers, epoch)
        rows += layers
        observations.append(observation)
    return rows, conserved_table(
        [(c.place, c.units) for c in groups], observations, settings.weight_decay
    )
