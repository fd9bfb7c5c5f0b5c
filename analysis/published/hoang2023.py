"""The networks and scores of a second published study, as its authors made them.

D. N. M. Hoang, S. Liu, R. Marculescu & Z. Wang, "Revisiting pruning at initialization through the
lens of Ramanujan graph", ICLR 2023: torchvision's ResNet-34 for CIFAR-10, initialised in another
way and ending in a log-softmax, which changes what two of the scores are.
"""

from __future__ import annotations

import math

from torch import nn

from collapse.models import ContiguousGradients, Masks, call
from collapse.scores import ScoreInputs, Scores, pruner
from collapse.scores.gradients import gradients, loss_gradient, times
from collapse.scores.pruners.synflow import positive


def resnet34(classes: int) -> nn.Module:
    """torchvision's ResNet-34 with the study's initialisation: BatchNorm weights of 0.5.

    Convolutions are normal with variance ``2 / (k² · out)``, linear layers with 0.01².
    """
    from torchvision.models import resnet34 as of_torchvision

    model: nn.Module = of_torchvision(num_classes=classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
    return model


@pruner(iterations=100, data="shape", stateless=True)
def synflow_log_softmax(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """SynFlow of log-probabilities, ``|θ ⊙ ∂R/∂θ|`` with ``R = 1ᵀ log softmax f(1; |θ|)``.

    The gradient at the largest of ``n`` logits is ``1 − n`` in place of 1, so that signs differ
    and cancel on the way back.
    """
    state = positive(model, masks, inputs.dtype)
    theta = {name: state[name].requires_grad_() for name in masks}
    with ContiguousGradients():
        R = call(model, state, inputs.ones(masks)).log_softmax(1).sum()
    saliency = times(theta, gradients(R, theta))
    return saliency.of({name: tensor.abs_() for name, tensor in saliency.items()})


@pruner(mode="eval", stateless=True, passes=11)
def grasp_untempered(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """GraSP without its temperature: dividing log-probabilities only scales the loss."""
    _, gradient = loss_gradient(model, masks, inputs)
    theta, product = loss_gradient(model, masks, inputs, along=gradient)
    return times(theta, product)
