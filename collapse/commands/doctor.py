"""``collapse doctor``: which layers of a network vanished, why, and what prevents it."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from collapse import cli
from collapse.errors import RequestError
from collapse.options import (
    NETWORKS,
    Device,
    File,
    Quiet,
    check_pruners,
    check_seed,
    shown,
    unknown_model,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from collapse.doctor import Diagnosis


@dataclass(frozen=True)
class Config(Quiet):
    """Which layers of a network vanished, why, and what would have prevented it?

    Any network as it is, pruned by any tool: zeros in its weights are masks. No data is needed.
    Exit code 0 if it is healthy, 1 if it collapsed.

    Attributes:
        model: vgg16_bn, resnet18, …, torchvision:NAME, timm:NAME or package.module:factory (called
            with classes= and input_shape= if it takes them).
        weights: pretrained, or a .safetensors file of exactly this network.
        checkpoint: anybody's checkpoint, with zeros or masks in it (.safetensors, .pt, .pth, .bin,
            .ckpt); nothing in it is run.
        masks: masks beside the zeros (.safetensors).
        baseline: an earlier state to compare with: masks or a checkpoint.
        target: the compression that was asked for, total / kept; the counts are checked against it.
        pruner: whose distance to critical is looked for: magnitude, synflow, random, or
            package.module:function that needs no data.
        fail_on: what makes the exit code 1: a layer without a living weight (layer), only a network
            without an input→output path (cut), or any warning as well (warning).
        input_shape: of one input, C H W.
        tokens: the inputs are so many token ids instead.
        classes: outputs of the network.
        init: kaiming, kaiming_fan_out, kaiming_uniform, xavier, xavier_uniform or orthogonal.
        output: which part of the output is meant when the forward returns several: a name or an
            index.
        seed: of the initialisation.
        device: where to compute; auto takes a GPU if there is one.
        out: write the per-layer table (.parquet, .csv, .json).
        json: print everything as JSON instead of text.
    """

    model: str
    weights: Annotated[str | None, shown("pretrained|FILE", "none, as initialised")] = None
    checkpoint: File = None
    masks: File = None
    baseline: File = None
    target: Annotated[float | None, shown("X", "none", also="--compression")] = None
    pruner: str = "synflow"
    fail_on: Literal["layer", "cut", "warning"] = "layer"
    input_shape: Annotated[tuple[int, ...], shown("C H W")] = (3, 32, 32)
    tokens: Annotated[int | None, shown("N", "images")] = None
    classes: int = 10
    init: Annotated[str | None, shown("NAME", "the network's own")] = None
    output: Annotated[str | None, shown("NAME", "the only one")] = None
    seed: int = 0
    device: Device = "auto"
    out: File = None
    json: bool = False


def main(config: Config) -> int:
    """Run the request; the exit code is 1 where the network is not healthy."""
    _check(config)
    outputs = cli.Outputs(doctor=config.out)

    from collapse.doctor import doctor
    from collapse.masks import load_masks, read_masks
    from collapse.scores import load_pruner

    load_pruner(config.pruner)
    model, example = _network(config)
    with cli.progress(1, config.quiet) as update:
        update("examining", 0)
        found = doctor(
            model,
            example,
            masks=None if config.masks is None else load_masks(config.masks, model, ()),
            output=config.output,
            pruner=config.pruner,
            target=config.target,
            baseline=None if config.baseline is None else read_masks(config.baseline, model),
            network=_words(config),
        )
    if config.out is not None:
        outputs.write("doctor", found.frame(config.model), example.device)
    if config.json:
        print(json.dumps({"model": config.model, **found.as_dict()}))
    else:
        _print(config, found)
    return int(found.fails(config.fail_on))


def _check(config: Config) -> None:
    if ":" not in config.model and config.model not in NETWORKS:
        raise unknown_model(config.model)
    if config.weights is not None and config.checkpoint is not None:
        raise RequestError("expected --weights or --checkpoint, got both")
    for option, value in (("--tokens", config.tokens), ("--classes", config.classes)):
        if value is not None and value < 1:
            raise RequestError(f"{option}: expected at least 1, got {value}")
    if not config.input_shape or min(config.input_shape) < 1:
        raise RequestError(f"--input-shape: expected sizes of at least 1, got {config.input_shape}")
    check_pruners(config.pruner, option="--pruner")
    check_seed(config.seed)


def _network(config: Config) -> tuple[nn.Module, Tensor]:
    """The network with its weights, and an input for it."""
    import torch

    from collapse import models
    from collapse.masks import load_checkpoint
    from collapse.problem import choose_device

    device = choose_device(config.device)
    model = models.build(
        config.model,
        input_shape=config.input_shape,
        classes=config.classes,
        init=config.init,
        weights=config.weights,
        seed=config.seed,
    )
    model = models.plain(model)
    models.prunable(model)  # says so now if there is nothing to examine
    if config.checkpoint is not None:
        load_checkpoint(model, config.checkpoint)
    if config.tokens is None:
        example = torch.zeros(1, *config.input_shape)
    else:
        example = torch.ones(1, config.tokens, dtype=torch.long)
    return model.to(device), example.to(device)


def _words(config: Config) -> str:
    """How the same network is called by the other commands."""
    shape = " ".join(map(str, config.input_shape))
    words = (
        f"--model {shlex.quote(config.model)} --dataset gaussian --input-shape {shape} "
        f"--classes {config.classes}"
    )
    given = {"init": config.init, "output": config.output, "weights": config.weights}
    return words + "".join(
        f" --{option} {shlex.quote(value)}" for option, value in given.items() if value is not None
    )


def _print(config: Config, found: Diagnosis) -> None:
    rows = [
        {**row, "place": layer.place.removesuffix(" layer"),
         "in": _units(layer.unreached_in, layer.units_in),
         "out": _units(layer.unreached_out, layer.units_out),
         "nowhere": _units(layer.leading_nowhere, layer.units_out)}
        for row, layer in zip(found.rows(), found.layers, strict=True)
    ]  # fmt: skip
    scored = any(row["score_sum"] is not None for row in rows)
    padded = any(row["padding_only"] for row in rows)
    cli.print_table(
        f"{config.model}: {found.parameters:,} parameters in {len(found.reached)} layers, "
        f"{found.kept:,} kept: compression {cli.number(found.compression)}, effective "
        f"{cli.number(found.effective_compression)}, maximal "
        f"{cli.number(found.maximal_compression)}",
        rows,
        {
            "layer": "{layer}",
            "shape": "{shape}",
            "kept": "{kept:,}",
            "density": "{density:n}",
            "living": "{living:,}",
            **({"padding only": "{padding_only:,}"} if padded else {}),
            "not reached in": "{in}",
            "out": "{out}",
            "leading nowhere": "{nowhere}",
            **({"SynFlow's mass": "{score_sum:n}"} if scored else {}),
            "place": "{place}",
            "verdict": "{verdict}",
        },
        spare=("living", "shape", "not reached in", "leading nowhere", "out", "SynFlow's mass"),
    )
    for finding in found.findings:
        print(f"{finding.severity}: {finding.text}")
    if found.unscored:
        print(f"no SynFlow score: {found.unscored}")
    print("", *found.advice, sep="\n")
    print("NOT healthy" if found.fails(config.fail_on) else "healthy")


def _units(missing: int | None, units: int | None) -> str | None:
    return None if missing is None else f"{missing:,}/{units:,}"


run = partial(cli.run, Config, main, prog="python -m collapse.doctor")
