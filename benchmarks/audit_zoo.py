"""Audit the networks of three registries: false alarms, refusals, tracebacks.

``uv run --extra zoo --extra transformers python -m benchmarks.audit_zoo OUT.jsonl``

Each network gets random biases and BatchNorm statistics, in float64. Three audits: SynFlow's R in
eval mode, a loss (SNIP) in eval and in train mode. One JSON line a network and audit is appended to
OUT, smallest networks first; what is in it already is not run again. A network runs in a process of
its own, with a limit of seconds. ``--table`` prints the counts of OUT as Markdown.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision import models

from benchmarks.language_models import LANGUAGE_MODELS
from collapse.conservation import audit
from collapse.errors import RequestError

TOLERANCE = 1e-6  # some compute a norm in float32, whatever they are given
AUDITS = (("synflow", "eval"), ("snip", "eval"), ("snip", "train"))

# Two networks of each, those whose names promise the smallest.
FAMILIES = (
    "bat_resnext beit caformer cait coat_ coatnet convformer convit convmixer convnext "
    "convnextv2 crossvit cs3darknet cspresnet darknet davit deit densenet dla dm_nfnet dpn "
    "eca_resnet edgenext efficientformer efficientnet efficientvit ese_vovnet fastvit fbnet "
    "focalnet gcresnet gcvit gernet ghostnet gmlp halonet hardcorenas hgnet hrnet inception "
    "lambda_resnet lcnet levit maxvit mixer mixnet mnasnet mobilenetv2 mobilenetv3 "
    "mobilenetv4 mobileone mobilevit mvitv2 nest nf_regnet nf_resnet nfnet pit_ poolformer "
    "pvt_v2 regnetx regnety regnetz repghostnet repvgg res2net resmlp resnest resnet resnetv2 "
    "resnext rexnet sebotnet sequencer2d skresnet swin_ swinv2 tf_efficientnet tinynet "
    "tiny_vit tnt twins vgg visformer vit_ vitamin volo xception xcit "
)
SMALL = "pico nano atto femto tiny _xxs _xs s0 050 lite _t_ 18 small"

SHAPES: dict[str, tuple[int, ...]] = {
    "inception_v3": (3, 96, 96),
    "maxvit_t": (3, 224, 224),
    **{f"vit_{size}": (3, 224, 224) for size in ("b_16", "b_32", "l_16", "l_32", "h_14")},
    **{f"mvit_{version}": (3, 16, 224, 224) for version in ("v1_b", "v2_s")},
    "s3d": (3, 16, 224, 224),
    **dict.fromkeys(("halonet_h1", "halonet26t", "bat_resnext26ts"), (3, 256, 256)),
}


class Averaged(nn.Module):
    """A segmentation network whose classes are averaged over positions."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)["out"].mean((2, 3))


def names() -> list[str]:
    """Every network, as REGISTRY:NAME; the second ones of timm's families last."""
    found = [
        f"torchvision:{name}"
        for module in (models, models.segmentation, models.video)
        for name in sorted(models.list_models(module=module))
    ]
    found += [f"transformers:{name}" for name in LANGUAGE_MODELS]
    second = []
    for family in FAMILIES.split():
        members = [n for n in timm.list_models(f"{family}*") if not n.endswith(("384", "512"))]
        members.sort(key=lambda n: (not any(part in n for part in SMALL.split()), len(n), n))
        found += [f"timm:{name}" for name in members[:1]]
        second += [f"timm:{name}" for name in members[1:2]]
    return list(dict.fromkeys([*found, *second]))


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A network, and a batch of two that fits it."""
    registry, _, model = name.partition(":")
    if registry == "transformers":
        return LANGUAGE_MODELS[model]()
    if registry == "timm":
        network = timm.create_model(model, pretrained=False)
        size = SHAPES.get(model, network.pretrained_cfg["input_size"])
        if model not in SHAPES and not network.pretrained_cfg.get("fixed_input_size", False):
            size = (3, min(64, size[1]), min(64, size[2]))
        return network, torch.randn(2, *size, dtype=torch.float64)
    options: dict[str, Any] = {"weights": None}
    if model in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}
    if model in models.list_models(module=models.segmentation):
        network = Averaged(models.get_model(model, weights_backbone=None, **options))
    else:
        network = models.get_model(model, **options)
    video = model in models.list_models(module=models.video)
    shape = SHAPES.get(model, (3, 8, 64, 64) if video else (3, 64, 64))
    return network, torch.randn(2, *shape, dtype=torch.float64)


def randomise(model: nn.Module) -> nn.Module:
    """Nothing is zero by initialisation: flow that is zero balances trivially."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or not bool(parameter.any()):
            nn.init.normal_(parameter, 0, 0.1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return model


def audited(name: str, pruner: str, mode: str) -> dict[str, Any]:
    """What one audit says: ok, false alarm, refused or traceback."""
    torch.manual_seed(0)
    try:
        model, x = build(name)
        model = randomise(model).double()
        batch = (x, torch.tensor([0, 1]))
        found = audit(model, batch, pruner=pruner, mode=mode)
    except RequestError as error:
        return {"result": "refused", "said": str(error)[:300]}
    except Exception as error:
        return {"result": "traceback", "said": f"{type(error).__name__}: {error}"[:300]}
    row = found.ledger.loc[found.ledger["residual"].fillna(float("inf")).idxmax()]
    alarm = not row["residual"] <= TOLERANCE
    return {
        "result": "false alarm" if alarm else "ok",
        "worst": float(row["residual"]),
        "said": f"{row['identity']} at {row['place']}" if alarm else "",
        "rows": len(found.ledger),
        "outside": sorted(set(found.outside["operation"])),
        "coverage": str(found.coverage),
    }


def _size(name: str) -> int:
    try:
        with torch.device("meta"):
            model, _ = build(name)
    except Exception:  # some build with numbers: they come last
        return 1 << 40
    return sum(p.numel() for p in model.parameters())


def _child(name: str, out: Path, left: list[tuple[str, str]]) -> None:
    warnings.simplefilter("ignore")
    for pruner, mode in left:
        start = time.perf_counter()
        result = audited(name, pruner, mode)
        line = {"name": name, "pruner": pruner, "mode": mode, **result}
        with out.open("a") as file:
            file.write(json.dumps(line | {"seconds": round(time.perf_counter() - start, 1)}) + "\n")


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def run(out: Path, chosen: Iterable[str], seconds: float, largest: float) -> None:
    done = {(row["name"], row["pruner"], row["mode"]) for row in read(out)}
    torch.set_num_threads(1)
    open_ = {name: [a for a in AUDITS if (name, *a) not in done] for name in chosen}
    sizes = {name: _size(name) for name, left in open_.items() if left}
    for name in sorted(sizes, key=lambda name: sizes[name]):
        left = open_[name]
        if sizes[name] > largest * 1e6:
            continue
        child = multiprocessing.get_context("fork").Process(target=_child, args=(name, out, left))
        child.start()
        child.join(seconds)
        if child.is_alive():
            child.kill()
            child.join()
        if child.exitcode != 0:
            before = {(row["name"], row["pruner"], row["mode"]) for row in read(out)}
            pruner, mode = next(audit for audit in left if (name, *audit) not in before)
            said = f"stopped with code {child.exitcode} (limit {seconds:g} s)"
            line = {"name": name, "pruner": pruner, "mode": mode, "result": "unfinished"}
            with out.open("a") as file:
                file.write(json.dumps({**line, "said": said}) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Counts by registry and audit, then every row that is not ok."""
    results = ("ok", "false alarm", "refused", "traceback", "unfinished")
    lines = ["| registry | audit | " + " | ".join(results) + " | worst residual of ok |"]
    lines.append("|" + "---|" * (len(results) + 3))
    for registry in dict.fromkeys(row["name"].split(":")[0] for row in rows):
        for pruner, mode in AUDITS:
            mine = [
                row for row in rows
                if row["name"].startswith(registry + ":")
                and (row["pruner"], row["mode"]) == (pruner, mode)
            ]  # fmt: skip
            counts = Counter(row["result"] for row in mine)
            worst = max((row["worst"] for row in mine if row["result"] == "ok"), default=0.0)
            cells = " | ".join(str(counts[result]) for result in results)
            lines.append(f"| {registry} | {pruner}, {mode} | {cells} | {worst:.1e} |")
    lines.append("")
    for row in rows:
        if row["result"] != "ok":
            name = f"{row['name']} ({row['pruner']}, {row['mode']})"
            lines.append(f"- {row['result']}: {name}: {row['said']}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="", help="pattern of names")
    parser.add_argument("--seconds", type=float, default=120, help="limit a network")
    parser.add_argument("--largest", type=float, default=100, help="in millions of parameters")
    parser.add_argument("--table", action="store_true", help="print the counts of OUT")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.out)))
        return
    chosen = [name for name in names() if re.search(options.only, name)]
    run(options.out, chosen, options.seconds, options.largest)


if __name__ == "__main__":
    main()
