"""The same numbers on a GPU. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from collapse import masks as masking
from collapse.auditing import audit
from collapse.connectivity import living
from collapse.critical import critical_compression
from collapse.models import build
from collapse.options import Pruning
from collapse.pruning import prune
from collapse.scores import SCORES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def _both(pruner: str):
    """A network in float64 and a batch, on the CPU and on the GPU."""
    for device in ("cpu", "cuda"):
        model = build("vgg11_bn", seed=1).double().to(device)
        x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
        yield model, [(x.to(device), torch.arange(8, device=device))]


@pytest.mark.parametrize("schedule", ["exponential", "certified"])
@pytest.mark.parametrize("pruner", SCORES)
def test_masks_and_critical_compression_are_the_cpus(pruner: str, schedule: str) -> None:
    if schedule == "certified" and pruner != "synflow":
        pytest.skip("only synflow is conserved")
    options = Pruning(pruner=pruner, iterations=3, schedule=schedule, mode="eval")
    once = Pruning(pruner=pruner, iterations=1, schedule=schedule, mode="eval")
    results = []
    for model, batches in _both(pruner):
        masks = prune(model, batches, options, compression=50).masks
        alive = living(model, masks, batches[0][0])
        critical = critical_compression(model, batches, once, effective=False)
        results.append((masks, alive, critical.critical_kept))
    (masks, alive, kept), (gpu_masks, gpu_alive, gpu_kept) = results
    differing = sum(int((masks[n] != gpu_masks[n].cpu()).sum()) for n in masks)
    assert masking.kept(masks) == masking.kept(gpu_masks)
    assert differing <= 1e-4 * masking.total(masks)  # rounding may swap neighbours in rank
    assert masking.kept(alive) == pytest.approx(masking.kept(gpu_alive), rel=1e-2)
    assert gpu_kept == pytest.approx(kept, rel=1e-3)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("pruner", ["synflow", "snip", "grasp"])
def test_conservation_holds_on_the_gpu(pruner: str, mode: str) -> None:
    for model, batches in _both(pruner):
        found = audit(model, batches[0], pruner=pruner, mode=mode)
        assert float(found.ledger["residual"].max()) <= 1e-10
