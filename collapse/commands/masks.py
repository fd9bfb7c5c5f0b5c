"""``collapse masks``: masks as files: counted, compared, combined, converted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from collapse import cli
from collapse.errors import RequestError
from collapse.files import check_distinct, check_writable
from collapse.options import NETWORKS, File, check_seed, shown, unknown_model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from collapse.models import Masks


@dataclass(frozen=True)
class Config:
    """Count, compare, combine and convert masks, whatever tool they are from.

    One file: what it keeps, layer by layer. Two: their overlap, against what chance would give.
    A file is masks (.safetensors of booleans) or anybody's checkpoint, in which zeros are masks, or
    the buffers of torch.nn.utils.prune, torchao or NNCF.

    Attributes:
        files: masks or checkpoints (.safetensors, .pt, .pth, .bin, .ckpt).
        combine: what to write of several: what any keeps (union), what all keep (intersection), or
            what the first keeps and the second does not (difference).
        model: the network that they have to fit: vgg16_bn, torchvision:NAME, timm:NAME,
            package.module:factory. Needed for its weights (--zeros, --torch-prune).
        weights: of the model: a .safetensors file of exactly this network.
        checkpoint: of the model: anybody's.
        input_shape: C H W of the model's input.
        classes: outputs of the model.
        seed: of the model's initialisation.
        out: write the masks (.safetensors).
        zeros: write the model's weights with zeros for what is pruned (.safetensors).
        torch_prune: write the model's state dict with torch.nn.utils.prune's buffers
            (.safetensors).
        table: write the per-layer table (.parquet, .csv, .json).
    """

    files: tyro.conf.Positional[tuple[Path, ...]]
    combine: Annotated[
        Literal["union", "intersection", "difference"] | None,
        shown("union|intersection|difference", "none"),
    ] = None
    model: Annotated[str | None, shown("NAME", "none")] = None
    weights: Annotated[str | None, shown("FILE", "as initialised")] = None
    checkpoint: File = None
    input_shape: Annotated[tuple[int, ...], shown("C H W")] = (3, 32, 32)
    classes: int = 10
    seed: int = 0
    out: File = None
    zeros: File = None
    torch_prune: File = None
    table: Annotated[Path | None, shown("FILE", "none", also="--layers")] = None


def main(config: Config) -> int:
    """Run the request."""
    _check(config)

    from collapse import masks as masking

    model = None if config.model is None else _network(config)
    read = [masking.read_masks(path, model) for path in config.files]
    for path, other in zip(config.files[1:], read[1:], strict=True):
        masking.check_same(read[0], other, f"'{config.files[0]}' and '{path}'")
    combine = {
        None: lambda first, *_: first,
        "union": masking.union,
        "intersection": masking.intersection,
        "difference": masking.difference,
    }[config.combine]
    masks: Masks = combine(*read)
    _print(config, read, masks, _identity(config, model))
    if config.out is not None:
        about = {"from": " ".join(path.name for path in config.files)}
        masking.save_masks(masks, config.out, **about, **_initial(config))
    if model is not None:
        _convert(config, model, masks)
    return 0


def _check(config: Config) -> None:
    if not config.files:
        raise RequestError("expected at least one file of masks or a checkpoint, got none")
    if config.combine is not None and len(config.files) < 2:
        raise RequestError(f"--combine {config.combine}: expected two files or more, got one")
    if config.combine == "difference" and len(config.files) != 2:
        raise RequestError(f"--combine difference: expected two files, got {len(config.files)}")
    if config.combine is None and len(config.files) > 2:
        raise RequestError(f"expected one file, two, or --combine; got {len(config.files)} files")
    if config.combine is None and len(config.files) == 2 and _written(config):
        raise RequestError("expected --combine to say what of two files is to be written")
    if config.model is None and (config.zeros or config.torch_prune):
        raise RequestError("--zeros and --torch-prune need the network: expected --model")
    if config.model is not None and ":" not in config.model and config.model not in NETWORKS:
        raise unknown_model(config.model)
    if config.weights is not None and config.checkpoint is not None:
        raise RequestError("expected --weights or --checkpoint, got both")
    check_seed(config.seed)
    check_distinct(*_written(config), config.table)
    for path in _written(config):
        check_writable(path, (".safetensors",))
    cli.Outputs(mask_overlap=config.table)


def _written(config: Config) -> list[Path]:
    return [p for p in (config.out, config.zeros, config.torch_prune) if p is not None]


def _network(config: Config) -> nn.Module:
    from collapse import masks, models

    assert config.model is not None
    model = models.build(
        config.model,
        input_shape=config.input_shape,
        classes=config.classes,
        weights=config.weights,
        seed=config.seed,
    )
    model = models.plain(model)
    if config.checkpoint is not None:
        masks.load_checkpoint(model, config.checkpoint)
    return model


def _initial(config: Config) -> dict[str, str]:
    """The initial weights that the masks are of, where that is known of all of them alike."""
    known = {_known(path) for path in config.files}
    (one,) = known if len(known) == 1 else {""}
    return {"initial_weights": one} if one else {}


def _known(path: Path) -> str:
    from collapse.masks import about_masks, holds_masks

    return str(about_masks(path).get("initial_weights", "")) if holds_masks(path) else ""


def _identity(config: Config, model: nn.Module | None) -> list[str]:
    """What is known of the initial weights that the masks were made for."""
    from collapse.masks import weights_identity

    known = {path: _known(path) for path in config.files}
    notes = []
    if len(set(filter(None, known.values()))) > 1:
        notes.append("the masks were made for different initial weights of this network")
    if model is not None and config.weights is None and config.checkpoint is None:
        own = weights_identity(model)
        for path, identity in known.items():
            if identity:
                same = "made for" if identity == own else "NOT made for"
                notes.append(f"'{path.name}' was {same} these initial weights (seed {config.seed})")
    return notes


def _convert(config: Config, model: nn.Module, masks: Masks) -> None:
    from safetensors.torch import save

    from collapse.files import atomic
    from collapse.files.checksums import plain
    from collapse.masks import as_torch_prune, with_zeros

    def write(path: Path, state: Mapping[str, Tensor]) -> None:
        own = {name: tensor.clone() for name, tensor in plain(state).items()}  # none is shared
        with atomic(path) as temporary:
            temporary.write_bytes(save(own))

    if config.zeros is not None:
        write(config.zeros, with_zeros(model, masks))
    if config.torch_prune is not None:
        write(config.torch_prune, as_torch_prune(model.state_dict(), masks))


def _print(config: Config, read: list[Masks], masks: Masks, notes: list[str]) -> None:
    from collapse import masks as masking
    from collapse import tables

    if len(read) == 2:
        frame, name = masking.overlap(*read), "mask_overlap"
        both, expected = int(frame["both"].sum()), float(frame["expected_both"].sum())
        title = "overlap"
        notes = [
            f"{both:,} weights are kept by both; chance would share {cli.number(expected)}",
            *notes,
        ]
        columns = {
            "layer": "{layer}",
            "parameters": "{parameters:,}",
            "kept first": "{kept_first:,}",
            "second": "{kept_second:,}",
            "both": "{both:,}",
            "by chance": "{expected_both:n}",
            "deviations": "{deviations:+.1f}",
            "Jaccard": "{jaccard:.3f}",
        }
    else:
        name, total = "masks", masking.total(masks)
        frame, kept = masking.count_table(masks), masking.kept(masks)
        compression = total / kept if kept else float("inf")
        title = "masks"
        notes = [
            f"{total:,} parameters, {kept:,} kept: compression {cli.number(compression)}",
            *notes,
        ]
        columns = {
            "layer": "{layer}",
            "parameters": "{parameters:,}",
            "kept": "{kept:,}",
            "density": "{density:n}",
        }
    if config.combine is not None and len(read) == 2:
        notes = [*notes, f"{config.combine}: {masking.kept(masks):,} kept"]
    for path, each in zip(config.files, read, strict=True):
        empty = masking.collapsed(each)
        notes += [f"empty in {path.name}: {', '.join(empty)}"] if empty else []
    cli.print_table(title, cli.rows_of(frame), columns, notes)
    if config.table is not None:
        tables.write(frame, config.table, name)


run = partial(cli.run, Config, main, prog="python -m collapse.masks")
