"""Small networks that nobody here wrote: torch's own, torchvision's, timm's and others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.zoo import Case

Y = torch.arange(6) % 3


class Last(nn.Module):
    """A recurrent network, read at its last step."""

    def __init__(self, layer: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


def lstm() -> Case:
    layer = nn.LSTM(5, 8, 2, batch_first=True, bidirectional=True, proj_size=4)
    return Case(Last(layer, 8), [(torch.randn(6, 4, 5), Y)])


def gru() -> Case:
    return Case(Last(nn.GRU(5, 8, batch_first=True), 8), [(torch.randn(6, 4, 5), Y)])


def transformer() -> Case:
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    head = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    return Case(nn.Sequential(encoder, head), [(torch.randn(6, 4, 8), Y)])


def bilinear() -> Case:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.pair = nn.Linear(4, 5), nn.Bilinear(5, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.pair(self.first(x).relu(), x)

    return Case(Pair(), [(torch.randn(6, 4), Y)])


def torchvision_vit() -> Case:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(16, 8, 2, 4, 48, 96, num_classes=3)
    nn.init.normal_(model.heads.head.weight, 0, 0.1)  # torchvision draws a head of zeros
    return Case(model, [(torch.randn(6, 3, 16, 16), Y)])


def timm_vit() -> Case:
    vit = pytest.importorskip("timm.models.vision_transformer", reason="no extra 'zoo'")
    model = vit.VisionTransformer(16, 8, 3, 3, embed_dim=48, depth=1, num_heads=2)
    return Case(model, [(torch.randn(6, 3, 16, 16), Y)])


def gpt2() -> Case:
    """On vectors: what embeds them is no layer."""
    transformers = pytest.importorskip("transformers")

    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = transformers.GPT2Config(
                vocab_size=30, n_positions=8, n_embd=32, n_layer=2, n_head=2,
                resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            )  # fmt: skip
            self.body, self.head = transformers.GPT2Model(config), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(inputs_embeds=x).last_hidden_state.mean(1))

    return Case(Read(), [(torch.randn(6, 4, 32), Y)])


def geometric() -> Case:
    """A graph network on one fixed graph, whose nodes are the batch."""
    nn_of_graphs = pytest.importorskip("torch_geometric.nn")

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn_of_graphs.GCNConv(4, 8), nn_of_graphs.GCNConv(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            nodes = torch.arange(len(x))
            edges = torch.stack([nodes, (nodes + 1) % len(x)])
            return self.second(self.first(x, edges).relu(), edges)

    return Case(Graph(), [(torch.randn(6, 4), Y)])


FOREIGN: dict[str, Callable[[], Case]] = {
    case.__name__: case
    for case in (*(lstm, gru, transformer, bilinear, torchvision_vit, timm_vit, gpt2, geometric),)
}


def foreign(name: str, seed: int = 0) -> Case:
    """One of them in float64, in eval mode."""
    torch.manual_seed(seed)
    model, batches = FOREIGN[name]()
    for parameter_name, parameter in model.named_parameters():
        if "bias" in parameter_name:
            nn.init.normal_(parameter, 0, 0.2)
    return Case(model.double().eval(), [(x.double(), y) for x, y in batches])
