"""Figure 5b's effect on real images, at a laptop's scale. Minutes long: `-m slow`."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.experiments import dynamics
from analysis.resumable import Resources
from collapse.options import Execution, Setup, Training

pytestmark = pytest.mark.slow


def test_training_on_cifar10_lines_layer_means_up_with_inverse_size(
    shared_data: Path, tmp_path: Path
) -> None:
    config = dynamics.Config(
        Setup("vgg11", dataset="cifar10", data_root=shared_data, init="xavier"),
        Training(
            epochs=10,
            lr=0.01,
            lr_drops=(),
            train_batch_size=32,
            train_samples=2000,
            test_samples=1000,
        ),
        seeds=(0, 1),
    )
    resources = Resources(Execution(runs=tmp_path, quiet=True))
    table = dynamics.run(config, resources)
    for seed, rows in table.groupby("seed"):
        by_epoch = rows.groupby("epoch")["r"].first()
        print(f"seed {seed}: r {by_epoch.iloc[0]:.4f} -> {by_epoch.iloc[-1]:.4f}")
        # 1 − r falls to a half or less: 0.988 and 0.990 to 0.998, measured in 10 epochs.
        assert 1 - by_epoch.iloc[-1] < (1 - by_epoch.iloc[0]) / 2
