"""Several stages of an EfficientNet, read together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from .errors import InputError


class Stages(nn.Module):
    """Feature maps of several stages of an EfficientNet, averaged to the grid of the deepest and put together.

    Shallow stages know textures, deep ones objects; quality shows in both (as in Su et al., HyperIQA, CVPR 2020).

    Args:
        network: a timm EfficientNet; its stages beyond the deepest wanted are left out.
        stages: their numbers, each once, rising from 0.

    Raises:
        InputError: another kind of network, or stages it does not have.
    """

    def __init__(self, network: nn.Module, stages: tuple[int, ...]) -> None:
        super().__init__()
        if not isinstance(network, EfficientNet):
            raise InputError(
                f"stages is {stages}: only EfficientNets and vision transformers have them, leave it unset for others"
            )
        check_stages(stages, len(network.blocks))
        self.conv_stem, self.bn1, self.blocks = network.conv_stem, network.bn1, network.blocks[: stages[-1] + 1]
        self.stages = stages
        self.deepest = [m.out_channels for m in self.blocks.modules() if isinstance(m, nn.Conv2d)][-1]

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) normalised images -> (N, C, h, w), C the channels of all stages, the deepest last."""
        return self.gather(self.bn1(self.conv_stem(x)), 0)

    def gather(self, x: Tensor, start: int) -> Tensor:
        """The same from what the stages before `start` made, none of which is read."""
        maps = []
        for number in range(start, len(self.blocks)):
            x = self.blocks[number](x)
            if number in self.stages:
                maps.append(x)
        return torch.cat([F.adaptive_avg_pool2d(map_, x.shape[2:]) for map_ in maps], dim=1)


def check_stages(stages: tuple[int, ...], there: int) -> None:
    """Refuse stages that a network does not have.

    Args:
        stages: their numbers.
        there: how many it has.

    Raises:
        InputError: they are none, not rising, or out of range.
    """
    if not stages or list(stages) != sorted(set(stages)) or not 0 <= stages[0] <= stages[-1] < there:
        raise InputError(f"stages is {stages}: it must be rising numbers in 0..{there - 1}")
