"""What of a pretrained network is kept as it is: its first stages, its batch statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from timm.models.efficientnet import EfficientNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from .errors import InputError
from .stages import Stages

#: Parts of timm's EfficientNet and VisionTransformer that work before their blocks.
_BEFORE_THE_BLOCKS = ("conv_stem", "bn1", "patch_embed", "cls_token", "pos_embed", "reg_token", "norm_pre")


def freeze_first_stages(network: nn.Module, stages: int) -> list[nn.Module]:
    """Keep the first stages, and all that comes before them, as they are: no gradient reaches them.

    Args:
        network: a backbone; changed in place.
        stages: how many stages of an EfficientNet, or blocks of a vision transformer, 1 or more.

    Returns:
        The frozen modules that may hold batch normalisation.

    Raises:
        InputError: another kind of backbone, or fewer stages than that.
    """
    if not isinstance(network, (EfficientNet, Stages, VisionTransformer)):
        raise InputError(
            f"frozen_stages is {stages}: only EfficientNets and vision transformers have them, leave it at 0 for others"
        )
    if stages > len(network.blocks):
        raise InputError(f"frozen_stages is {stages}: this backbone has {len(network.blocks)}")
    before = [value for name, value in network.named_parameters() if name.split(".")[0] in _BEFORE_THE_BLOCKS]
    for parameter in (*before, *network.blocks[:stages].parameters()):
        parameter.requires_grad_(False)
    return [network.bn1, network.blocks[:stages]] if hasattr(network, "bn1") else []


def set_batchnorm_momentum(model: nn.Module, momentum: float) -> None:
    """How fast the running statistics of every batch normalisation follow.

    Args:
        model: changed in place.
        momentum: share of the newest batch, in (0, 1].
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum


def freeze_batchnorm(model: nn.Module) -> list[nn.Module]:
    """Have every batch normalisation use its running statistics, and keep them, until the next ``model.train()``.

    Args:
        model: changed in place; scale and shift stay trainable.

    Returns:
        The normalisations that were live until now.
    """
    live = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for module in live:
        module.eval()
    return live


@contextmanager
def batchnorm_frozen(model: nn.Module) -> Iterator[None]:
    """`freeze_batchnorm` for the length of a ``with`` block.

    Args:
        model: as it was, afterwards.
    """
    live = freeze_batchnorm(model)
    try:
        yield
    finally:
        for module in live:
            module.train()
