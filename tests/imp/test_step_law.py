"""One step of SGD changes the conserved quantity by exactly η² (‖g_in‖² − ‖g_out‖²)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from collapse import masks as masking
from collapse.imp import conserving_units
from collapse.imp.step_law import StepLaw, balance
from collapse.train import Trainer
from tests.imp.watched import FULL_BATCH, perceptron, vectors, watched
from tests.train.test_train import _convolutions, _drawn

EPOCHS = 4


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("batch", [64, 10])
def test_each_epoch_ends_where_the_law_says(momentum: float, decay: float, batch: int) -> None:
    """Full batches and mini-batches, with Nesterov's momentum and weight decay."""
    settings = replace(
        FULL_BATCH, lr=0.1, momentum=momentum, weight_decay=decay, train_batch_size=batch
    )
    _, table = watched(perceptron(), settings, EPOCHS)
    first, later = table[table["epoch"] == 0], table[table["epoch"] > 0]
    assert first["predicted"].isna().all()
    assert float(later["drift"].abs().max()) > 1e-5  # it is no constant
    assert float((later["value"] - later["predicted"]).abs().max()) < 1e-13


def test_one_step_by_autograd_alone() -> None:
    """The change of one plain step is η² times GraSP's defect, bias included."""
    model, rate = perceptron(), 0.3
    data = vectors()
    F.cross_entropy(model(data.images.double()), data.labels).backward()
    into, out_of = (model[0].weight, model[0].bias), model[2].weight

    def quantity() -> torch.Tensor:
        return into[0].square().sum(1) + into[1].square() - out_of.square().sum(0)

    with torch.no_grad():
        before = quantity()
        defect = into[0].grad.square().sum(1) + into[1].grad ** 2 - out_of.grad.square().sum(0)
        for p in model.parameters():
            p -= rate * p.grad
        torch.testing.assert_close(quantity() - before, rate**2 * defect, rtol=1e-9, atol=1e-15)
    assert float(defect.abs().min()) > 0


def test_it_holds_under_batchnorm_dropout_and_masks() -> None:
    """Units behind a train-mode BatchNorm, whose incoming side is γ and β; a third is pruned."""
    torch.manual_seed(0)
    model = _convolutions().double()
    data = _drawn()
    settings = replace(FULL_BATCH, lr=0.05, momentum=0.9, weight_decay=1e-2, train_batch_size=16)
    trainer = Trainer(model, data, data, settings)
    draw = torch.Generator().manual_seed(1)
    masks = {
        n: torch.rand(m.shape, generator=draw) > 1 / 3 for n, m in masking.dense(model).items()
    }
    trainer.hold(masks)
    law = StepLaw(trainer, conserving_units(trainer))

    class Watch:
        def step(self, index: int) -> None:
            law.step()

        def measured(self) -> torch.Tensor:
            squares = {n: p.detach().square() for n, p in model.named_parameters()}
            return torch.stack([(now := balance(law.groups, squares)), law.predicted(now)]).reshape(
                -1
            )

    for epoch in range(2):
        law.begin()
        _, numbers = trainer.epoch(0, epoch, Watch())
        value, predicted = torch.tensor(numbers, dtype=torch.float64).chunk(2)
        assert len(value) > 8
        torch.testing.assert_close(value, predicted, rtol=0, atol=1e-12)


def test_a_frozen_parameter_leaves_its_units_without_a_prediction() -> None:
    model = perceptron()
    model[0].bias.requires_grad = False
    _, table = watched(model, FULL_BATCH, 1)
    last = table[table["epoch"] == 1]
    known = last.groupby("place")["predicted"].apply(lambda column: column.notna().all())
    assert known.to_dict() == {"0.weight": False, "2.weight": True}


def test_a_network_without_the_law_is_seen() -> None:
    """A softplus in place of ReLU is not homogeneous: the first order does not cancel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    data = vectors()
    trainer = Trainer(model, data, data, replace(FULL_BATCH, lr=0.1))
    law = StepLaw(trainer, conserving_units(trainer))
    model[1] = nn.Softplus()

    class Watch:
        def step(self, index: int) -> None:
            law.step()

        def measured(self) -> torch.Tensor:
            squares = {n: p.detach().square() for n, p in model.named_parameters()}
            return ((now := balance(law.groups, squares)) - law.predicted(now)).abs()

    _, numbers = trainer.epoch(0, 0, Watch())
    assert max(numbers) > 1e-4
