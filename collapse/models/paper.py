"""The paper's small networks, and how weights are drawn.

Its VGGs and ResNets are in ``vgg_resnet``, because they need torchvision, which takes longer to
import than torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from collapse.errors import unknown
from collapse.models.kinds import NORMS, biases_of, matrices_of, weights_of

Shape = tuple[int, ...]


# From this height on a network gets torchvision's ImageNet stem and head.
IMAGENET_HEIGHT = 128


INITS: dict[str, Callable[[Tensor], Tensor]] = {
    "kaiming": partial(nn.init.kaiming_normal_, mode="fan_in"),
    "kaiming_fan_out": partial(nn.init.kaiming_normal_, mode="fan_out"),
    "kaiming_uniform": partial(nn.init.kaiming_uniform_, mode="fan_in"),
    "xavier": nn.init.xavier_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "orthogonal": nn.init.orthogonal_,
}


def initialise(model: nn.Module, init: str) -> None:
    """Draw every prunable weight anew, in place; biases become 0, normalisations the identity.

    Args:
        init: a name in ``INITS``. ``kaiming`` is He et al. 2015's normal with fan-in and gain √2,
            ``xavier`` Glorot & Bengio 2010's normal.

    Raises:
        RequestError: no such initialisation.
    """
    if init not in INITS:
        raise unknown("init", init, INITS)
    draw = INITS[init]
    for module in model.modules():
        for weight in matrices_of(module):
            draw(weight)
        if weights_of(module):
            for name in biases_of(module):
                nn.init.zeros_(module.get_parameter(name))
        elif isinstance(module, NORMS) and isinstance(module.weight, nn.Parameter):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def fc(_: str, input_shape: Shape, classes: int) -> nn.Module:
    """The paper's perceptron: six layers, 100 units each."""
    widths = [math.prod(input_shape), *[100] * 5]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def conv(_: str, input_shape: Shape, classes: int) -> nn.Module:
    """The paper's small convolutional network: two convolutions of 32 channels, one linear."""
    channels, height, width = input_shape
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * height * width, classes)),
    )
