"""`transformers:CONFIG`: by class or by config, with settings, never downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from collapse.errors import RequestError
from collapse.models import build

transformers = pytest.importorskip("transformers")
TINY = "n_layer=1&n_embd=8&n_head=2&vocab_size=20&n_positions=12"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object, **__: object) -> None:
        pytest.fail("asked for the network")

    monkeypatch.setattr("socket.socket.connect", asked)


def test_a_class_with_settings() -> None:
    name = f"transformers:GPT2LMHeadModel?{TINY}"
    model = build(name, seed=1)
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert model.transformer.wte.weight.shape == (20, 8)
    again = build(name, seed=1).state_dict()
    assert all(torch.equal(x, again[key]) for key, x in model.state_dict().items())
    other = build(name, seed=2).state_dict()
    assert not torch.equal(other["transformer.wte.weight"], again["transformer.wte.weight"])


BERT = (
    "transformers:BertForSequenceClassification?hidden_size=8&num_hidden_layers=1"
    "&num_attention_heads=2&intermediate_size=8&vocab_size=20"
)


def test_labels_are_the_classes_and_images_have_the_input_s_size() -> None:
    assert build(BERT, classes=7).classifier.out_features == 7
    assert build(f"{BERT}&num_labels=3", classes=7).classifier.out_features == 3
    vit = build(
        "transformers:ViTForImageClassification?hidden_size=8&num_hidden_layers=1"
        "&num_attention_heads=2&intermediate_size=8&patch_size=4",
        input_shape=(1, 8, 8),
        classes=5,
    )
    assert vit(torch.zeros(2, 1, 8, 8)).logits.shape == (2, 5)


def test_a_file_or_its_folder(tmp_path: Path) -> None:
    model = build(f"transformers:GPT2LMHeadModel?{TINY}")
    model.config.architectures = ["GPT2LMHeadModel"]
    model.config.save_pretrained(tmp_path)
    sizes = [p.shape for p in model.parameters()]
    for path in (tmp_path, tmp_path / "config.json"):
        found = build(f"transformers:{path}")
        assert (type(found), [p.shape for p in found.parameters()]) == (type(model), sizes)
    smaller = build(f"transformers:{tmp_path}?n_embd=4")
    assert smaller.transformer.wte.weight.shape == (20, 4)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert type(build(f"transformers:{tmp_path}")).__name__ == "GPT2Model"


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    for name, message in {
        "GPT2LMHeadModle": "nearest: GPT2LMHeadModel.*nothing is downloaded",
        "gpt2": "nearest: GPT2.*nothing is downloaded",
        "bert-base-uncased": "unknown transformers class 'bert-base-uncased'",
        "PreTrainedModel": "unknown transformers class",
        "GPT2Config": "unknown transformers class",
        "GPT2LMHeadModel?n_layers=2": "unknown setting of GPT2Config 'n_layers'; nearest: n_layer",
        "GPT2LMHeadModel?n_layer=two": "cannot be built: ",
        "GPT2LMHeadModel?n_embd=7": "cannot be built: ",
        f"{tmp_path}": "config.json' cannot be read",
        f"{tmp_path}/none.json": "none.json' cannot be read",
    }.items():
        with pytest.raises(RequestError, match=message):
            build(f"transformers:{name}")
    for text, message in {
        "{": "cannot be read",
        "[]": "expected a Hugging Face config with a model_type",
        '{"model_type": "gtp2"}': "gtp2",
        '{"model_type": "gpt2", "architectures": ["Mine"]}': "unknown transformers class 'Mine'",
    }.items():
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(RequestError, match=message):
            build(f"transformers:{tmp_path}")
    with pytest.raises(RequestError, match="built from a config and never downloaded"):
        build(f"transformers:GPT2LMHeadModel?{TINY}", weights="pretrained")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(RequestError, match=r"pip install layer-collapse\[transformers\]"):
        build("transformers:GPT2LMHeadModel")
