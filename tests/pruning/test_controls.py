"""Controls of pruning at initialisation: each against what it must and must not change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from collapse import imp
from collapse import masks as masking
from collapse.commands.train import Config, main
from collapse.data import load
from collapse.errors import RequestError
from collapse.masks import load_masks
from collapse.models import build
from collapse.options import PAPER_PRUNERS, Execution, Pruning, Rewinding, Setup, Training
from collapse.pruning import controls, prune
from collapse.runs import Experiment, perform
from collapse.scores import SCORES, ScoreInputs, score

TRAINING = Training(epochs=1, lr=0.01, train_samples=20, test_samples=10)
ONCE = Rewinding(levels=0)


def _experiment(pruner: str = "magnitude", **changes: object) -> Experiment:
    pruning = Pruning(pruner=pruner, iterations=3 if pruner == "synflow" else None)
    base = Experiment(Setup("fc"), pruning, TRAINING, ONCE, compression=10.0)
    return replace(base, **changes)  # type: ignore[arg-type]  # the fields are named


def _done(experiment: Experiment, tmp_path: Path) -> Path:
    return perform(experiment, Execution(tmp_path, quiet=True)).folder


@pytest.mark.parametrize("pruner", PAPER_PRUNERS)
def test_shuffled_keeps_the_number_in_each_layer_and_nothing_else(pruner: str) -> None:
    model = build("conv", seed=0)
    train = load("digits")
    batches = train.score_batches(1)
    options = Pruning(pruner=pruner, iterations=2)
    plain = prune(model, batches, options, compression=20.0).masks
    found = controls.masks_of(model, batches, options, 20.0, "shuffled")
    assert masking.kept_by_layer(found) == masking.kept_by_layer(plain)
    again = controls.masks_of(model, batches, options, 20.0, "shuffled")
    other = controls.shuffled(plain, seed=1)
    for name, mask in found.items():
        assert mask.equal(again[name])
        # The overlap is a chance one: hypergeometric, within five standard deviations of it.
        n, k = mask.numel(), int(mask.sum())
        share = k / n
        expected = k * share
        deviation = (k * share * (1 - share) ** 2 * n / max(1, n - 1)) ** 0.5
        assert abs(int((mask & plain[name]).sum()) - expected) <= 5 * deviation + 1e-9
        assert abs(int((mask & other[name]).sum()) - expected) <= 5 * deviation + 1e-9


@pytest.mark.parametrize("pruner", ["magnitude", "snip", "grasp"])
def test_inverted_keeps_the_lowest_scores(pruner: str) -> None:
    model, batches = build("fc", seed=0), load("digits").score_batches(1)
    registered = dict(SCORES)
    found = controls.masks_of(model, batches, Pruning(pruner=pruner), 4.0, "inverted")
    assert registered == SCORES  # nothing is left behind
    dense = masking.dense(model)
    scores = score(model, pruner, dense, ScoreInputs(batches, "train"))
    values = torch.cat([s.flatten() for s in scores.values()])
    chosen = torch.cat([m.flatten() for m in found.values()])
    assert values[chosen].max() <= values[~chosen].min()
    assert int(chosen.sum()) == masking.keep_count(len(values), 4.0)


def test_inverted_iterates_as_often_as_its_pruner() -> None:
    """SynFlow inverted anew in each iteration; its own default number of them."""
    model, batches = build("fc", seed=0), load("digits").score_batches(1)
    masks = masking.dense(model)
    for keep in (110_110, 34_820):  # 348,200 · 0.1^(1/2), and the target
        scores = score(model, "synflow", masks, ScoreInputs(batches[:1]))
        masks = masking.select({n: -s for n, s in scores.items()}, keep, masks=masks)
    options = Pruning(iterations=2)
    found = controls.masks_of(model, batches, options, 10.0, "inverted")
    assert all(mask.equal(masks[name]) for name, mask in found.items())


def test_a_reinitialised_run_has_the_mask_and_other_weights(tmp_path: Path) -> None:
    """With no epoch trained, the weights of a run are those that it starts from."""
    untrained = replace(TRAINING, epochs=0)
    for pruner in ("magnitude", "synflow"):
        plain = _done(_experiment(pruner, training=untrained), tmp_path)
        other = _done(_experiment(pruner, training=untrained, control="reinitialised"), tmp_path)
        masks, found = (load_masks(at / "masks.safetensors") for at in (plain, other))
        assert all(mask.equal(found[name]) for name, mask in masks.items())
        before, after = (load_file(at / "weights.safetensors") for at in (plain, other))
        for name, mask in masks.items():
            kept = before[name][mask], after[name][mask]
            assert not after[name][~mask].any()
            assert (kept[0] != kept[1]).all()
            assert kept[1].std() / build("fc").state_dict()[name].std() == pytest.approx(1, abs=0.1)


def test_each_control_is_a_run_of_its_own_and_is_resumed(tmp_path: Path) -> None:
    experiments = [_experiment(control=c) for c in (None, *controls.CONTROLS)]
    assert len({e.run(tmp_path).name for e in experiments}) == 4
    experiment = _experiment(control="shuffled", training=replace(TRAINING, epochs=2))
    whole = _done(experiment, tmp_path / "whole")

    class _StopError(Exception):
        pass

    def stop(state: imp.State) -> None:
        raise _StopError

    execution = Execution(tmp_path / "cut", quiet=True, exact=True)
    with pytest.raises(_StopError):
        perform(experiment, execution, on_boundary=stop)
    resumed = perform(experiment, execution).folder
    for name in ("masks.safetensors", "weights.safetensors"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()


def test_masks_to_start_from_are_trained_as_they_are() -> None:
    train, test = load("digits"), load("digits", "test")
    model = build("fc", seed=0)
    masks = controls.shuffled(prune(model, options=Pruning("random"), compression=9.0).masks, 3)
    tickets = imp.imp(model, train, test, 9.0, masks=masks, training=TRAINING, rewinding=ONCE)
    assert all(mask.equal(masks[name]) for name, mask in tickets.masks.items())
    levels = tickets.tables["levels"].iloc[0]
    assert levels["kept"] == masking.kept(masks)
    other = masking.dense(build("conv"))
    with pytest.raises(RequestError, match=r"masks are of another network: the model has no '0\."):
        imp.imp(model, train, test, 9.0, masks=other, training=TRAINING, rewinding=ONCE)


def test_the_commands_mistakes(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="unknown control 'shufled'; nearest: shuffled"):
        _experiment(control="shufled").config()
    with pytest.raises(RequestError, match="expected pruning at initialisation .* got 2"):
        _experiment(control="shuffled", rewinding=Rewinding(levels=2)).config()
    weights = replace(Setup("fc"), weights="pretrained")
    with pytest.raises(RequestError, match="expected no --weights, got 'pretrained'"):
        _experiment(control="reinitialised", setup=weights).config()
    config = Config(
        Setup("fc"),
        TRAINING,
        Execution(tmp_path / "runs", quiet=True),
        Pruning(pruner="magnitude"),
        compression=10.0,
        control="shuffled",
    )
    assert main(config) == 0
    assert _experiment(control="shuffled").run(tmp_path / "runs").done()
