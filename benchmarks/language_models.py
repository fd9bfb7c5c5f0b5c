"""Small randomly initialised networks of ``transformers``, each with one tensor in and one out.

Sequence lengths equal a width where there is one to confuse them with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Read(nn.Module):
    """Calls a network by a keyword and averages its output over positions."""

    def __init__(self, network: nn.Module, keyword: str, result: str, **more: Any) -> None:
        super().__init__()
        self.network, self.keyword, self.result, self.more = network, keyword, result, more

    def forward(self, x: Tensor) -> Tensor:
        y = getattr(self.network(**{self.keyword: x}, **self.more), self.result)
        return y if y.ndim == 2 else y.mean(1)


Built = tuple[nn.Module, Tensor]


def _tokens(length: int) -> Tensor:
    return torch.arange(2 * length).reshape(2, length) * 7 % 50


def _vectors(*shape: int) -> Tensor:
    return torch.randn(2, *shape, dtype=torch.float64)


def _text(config: str, model: str, *, embedded: bool = False, result: str = "logits",
          length: int = 16, **options: Any) -> Built:  # fmt: skip
    import transformers

    settings = getattr(transformers, config)(
        vocab_size=50, pad_token_id=0, attn_implementation="eager", **options
    )
    network = getattr(transformers, model)(settings)
    if embedded:
        return Read(network, "inputs_embeds", result), _vectors(length, 32)
    return Read(network, "input_ids", result), _tokens(length)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FEED = {"intermediate_size": 48}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4}
GROUPED = {**SMALL, **FEED, "num_key_value_heads": 2}


def _llama(length: int, *, embedded: bool = False) -> Built:
    return _text("LlamaConfig", "LlamaForCausalLM", length=length, embedded=embedded, **GROUPED)


def _image(config: str, model: str, result: str = "logits", **options: Any) -> Built:
    import transformers

    settings = getattr(transformers, config)(image_size=32, num_labels=5, **options)
    return Read(getattr(transformers, model)(settings), "pixel_values", result), _vectors(3, 32, 32)


def _t5() -> Built:
    import transformers

    settings = transformers.T5Config(
        vocab_size=50, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    network = transformers.T5ForConditionalGeneration(settings)
    return Read(network, "inputs_embeds", "logits", decoder_input_ids=_tokens(8)), _vectors(16, 32)


def _whisper() -> Built:
    import transformers

    settings = transformers.WhisperConfig(
        vocab_size=50, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_source_positions=16,
        max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    network = transformers.WhisperForConditionalGeneration(settings)
    return Read(network, "input_features", "logits", decoder_input_ids=_tokens(8)), _vectors(80, 32)


LANGUAGE_MODELS: dict[str, Callable[[], Built]] = {
    "bert": lambda: _text("BertConfig", "BertForMaskedLM", **SMALL, **FEED),
    "bert, vectors": lambda: _text("BertConfig", "BertForMaskedLM", embedded=True, **SMALL, **FEED),
    "distilbert": lambda: _text(
        "DistilBertConfig", "DistilBertForMaskedLM", dim=32, n_layers=2, n_heads=4, hidden_dim=48
    ),
    "gpt2": lambda: _text("GPT2Config", "GPT2LMHeadModel", **GPT),
    "gpt2, vectors": lambda: _text("GPT2Config", "GPT2LMHeadModel", embedded=True, **GPT),
    "llama, 12 tokens": lambda: _llama(12),
    "llama, as many tokens as keys": lambda: _llama(16),
    "llama, as many tokens as features": lambda: _llama(32),
    "llama, vectors": lambda: _llama(16, embedded=True),
    "mistral": lambda: _text("MistralConfig", "MistralForCausalLM", **GROUPED),
    "qwen2": lambda: _text("Qwen2Config", "Qwen2ForCausalLM", **GROUPED),
    "opt": lambda: _text(
        "OPTConfig", "OPTForCausalLM", ffn_dim=48, word_embed_proj_dim=32, **SMALL
    ),
    "vit": lambda: _image("ViTConfig", "ViTForImageClassification", patch_size=8, **SMALL, **FEED),
    "convnext": lambda: _image(
        "ConvNextConfig", "ConvNextForImageClassification", hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
    ),
    "t5, vectors": _t5,
    "whisper": _whisper,
}  # fmt: skip
