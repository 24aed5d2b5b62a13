"""The quality model: a backbone, an attention that says where to look, and two heads; and its EMA teacher.

Shapes: `N` crops or views, `S` crop side, `C` backbone channels, `D` embedding size, `h w` token grid, `L` = h·w.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from timm.models.efficientnet import EfficientNet
from timm.models.vision_transformer import VisionTransformer

from .convolution import speed_up
from .errors import InputError
from .freezing import freeze_first_stages
from .stages import Stages, check_stages
from .weights import create_backbone


class ModelOutput(NamedTuple):
    """What the model says of N crops.

    Attributes:
        score: (N,) float32, standardised quality, higher is better.
        embedding: (N, D) float32 unit vectors, where the manifold loss works.
        saliency: (N, h, w) float32, non-negative, each map sums to 1.
        feature: (N, C) float32, the pooled and standardised backbone feature both heads read.
    """

    score: Tensor
    embedding: Tensor
    saliency: Tensor
    feature: Tensor


class AttentionPool(nn.Module):
    """Weighted mean of tokens; the weights are the saliency map. Source: notebook 02, equation 1.

    The logit of a token is its log energy, standardised over the map, times a learned strength, plus a learned linear
    gate that starts at zero. Energy is where a pretrained network responds, so the map tells salient regions from
    empty ones before the first step, and training on quality refines it. (Energy as attention: Zagoruyko and
    Komodakis, ICLR 2017.)

    Args:
        channels: C.
        deepest: how many channels, the last ones, energy is measured in; all of them if None.
    """

    def __init__(self, channels: int, deepest: int | None = None) -> None:
        super().__init__()
        self.deepest = deepest or channels
        self.norm = nn.LayerNorm(channels)
        self.gate = nn.Linear(channels, 1)
        self.strength = nn.Parameter(torch.ones(()))
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(N, L, C) tokens -> (N, C) pooled, (N, L) weights that sum to 1."""
        energy = tokens[..., -self.deepest :].detach().float().square().mean(dim=-1).clamp_min(1e-6).log()  # (N, L)
        energy = energy - energy.mean(dim=-1, keepdim=True)
        prior = energy / energy.square().mean(dim=-1, keepdim=True).sqrt().clamp_min(1e-6)
        weights = (self.strength * prior + self.gate(self.norm(tokens)).squeeze(-1).float()).softmax(dim=-1)
        return torch.einsum("nl,nlc->nc", weights, tokens.float()), weights


class QualityModel(nn.Module):
    """Score, embed and locate the quality of image crops (notebook 02, equation 1).

    A convolutional backbone is pooled by a learned attention, whose weights are the saliency map. A vision
    transformer is pooled by its CLS token, whose attention in the last block, mean over heads, is the map; where blocks
    are chosen, by the CLS token and the mean of the patches of each of them.

    Args:
        backbone: timm model name.
        pretrained: fill the backbone with its ImageNet weights.
        embedding_dim: D, >= 1.
        crop_size: S, the side in pixels of the crops it will see; fixed for vision transformers.
        stages: None for the backbone's last features, or the stages of an EfficientNet, or the blocks of a vision
            transformer, whose features are read together; what lies deeper is left out.

    Raises:
        InputError: unknown backbone or weights that cannot be had.
    """

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        pretrained: bool = True,
        embedding_dim: int = 128,
        crop_size: int = 224,
        stages: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.backbone, mean, std = create_backbone(backbone, crop_size, pretrained)
        self.stages = stages
        self._early, self._kept = 0, []  # stages that `early` runs; modules that never train
        if stages is not None and not isinstance(self.backbone, VisionTransformer):
            self.backbone = Stages(self.backbone, stages)
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.transformer = isinstance(self.backbone, VisionTransformer)
        if self.transformer:
            channels = self.backbone.num_features
            if stages is not None:
                check_stages(stages, len(self.backbone.blocks))
                self.backbone.prune_intermediate_layers(list(stages), prune_norm=True)
                channels *= 2 * len(stages)
            self._expose_attention(crop_size)
        else:
            channels = _map_channels(self.backbone, backbone, crop_size)
            self.pool = AttentionPool(channels, getattr(self.backbone, "deepest", None))
            if isinstance(self.backbone, (EfficientNet, Stages)):
                speed_up(self.backbone)
        self.register_buffer("feature_mean", torch.zeros(channels))
        self.register_buffer("feature_std", torch.ones(channels))
        self.score_head = nn.Linear(channels, 1)
        self.embedding_head = nn.Sequential(
            nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, embedding_dim)
        )

    def freeze_stages(self, stages: int) -> None:
        """Keep the first stages, and all that comes before them, as they are from now on.

        Early layers know edges and textures, which ImageNet teaches well; they are also the dearest to train, since
        their maps are the largest.

        Args:
            stages: as in `freezing.freeze_first_stages`; 0 freezes nothing.

        Raises:
            InputError: as there.
        """
        if not stages:
            return
        self._kept = freeze_first_stages(self.backbone, stages)
        if not self.transformer:  # `early` may run them, up to the first whose map is read
            self._early = stages if self.stages is None else min(stages, self.stages[0])
        self.train(self.training)

    def forward(self, images: Tensor | None = None, begun: Tensor | None = None) -> ModelOutput:
        """Look at a batch of crops.

        Args:
            images: (N, 3, S, S) uint8 RGB; normalised inside.
            begun: in their place, what `early` has already made of them.

        Returns:
            `ModelOutput`.

        Raises:
            InputError: not uint8, or not of that shape.
        """
        if (images is None) == (begun is None):
            raise InputError("give either images, or what `early` made of them as begun")
        return self.late(self.early(images) if begun is None else begun)

    def early(self, images: Tensor) -> Tensor:
        """What the first, frozen stages of an EfficientNet make of crops; student and teacher share it.

        Args:
            images: as in `forward`.

        Returns:
            (N, C', h', w') maps without a gradient; where no stage is frozen, the normalised crops.

        Raises:
            InputError: as `forward`.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"images are {tuple(images.shape)} {images.dtype}: they must be (N, 3, S, S) uint8 RGB")
        with torch.no_grad():
            x = self._normalised(images)
            if self._early:
                x = self.backbone.bn1(self.backbone.conv_stem(x))
                x = self.backbone.blocks[: self._early](x)
        return x

    def _normalised(self, images: Tensor) -> Tensor:
        """Crops less their mean, over their spread, in float32 or, within autocast on a CPU, at once in its type.

        A CPU takes a crop at a time, which its caches hold throughout.
        """
        if images.device.type != "cpu" or self.mean.dtype != torch.float32:
            return (images.float() - self.mean) / self.std
        out = torch.empty_like(images, dtype=_autocast_dtype())
        for crop, place in zip(images, out):
            place.copy_(crop.float().sub_(self.mean[0]).div_(self.std[0]))
        return out

    def late(self, x: Tensor) -> ModelOutput:
        """The rest of `forward`, from what `early` returned."""
        feature, saliency = self._from_transformer(x) if self.transformer else self._from_convolutions(x)
        feature = (feature - self.feature_mean) / self.feature_std
        embedding = F.normalize(self.embedding_head(feature).float(), dim=-1)
        return ModelOutput(self.score_head(feature).squeeze(-1).float(), embedding, saliency, feature.float())

    def _from_convolutions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self._maps(x)  # (N, C, h, w)
        pooled, weights = self.pool(x.flatten(2).transpose(1, 2))  # tokens (N, L, C)
        return pooled, weights.unflatten(1, x.shape[2:])

    def _maps(self, x: Tensor) -> Tensor:
        network = self.backbone
        if not self._early:
            return network.forward_features(x)
        if isinstance(network, Stages):
            return network.gather(x, self._early)
        return network.bn2(network.conv_head(network.blocks[self._early :](x)))

    def train(self, mode: bool = True) -> QualityModel:
        """As every module's; but frozen stages stay in evaluation mode."""
        super().train(mode)
        for module in self._kept:
            module.eval()
        return self

    def _from_transformer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.backbone.blocks[:-1]:  # on a CPU the fused attention is the slower one at such lengths
            block.attn.fused_attn = self._fused and x.device.type != "cpu"
        caught: list[Tensor] = []
        drop = self.backbone.blocks[-1].attn.attn_drop
        hook = drop.register_forward_hook(lambda module, args, attention: caught.append(attention))
        try:
            feature = self._of_blocks(x) if self.stages else self.backbone.forward_features(x)[:, 0]
        finally:
            hook.remove()
        attention = caught[0][:, :, 0, self.backbone.num_prefix_tokens :].float().mean(dim=1)  # (N, L)
        saliency = attention / attention.sum(dim=-1, keepdim=True)
        return feature.float(), saliency.unflatten(1, self.backbone.patch_embed.grid_size)

    def _of_blocks(self, x: Tensor) -> Tensor:
        """(N, 2·C·blocks): CLS token and mean patch of each chosen block, not normalised."""
        parts = self.backbone.forward_intermediates(
            x,
            indices=list(self.stages),
            return_prefix_tokens=True,
            output_fmt="NLC",
            intermediates_only=True,
            stop_early=True,
        )
        return torch.cat([part for patches, prefix in parts for part in (prefix[:, 0], patches.mean(dim=1))], dim=1)

    def _expose_attention(self, crop_size: int) -> None:
        """Have the last block write its attention matrix out, so that a hook can read it."""
        patch = self.backbone.patch_embed.patch_size[0]
        if crop_size % patch:
            raise InputError(f"crop_size is {crop_size}: this backbone needs a multiple of its patch side, {patch}")
        if not self.backbone.has_class_token:
            raise InputError(
                "this vision transformer has no CLS token, whose attention would be the saliency map; "
                "choose one with a class token, such as deit3_small_patch16_224.fb_in22k_ft_in1k"
            )
        self._fused = self.backbone.blocks[0].attn.fused_attn  # what timm found this machine to have
        self.backbone.blocks[-1].attn.fused_attn = False


def _autocast_dtype() -> torch.dtype:
    """In what convolutions and products work on a CPU just now."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


@torch.no_grad()
def _map_channels(network: nn.Module, name: str, crop_size: int) -> int:
    """Channels C of a convolutional backbone's (N, C, h, w) feature map; backbones without one are refused."""
    training = network.training
    shape = network.eval().forward_features(torch.zeros(1, 3, crop_size, crop_size)).shape
    network.train(training)
    if len(shape) != 4 or shape[2] != shape[3]:
        raise InputError(
            f"backbone {name!r} gives features of shape {tuple(shape)}, not a (N, C, h, w) map: choose a "
            "convolutional network or a vision transformer with a class token"
        )
    return shape[1]


def make_teacher(student: nn.Module) -> nn.Module:
    """A copy of the student that takes no gradient and normalises with running statistics.

    Args:
        student: left as it is.

    Returns:
        The teacher, in evaluation mode.
    """
    return copy.deepcopy(student).requires_grad_(False).eval()


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum·teacher + (1 - momentum)·student, in place (notebook 02, equation 10); integers are copied.

    Args:
        teacher: from `make_teacher`.
        student: of the same architecture.
        momentum: in [0, 1).
    """
    pairs = list(zip([*teacher.parameters(), *teacher.buffers()], [*student.parameters(), *student.buffers()]))
    moving = [(t, s.detach()) for t, s in pairs if t.is_floating_point()]
    torch._foreach_lerp_([t for t, _ in moving], [s for _, s in moving], 1 - momentum)
    for t, s in pairs:
        if not t.is_floating_point():
            t.copy_(s)
