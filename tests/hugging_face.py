"""Hugging Face's networks, tiny and randomly initialised, with their inputs and SynFlow's twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

VOCABULARY, WIDTH, LENGTH = 31, 16, 8
_SIZES = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class Network(NamedTuple):
    """A network in float64 with a batch's inputs.

    Attributes:
        ones: the keywords of a plain forward whose token embeddings are ones, for one sample.
    """

    model: nn.Module
    inputs: Any
    ones: dict[str, Tensor]


def _ids(samples: int = 3, length: int = LENGTH) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, VOCABULARY, (samples, length), generator=generator)


def _embedded(length: int = LENGTH) -> Tensor:
    return torch.ones(1, length, WIDTH, dtype=torch.float64)


def gpt2() -> Network:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_embd=WIDTH, n_head=2, n_positions=32, **_SIZES)
    return Network(GPT2LMHeadModel(config), _ids(), {"inputs_embeds": _embedded()})


def bert() -> Network:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        **_SIZES,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        num_labels=4,
    )
    ids = _ids()
    rest = {
        "attention_mask": (torch.arange(LENGTH) < 6).long().expand(3, -1),
        "token_type_ids": (torch.arange(LENGTH) > 3).long().expand(3, -1),
    }
    one = {name: x[:1] for name, x in rest.items()}
    model = BertForSequenceClassification(config)
    return Network(model, {"input_ids": ids, **rest}, {"inputs_embeds": _embedded(), **one})


def llama() -> Network:
    """Grouped queries, and labels for a loss of its own."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **_SIZES,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=24,
    )
    inputs = {"input_ids": _ids(), "labels": _ids()}
    return Network(LlamaForCausalLM(config), inputs, {"inputs_embeds": _embedded()})


def t5() -> Network:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=WIDTH, d_kv=8, d_ff=24, num_layers=1, num_heads=2, **_SIZES)
    inputs = {"input_ids": _ids(), "decoder_input_ids": _ids(length=5)}
    ones = {"inputs_embeds": _embedded(), "decoder_inputs_embeds": _embedded(5)}
    return Network(T5ForConditionalGeneration(config), inputs, ones)


def whisper() -> Network:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        **_SIZES,
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=1,
        num_mel_bins=8,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_source_positions=12,
        max_target_positions=16,
        decoder_start_token_id=1,
    )
    inputs = {"input_features": torch.randn(3, 8, 24), "decoder_input_ids": _ids(length=5)}
    ones = {
        "input_features": torch.ones(1, 8, 24, dtype=torch.float64),
        "decoder_inputs_embeds": _embedded(5),
    }
    return Network(WhisperForConditionalGeneration(config), inputs, ones)


NETWORKS: dict[str, Callable[[], Network]] = {
    "gpt2": gpt2,
    "bert": bert,
    "llama": llama,
    "t5": t5,
    "whisper": whisper,
}
