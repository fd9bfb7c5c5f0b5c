"""Advice that holds, checks that were asked for, the callback, and requests that are wrong."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import collapse
from collapse import masks as masking
from collapse.doctor import Watch
from collapse.doctor.advice import _down, safe_within_layers
from collapse.errors import RequestError
from collapse.models import build
from tests.doctor import broken_otherwise  # noqa: F401  # adds to them
from tests.doctor.broken import BROKEN
from tests.snapshot import assert_same, decorate, snapshot

SHAPE = (3, 8, 8)
SMALL = {"input_shape": SHAPE, "classes": 4}


def _pruned(pruner: str, compression: float, **options) -> tuple[nn.Module, dict[str, Tensor]]:
    model = build("fc", **SMALL)
    batches = [(torch.zeros(1, *SHAPE), torch.zeros(1, dtype=torch.long))]
    asked = collapse.Pruning(pruner=pruner, **options)
    return model, collapse.prune(model, batches, asked, compression=compression).masks


def test_the_advised_prunings_leave_no_layer_empty() -> None:
    model, masks = _pruned("magnitude", 5000)
    found = collapse.doctor(model, SHAPE, masks=masks)
    assert not found.healthy
    advice = "\n".join(found.advice)
    commands = re.findall(r"--compression (\S+) --(scope|schedule) (\w+)", advice)
    assert [(option, value) for _, option, value in commands] == [
        ("scope", "layer"),
        ("schedule", "certified"),
    ]
    for compression, option, value in commands:
        model, masks = _pruned("synflow", float(compression), **{option: value})
        assert not masking.collapsed(masks)
    assert collapse.doctor(model, SHAPE, masks=masks).healthy  # the certified one is living as well


@pytest.mark.parametrize("sizes", [[10], [3, 100], [432, 2304, 640, 36864], [7, 7, 7], [1, 1000]])
def test_safe_within_layers_is_the_last_that_is(sizes: list[int]) -> None:
    fewest = round(sum(sizes) / safe_within_layers(sizes))
    assert min(masking.apportion(sizes, fewest)) > 0
    assert fewest == len(sizes) or min(masking.apportion(sizes, fewest - 1)) == 0


@given(st.floats(1, 1e12))
def test_a_compression_is_rounded_down(compression: float) -> None:
    printed = float(_down(compression))
    assert compression * 0.999 <= printed <= compression * (1 + 1e-11)
    assert _down(100.0) == "100"


def test_beyond_the_maximum_nobody_can_keep_every_layer() -> None:
    model = build("fc", **SMALL)
    masking.apply(model, {n: torch.zeros_like(m) for n, m in masking.dense(model).items()})
    with torch.no_grad():
        model[1].weight[0, 0] = 1
    text = str(collapse.doctor(model, SHAPE))
    assert (
        "at compression 59,600 no pruner can keep a weight in every layer: the maximum is" in text
    )


def test_the_layer_that_goes_next_goes_next() -> None:
    model, masks = _pruned("synflow", 10, iterations=3)
    for pruner in ("synflow", "magnitude"):
        distance = collapse.doctor(model, SHAPE, masks=masks, pruner=pruner).distance
        assert distance is not None
        batches = [(torch.zeros(1, *SHAPE), torch.zeros(1, dtype=torch.long))]
        options = collapse.Pruning(pruner=pruner, iterations=1)
        for keep, empty in ((distance.keep, []), (distance.keep - 1, [distance.layer])):
            after = collapse.prune(model, batches, options, keep=keep, masks=masks).masks
            assert masking.collapsed(after) == empty


def test_counts_against_what_was_asked_for() -> None:
    model, masks = _pruned("synflow", 10, iterations=3)
    assert "as asked: compression 10 keeps 5,960 of 59,600, and 5,960 are, exactly" in str(
        collapse.doctor(model, SHAPE, masks=masks, target=10)
    )
    found = collapse.doctor(model, SHAPE, masks=masks, target=20)
    assert not found.healthy
    assert found.fails("cut")  # it was asked for
    assert "not as asked: compression 20 keeps 2,980 of 59,600, but 5,960 are, 2,980 more" in str(
        found
    )
    masks["1.weight"].view(-1)[masks["1.weight"].flatten().nonzero()[:3]] = False
    assert "within rounding a layer (-3)" in str(
        collapse.doctor(model, SHAPE, masks=masks, target=10)
    )


def test_a_baseline_says_what_came_back_and_what_went() -> None:
    model, masks = _pruned("synflow", 10, iterations=3)
    masking.apply(model, masks)
    with torch.no_grad():
        before = model[3].weight != 0
        model[3].weight[~before] = 0.1  # a step of an optimiser
        model[5].weight.zero_()
    found = collapse.doctor(model, SHAPE, baseline=masks)
    back = int((~before).sum())
    assert f"{back:,} pruned weights of the baseline came back, in 3" in str(found)
    assert "not empty in the baseline, and empty now: 5" in str(found)
    assert "collapse.keep_pruned" in str(found)
    assert {layer.layer: layer.returned for layer in found.layers}["3.weight"] == back
    assert found.baseline == masking.kept_by_layer(masks)


def test_what_fails_is_chosen() -> None:
    branch = BROKEN["empty_projection"]()
    found = collapse.doctor(branch.model, branch.example)
    assert [found.fails(on) for on in ("cut", "layer", "warning")] == [False, True, True]
    assert not found.healthy
    whole = collapse.doctor(build("fc", **SMALL), SHAPE)
    assert [whole.fails(on) for on in ("cut", "layer", "warning")] == [False] * 3


def test_frame_and_dictionary_hold_the_same() -> None:
    case = BROKEN["dead_branch_of_two_half_dead_layers"]()
    found = collapse.doctor(case.model, case.example)
    frame, as_dict = found.frame("block"), found.as_dict()
    assert frame["layer"].tolist() == [row["layer"] for row in as_dict["layers"]]
    assert frame["living"].sum() == as_dict["living"] == found.living
    assert set(frame["model"]) == {"block"}
    assert set(frame["input_shape"]) == {"2x8x8"}
    assert as_dict["healthy"] is False
    assert as_dict["effective_compression"] == found.parameters / found.living


def test_scores_have_the_mass_of_the_cut() -> None:
    model, masks = _pruned("synflow", 50)
    found = collapse.doctor(model, SHAPE, masks=masks)
    sums = [layer.score_sum for layer in found.layers]
    assert sums == pytest.approx([sums[0]] * len(sums), rel=1e-4)  # a chain: each carries R


def test_the_model_and_the_random_stream_stay_as_they_were() -> None:
    for name in ("dead_channels_fed_by_a_norm", "branch_behind_a_norm_of_zeros", "ties"):
        case = BROKEN[name]()
        decorate(case.model)
        before = snapshot(case.model)
        collapse.doctor(case.model, case.example)
        assert_same(before, snapshot(case.model))


def test_wrong_requests() -> None:
    model = build("fc", **SMALL)
    with pytest.raises(RequestError, match="pruner 'snip' needs data and the doctor has none"):
        collapse.doctor(model, SHAPE, pruner="snip")
    with pytest.raises(RequestError, match="forward failed on an input of shape"):
        collapse.doctor(model, (3, 9, 8))
    with pytest.raises(RequestError, match="no prunable layer"):
        collapse.doctor(nn.ReLU(), (3,))
    with pytest.raises(RequestError, match="expected a finite number from 1 up, got 0.5"):
        collapse.doctor(model, SHAPE, target=0.5)
    other = masking.dense(build("conv", **SMALL))
    with pytest.raises(RequestError, match="masks are of another network"):
        collapse.doctor(model, SHAPE, masks=other)
    with pytest.raises(RequestError, match="baseline's masks are of another network"):
        collapse.doctor(model, SHAPE, baseline=other)


# --- The callback -----------------------------------------------------------------------------


def test_a_callback_sees_a_layer_vanish_and_weights_come_back() -> None:
    model, masks = _pruned("synflow", 10, iterations=3)
    masking.to_torch_prune(model, masks)
    watch = Watch(model, SHAPE)
    before = snapshot(model)
    first = watch(0)
    assert_same(before, snapshot(model))
    assert first.healthy
    assert (first.kept, first.parameters) == (5960, 59600)
    with torch.no_grad():
        model[3].weight_mask.zero_()
        model[5].weight_mask.fill_(1)
    second = watch(1)
    assert not second.connected
    assert second.empty == ("3.weight",)
    assert second.returned == int((~masks["5.weight"]).sum())
    assert "the network is cut" in str(second)
    assert "empty: 3.weight" in str(second)
    with torch.no_grad():
        model[1].weight_orig[0, 0] = float("nan")
    assert "weights that are not finite" in str(watch(2))
    assert watch.frame()["epoch"].tolist() == [0, 1, 2]
    assert watch.frame()["connected"].tolist() == [True, False, False]


def test_a_callback_sees_a_layer_die_with_its_weights() -> None:
    case = BROKEN["dead_branch_of_two_half_dead_layers"]()
    whole = copy.deepcopy(case.model)
    for p in whole.parameters():
        nn.init.ones_(p)
    watch = Watch(whole, case.example)
    watch(0)
    whole.load_state_dict(case.model.state_dict())
    assert watch(1).dead == ("one.weight", "two.weight")


class _Stopped(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return self[1](self[0](x).detach())


class _Without(nn.Sequential):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@pytest.mark.parametrize("kind", [_Stopped, _Without])
def test_a_forward_that_stops_the_gradient_has_no_path(kind: type[nn.Sequential]) -> None:
    found = collapse.doctor(kind(nn.Linear(4, 3), nn.Linear(3, 2)), (4,))
    layers = "0" if kind is _Stopped else "0, 1"
    assert found.findings[0].text == (
        "no path leads from the input to the output even when every weight is kept: the forward "
        f"takes what {layers} gives without a gradient (.detach() or no_grad)"
    )
    assert found.distance is None


class _Beside(nn.Sequential):
    """The second is used without its gradient, the third not at all."""

    def forward(self, x: Tensor) -> Tensor:
        return self[0](x) + self[1](x).detach()


def test_what_is_not_reached_is_not_counted_and_has_its_true_cause() -> None:
    network = _Beside(nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(7, 7))
    found = collapse.doctor(network, (4,))
    assert found.healthy
    assert (found.parameters, found.kept, found.living) == (12, 12, 12)
    assert [finding.text for finding in found.findings] == [
        "not looked at, so not called collapsed: the forward takes what 1 gives without a "
        "gradient (.detach() or no_grad)",
        "never reached by the input in eval mode, so not called collapsed: 2",
    ]


@pytest.mark.parametrize(
    ("example", "options", "words"),
    [
        (None, {}, "example: expected a batch of inputs .* got None"),
        (4, {}, "or the shape of one input in whole numbers"),
        ((4.0,), {}, "or the shape of one input in whole numbers"),
        ((4,), {"masks": [1]}, "masks: expected a dict of boolean tensors .* got list"),
        ((4,), {"baseline": "file.pt"}, "baseline's masks: expected a dict .* got str"),
        ((4,), {"baseline": {}}, "baseline's masks are empty"),
    ],
)
def test_what_is_no_example_and_no_masks(example: object, options: dict, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        collapse.doctor(nn.Linear(4, 3), example, **options)


def test_living_weights_of_masks_of_another_shape_are_refused() -> None:
    with pytest.raises(RequestError, match=r"'weight' expected shape \(3, 4\), got \(2,\)"):
        collapse.living(nn.Linear(4, 3), {"weight": torch.ones(2).bool()}, torch.zeros(1, 4))


def test_a_network_that_is_zero_on_ones_has_no_score_and_is_healthy() -> None:
    class Standardised(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward((x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1))

    network = Standardised(nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    found = collapse.doctor(network, (6,))
    assert (found.healthy, found.distance) == (True, None)
    assert found.unscored == "the output is zero for an input of ones, so every score is"
    example = [(torch.randn(4, 6), torch.arange(4) % 2)]
    with pytest.raises(RequestError, match="every synflow score is zero, .* or zero on ones"):
        collapse.prune(network, example, collapse.Pruning("synflow"), compression=2)
