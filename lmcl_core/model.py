"""The quality model: a backbone, attention pooling, a score head and an embedding head; and its EMA teacher.

Shapes: `N` crops or views, `S` crop side, `C` backbone channels, `D` embedding size, `h w` token grid, `L` = h·w.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.models.efficientnet import EfficientNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .backbones.convolution import speed_up
from .backbones.weights import create_backbone
from .common.errors import InputError


class ModelOutput(NamedTuple):
    """Output of `QualityModel` on N crops, in float32."""

    score: Tensor  # (N,) standardised quality, higher is better
    embedding: Tensor  # (N, D) unit vectors, the input of the manifold loss
    saliency: Tensor  # (N, h, w) non-negative, each map sums to 1
    feature: Tensor  # (N, C) pooled backbone feature, the input of both heads


class AttentionPool(nn.Module):
    """Weighted mean of tokens; the weights are the saliency map. Source: notebook 02, equation 1.

    The logit of a token is its log energy (mean squared activation), standardised over the map, times a learned
    strength, plus a learned linear gate that starts at zero. Activation energy is a usable attention map before any
    training (Zagoruyko and Komodakis, ICLR 2017).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.gate = nn.Linear(channels, 1)
        self.strength = nn.Parameter(torch.ones(()))
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(N, L, C) tokens -> (N, C) pooled feature, (N, L) weights that sum to 1."""
        # Equation 1
        energy = tokens.detach().float().square().mean(dim=-1).clamp_min(1e-6).log()  # (N, L)
        energy = energy - energy.mean(dim=-1, keepdim=True)
        prior = energy / energy.square().mean(dim=-1, keepdim=True).sqrt().clamp_min(1e-6)
        weights = (self.strength * prior + self.gate(self.norm(tokens)).squeeze(-1).float()).softmax(dim=-1)
        return torch.einsum("nl,nlc->nc", weights, tokens.float()), weights


class QualityModel(nn.Module):
    """Predict a quality score, an embedding and a saliency map for each image crop (notebook 02, equation 1).

    The saliency map of a convolutional backbone is the attention of `AttentionPool`; that of a vision transformer is
    the CLS token's attention in the last block, averaged over heads. BatchNorm always uses the pretrained statistics,
    so that the crops and global views of one batch do not influence each other.

    Args:
        backbone: timm model name.
        pretrained: load pretrained weights into the backbone.
        embedding_dim: D, >= 1.
        crop_size: S, side of the crops in pixels; fixed for vision transformers.

    Raises:
        InputError: unknown backbone, or weights that cannot be loaded.
    """

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        pretrained: bool = True,
        embedding_dim: int = 128,
        crop_size: int = 224,
    ) -> None:
        super().__init__()
        self.backbone, mean, std = create_backbone(backbone, crop_size, pretrained)
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.transformer = isinstance(self.backbone, VisionTransformer)
        if self.transformer:
            _expose_attention(self.backbone, crop_size)
            channels = self.backbone.num_features
        else:
            channels = _map_channels(self.backbone, backbone, crop_size)
            self.pool = AttentionPool(channels)
        if isinstance(self.backbone, EfficientNet):
            speed_up(self.backbone)
        self.score_head = nn.Linear(channels, 1)
        layers = nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, embedding_dim)
        self.embedding_head = nn.Sequential(*layers)
        self.train()

    def forward(self, images: Tensor, normalised: bool = False, train_backbone: bool = True) -> ModelOutput:
        """Apply the model to a batch of crops, (N, 3, S, S) uint8 RGB; InputError for another type or shape.

        `normalised` means that `images` come from `normalise`, which student and teacher then share. Without
        `train_backbone` no gradients flow into the backbone, and the backward pass is much shorter.
        """
        x = images if normalised else self.normalise(images)
        feature, saliency = (self._transformer if self.transformer else self._convolutional)(x, train_backbone)
        embedding = F.normalize(self.embedding_head(feature).float(), dim=-1)
        return ModelOutput(self.score_head(feature).squeeze(-1).float(), embedding, saliency, feature.float())

    @torch.no_grad()
    def normalise(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 crops -> (images - mean) / std, in the autocast dtype on a CPU, else float32."""
        square = images.ndim == 4 and images.shape[1] == 3 and images.shape[2] == images.shape[3]
        if images.dtype != torch.uint8 or not square:
            raise InputError(f"images are {tuple(images.shape)} {images.dtype}: they must be (N, 3, S, S) uint8 RGB")
        if images.device.type != "cpu" or self.mean.dtype != torch.float32:
            return (images.float() - self.mean) / self.std
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        out = torch.empty_like(images, dtype=dtype)
        for crop, place in zip(images, out):  # one crop at a time stays in the CPU's cache
            place.copy_(crop.float().sub_(self.mean[0]).div_(self.std[0]))
        return out

    def train(self, mode: bool = True) -> QualityModel:
        """Set the training mode; BatchNorm stays in evaluation mode, its scale and shift remain trainable."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def _convolutional(self, x: Tensor, train_backbone: bool) -> tuple[Tensor, Tensor]:
        """Normalised crops -> (N, C) feature, (N, h, w) saliency of a convolutional backbone."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and train_backbone):
            maps = self.backbone.forward_features(x)  # (N, C, h, w)
        feature, weights = self.pool(maps.flatten(2).transpose(1, 2))  # tokens (N, L, C)
        return feature, weights.unflatten(1, maps.shape[2:])

    def _transformer(self, x: Tensor, train_backbone: bool) -> tuple[Tensor, Tensor]:
        """Normalised crops -> (N, C) feature, (N, h, w) saliency of a vision transformer."""
        network, caught = self.backbone, []
        for block in network.blocks[:-1]:  # on CPUs, fused attention is slower than plain attention for so few tokens
            block.attn.fused_attn = network.fused_attention and x.device.type != "cpu"
        drop = network.blocks[-1].attn.attn_drop
        hook = drop.register_forward_hook(lambda module, args, attention: caught.append(attention))
        try:
            with torch.set_grad_enabled(torch.is_grad_enabled() and train_backbone):
                feature = network.forward_features(x)[:, 0]
        finally:
            hook.remove()
        attention = caught[0][:, :, 0, network.num_prefix_tokens :].float().mean(dim=1)  # (N, L)
        saliency = attention / attention.sum(dim=-1, keepdim=True)
        return feature.float(), saliency.unflatten(1, network.patch_embed.grid_size)


def _expose_attention(network: VisionTransformer, crop_size: int) -> None:
    """Make the last block compute its attention matrix explicitly, so that a hook can read it."""
    patch = network.patch_embed.patch_size[0]
    if crop_size % patch:
        raise InputError(f"crop_size is {crop_size}: this backbone needs a multiple of its patch size, {patch}")
    if not network.has_class_token:
        fix = "choose one with a class token, such as deit3_small_patch16_224.fb_in22k_ft_in1k"
        raise InputError(f"this vision transformer has no CLS token, whose attention is the saliency map: {fix}")
    network.fused_attention = network.blocks[0].attn.fused_attn  # whether timm found fused attention here
    network.blocks[-1].attn.fused_attn = False


@torch.no_grad()
def _map_channels(network: nn.Module, name: str, crop_size: int) -> int:
    """Channels C of a convolutional backbone's (N, C, h, w) feature map; other backbones are refused."""
    training = network.training
    shape = network.eval().forward_features(torch.zeros(1, 3, crop_size, crop_size)).shape
    network.train(training)
    if len(shape) != 4 or shape[2] != shape[3]:
        fix = "choose a convolutional network or a vision transformer with a class token"
        raise InputError(f"backbone {name!r} gives features of shape {tuple(shape)}, not a (N, C, h, w) map: {fix}")
    return shape[1]


class FrozenModel(nn.Module):
    """The heads of the frozen regime: predict quality, embedding and saliency from features of a frozen backbone.

    The input of a crop is its feature beside that of the whole view, each standardised over the training crops. From
    it, `reduce` computes a linear score, by ridge regression, and R principal components; neither is trained. The score
    is the linear one plus the output of a small network on the components, which starts at zero, so that training
    starts from ridge regression. The saliency map is the attention of `AttentionPool` over the whole view's tokens.

    Args: F `features` of a crop, C `channels` of a token, D `embedding_dim`, R `components`, H `hidden` units.
    """

    def __init__(
        self, features: int, channels: int, embedding_dim: int = 128, components: int = 128, hidden: int = 256
    ) -> None:
        super().__init__()
        for name in ("mean", "std"):
            self.register_buffer(name, torch.zeros(2 * features))
        self.register_buffer("basis", torch.zeros(2 * features, 1 + components))  # weights of ridge, then components
        self.register_buffer("offset", torch.zeros(1 + components))
        self.pool = AttentionPool(channels)
        self.trunk = nn.Sequential(nn.Linear(components, hidden), nn.GELU())
        self.score_head = nn.Linear(hidden, 1)
        nn.init.zeros_(self.score_head.weight)
        nn.init.zeros_(self.score_head.bias)
        self.embedding_head = nn.Linear(hidden, embedding_dim)

    def standardised(self, crops: Tensor) -> Tensor:
        """(B, K + 1, F) features, the last of the whole view -> (B, K, 2F) inputs of the K crops."""
        crops, view = crops[:, :-1].float(), crops[:, -1:].float()
        return (torch.cat([crops, view.expand_as(crops)], dim=-1) - self.mean) / self.std

    def reduce(self, crops: Tensor) -> Tensor:
        """(B, K + 1, F) features, the last of the whole view -> (B, K, 1 + R): linear score, components."""
        return self.standardised(crops) @ self.basis + self.offset

    def forward(self, reduced: Tensor, tokens: Tensor) -> ModelOutput:
        """Output of `reduce` and tokens (B, h, w, C) of the whole view -> outputs in float32.

        Score is (B, K), embedding (B, K, D), saliency (B, h, w), feature (B, K, H).
        """
        with torch.autocast(reduced.device.type, enabled=False):
            hidden = self.trunk(reduced[..., 1:])  # (B, K, H)
            score = reduced[..., 0] + self.score_head(hidden).squeeze(-1)
            embedding = F.normalize(self.embedding_head(hidden), dim=-1)
            return ModelOutput(score, embedding, self.saliency(tokens), hidden)

    def saliency(self, tokens: Tensor) -> Tensor:
        """(B, h, w, C) tokens of the whole view -> (B, h, w) maps that sum to 1."""
        return self.pool(tokens.flatten(1, 2).float())[1].unflatten(1, tokens.shape[1:3])


def make_teacher(student: nn.Module) -> nn.Module:
    """A copy of the student in evaluation mode that takes no gradient; the student is left unchanged."""
    return copy.deepcopy(student).requires_grad_(False).eval()


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum·teacher + (1 - momentum)·student, in place; integer buffers are copied (equation 10)."""
    # Equation 10
    pairs = list(zip([*teacher.parameters(), *teacher.buffers()], [*student.parameters(), *student.buffers()]))
    moving = [(t, s.detach()) for t, s in pairs if t.is_floating_point()]
    torch._foreach_lerp_([t for t, _ in moving], [s for _, s in moving], 1 - momentum)
    for t, s in pairs:
        if not t.is_floating_point():
            t.copy_(s)
