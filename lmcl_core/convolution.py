"""EfficientNet's convolutions, made faster to train without changing what they compute.

Frozen batch normalisation is folded into the convolution before it, with the activation after it where no gradient is
wanted, and the gradients of depthwise convolutions are taken on the CPU in ways that were faster than PyTorch's own on
a machine with AVX-512 and bfloat16.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame, get_same_padding, pad_same
from torch import Tensor, nn

_gradients = torch.ops.aten.convolution_backward


def speed_up(network: nn.Module) -> int:
    """Speed up every pair of a convolution and the batch normalisation that its block applies right after it.

    While a normalisation is in training mode it is not folded. Parameters and their names stay as they are, and so do
    outputs and gradients, up to rounding.

    Args:
        network: a timm EfficientNet, or parts of one; changed in place.

    Returns:
        Number of pairs.
    """
    pairs = 0
    for parent in network.modules():
        children = list(parent.children())
        for conv, norm in zip(children, children[1:]):  # timm's blocks register them in the order they apply them
            if type(conv) in (nn.Conv2d, Conv2dSame) and conv.bias is None and isinstance(norm, BatchNormAct2d):
                conv.forward = functools.partial(_convolve, conv, norm)
                norm.forward = functools.partial(_normalise, norm)
                pairs += 1
    return pairs


def _convolve(conv: nn.Conv2d, norm: BatchNormAct2d, x: Tensor) -> Tensor:
    """The convolution; where the normalisation is folded into it, with what follows that too."""
    padding = conv.padding
    if isinstance(conv, Conv2dSame):
        x, padding = _pad_same(x, conv), (0, 0)
    if norm.training:
        return _plain_or_depthwise(conv, x, conv.weight, None, padding)
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight, bias = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    if _can_be_one(norm, x):
        x, weight, bias = (value.to(torch.bfloat16) for value in (x, weight, bias))
        steps = (padding, conv.stride, conv.dilation, conv.groups)
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *steps, "hardtanh", [0.0, 6.0], "")
    return norm.act(norm.drop(_plain_or_depthwise(conv, x, weight, bias, padding)))


def _plain_or_depthwise(
    conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]
) -> Tensor:
    if _is_plain_depthwise(conv) and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return _Depthwise.apply(x, weight, bias, conv.stride[0], padding[0])
    return F.conv2d(x, weight, bias, conv.stride, padding, conv.dilation, conv.groups)


def _can_be_one(norm: BatchNormAct2d, x: Tensor) -> bool:
    """Whether oneDNN may clip within the convolution, to the same bits: on a CPU, in bfloat16, without gradients."""
    plain = isinstance(norm.act, nn.ReLU6) and isinstance(norm.drop, nn.Identity) and x.device.type == "cpu"
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return plain and half and not torch.is_grad_enabled() and _has_pointwise()


@functools.cache
def _has_pointwise() -> bool:
    """Whether this build of torch and this processor have the convolution that TorchInductor clips within."""
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return there and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _pad_same(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Zeros around maps as TensorFlow places them. Without gradients on a CPU only the border is filled, not all."""
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return pad_same(x, conv.kernel_size, conv.stride, conv.dilation)
    N, C, *sides = x.shape
    rows, columns = map(get_same_padding, sides, conv.kernel_size, conv.stride, conv.dilation)
    top, left = rows // 2, columns // 2
    height, width = sides[0] + rows, sides[1] + columns
    padded = torch.empty_strided((N, C, height, width), (C * height * width, 1, C * width, C), dtype=x.dtype)
    padded[:, :, top : top + sides[0], left : left + sides[1]] = x
    padded[:, :, :top], padded[:, :, top + sides[0] :] = 0, 0
    padded[..., :left], padded[..., left + sides[1] :] = 0, 0
    return padded


def _is_plain_depthwise(conv: nn.Conv2d) -> bool:
    """Whether `_Depthwise` knows its kind: one kernel a channel, square in all, no holes."""
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1 and conv.dilation == (1, 1)
    square = all(one == other for one, other in (conv.kernel_size, conv.stride, conv.padding))
    return depthwise and square and conv.kernel_size[0] in (3, 5, 7)


def _normalise(norm: BatchNormAct2d, x: Tensor) -> Tensor:
    """Nothing is left of a normalisation that is folded: its convolution applies the activation at its end too."""
    return type(norm).forward(norm, x) if norm.training else x


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution in bfloat16. PyTorch's own gradients of it are many times slower than its forward pass."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        """(N, C, H, W), (C, 1, k, k), (C,) -> (N, C, H', W') bfloat16."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, groups=weight.shape[0])

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, grad: Tensor):
        """Gradients of what is asked for, those of weight and bias in float32."""
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        wanted = ctx.needs_input_grad
        return (
            _of_input(grad, x, weight, ctx.stride, ctx.padding) if wanted[0] else None,
            _of_weight(grad, x, weight, ctx.stride, ctx.padding) if wanted[1] else None,
            grad.sum((0, 2, 3), dtype=torch.float32) if wanted[2] else None,
            None,
            None,
        )


def _of_input(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """A convolution of the gradient, spread over the places that a stride left out, with the kernel turned round."""
    kernel = weight.shape[-1]
    if stride > 1:
        sides = (side + 2 * padding - kernel + 1 for side in x.shape[2:])
        spread = torch.zeros(*grad.shape[:2], *sides, dtype=grad.dtype).to(memory_format=torch.channels_last)
        spread[:, :, ::stride, ::stride] = grad
        grad = spread
    return F.conv2d(grad, weight.flip(2, 3), padding=kernel - 1 - padding, groups=weight.shape[0])


def _of_weight(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """3x3 kernels are fast in bfloat16; one of 5x5 is taken as four of them, or in float32 where there is a stride."""
    if weight.shape[-1] <= 3:
        return _plain(grad, x, weight, stride, padding, (False, True, False))[1].float()
    if weight.shape[-1] != 5 or stride > 1:
        return _plain(grad.float(), x.float(), weight.float(), stride, padding, (False, True, False))[1]
    height, width = grad.shape[2] + 2, grad.shape[3] + 2
    x, corner = F.pad(x, (padding,) * 4), weight[:, :, :3, :3]
    whole = torch.empty_like(weight, dtype=torch.float32)
    for i in (0, 2):
        for j in (0, 2):
            part = x[:, :, i : i + height, j : j + width].contiguous(memory_format=torch.channels_last)
            whole[:, :, i : i + 3, j : j + 3] = _plain(grad, part, corner, 1, 0, (False, True, False))[1]
    return whole


def _plain(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, wanted: tuple[bool, bool, bool]):
    """PyTorch's own gradients of input, weight and bias."""
    steps, edge = (stride, stride), (padding, padding)
    return _gradients(grad, x, weight, None, steps, edge, (1, 1), False, (0, 0), weight.shape[0], wanted)
