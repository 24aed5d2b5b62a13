"""Faster convolutions for timm's EfficientNets, with the same outputs and gradients up to rounding.

Frozen BatchNorm is folded into the convolution before it. On a CPU, ReLU6 is fused into the convolution too, uneven
padding copies no feature maps in the forward pass, and gradients of depthwise convolutions avoid PyTorch's slow paths.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame, get_same_padding, pad_same
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..common.devices import computes_in_bfloat16


def speed_up(network: nn.Module) -> int:
    """Speed up every convolution of a timm EfficientNet, in place, that is directly followed by a BatchNorm.

    Returns the number of such pairs. BatchNorm in training mode is not folded. Parameters and their names do not
    change; outputs and first-order gradients change by rounding only, but NaN activations may be clipped to numbers.
    Do not replace one layer of a pair afterwards.
    """
    pairs = 0
    for parent in network.modules():
        children = list(parent.children())
        for conv, norm in zip(children, children[1:]):  # timm's blocks register layers in the order of their use
            foldable = isinstance(norm, BatchNormAct2d) and norm.affine and norm.track_running_stats
            if foldable and type(conv) in (nn.Conv2d, Conv2dSame) and conv.bias is None:
                conv.forward = functools.partial(_convolve, conv, norm)
                norm.forward = functools.partial(_normalise, norm)
                pairs += 1
    return pairs


def _convolve(conv: nn.Conv2d, norm: BatchNormAct2d, x: Tensor) -> Tensor:
    """Convolve; also normalise and activate if the normalisation is in evaluation mode."""
    frozen = not norm.training
    weight, bias = _fold(conv, norm) if frozen else (conv.weight, None)
    clip = frozen and isinstance(norm.act, nn.ReLU6) and isinstance(norm.drop, nn.Identity)
    if conv.dilation == (1, 1) and _is_supported(x):
        out = _Convolution.apply(x, weight, bias, conv, clip)
    else:
        out, clip = _plain(x, weight, bias, conv), False
    return norm.act(norm.drop(out)) if frozen and not clip else out


def _normalise(norm: BatchNormAct2d, x: Tensor) -> Tensor:
    return type(norm).forward(norm, x) if norm.training else x


def _fold(conv: nn.Conv2d, norm: BatchNormAct2d) -> tuple[Tensor, Tensor]:
    """Weight and bias with the normalisation folded in.

    They are not cached, because fused optimisers change weights without increasing their version counter.
    """
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight, bias = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    return weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)


def _is_supported(x: Tensor) -> bool:
    """Whether x is convolved on a CPU in float32, or in bfloat16 by autocast."""
    if x.device.type != "cpu" or x.dtype == torch.float64:
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return x.dtype == torch.float32


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d) -> Tensor:
    """PyTorch's own convolution."""
    before, after = _padding(conv, x)
    if before != after:
        x, after = pad_same(x, conv.kernel_size, conv.stride, conv.dilation), (0, 0)
    return F.conv2d(x, weight, bias, conv.stride, after, conv.dilation, conv.groups)


@functools.cache
def _has_fused_clip(dtype: torch.dtype) -> bool:
    """Whether torch and this CPU have oneDNN's convolution with a fused activation, which TorchInductor uses too."""
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return available and (dtype == torch.float32 or computes_in_bfloat16("cpu"))


def _padding(conv: nn.Conv2d, x: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding (rows, columns) before and after the map; if "same" padding is odd, the extra row or column is after."""
    if not isinstance(conv, Conv2dSame):
        return conv.padding, conv.padding
    totals = [get_same_padding(*each) for each in zip(x.shape[2:], conv.kernel_size, conv.stride, conv.dilation)]
    before = (totals[0] // 2, totals[1] // 2)
    return before, (totals[0] - before[0], totals[1] - before[1])


def _even_kernel(weight: Tensor, before: Sequence[int], after: Sequence[int]) -> tuple[Tensor, tuple[int, int]]:
    """An equivalent kernel with symmetric padding: leading zeros in the kernel replace unequal padding."""
    if before != after:
        weight = F.pad(weight, (after[1] - before[1], 0, after[0] - before[0], 0))
    return weight, tuple(after)


def _even_maps(x: Tensor, before: tuple, after: tuple, always: bool = False) -> tuple[Tensor, tuple[int, int]]:
    """Maps with symmetric padding: unequal padding (or, if `always`, any padding) is added to the maps as zeros."""
    if before == after and not always:
        return x, before
    return F.pad(x, (before[1], after[1], before[0], after[0])), (0, 0)


def _is_simple_depthwise(conv: nn.Conv2d) -> bool:
    """Whether the depthwise gradients below support this convolution: square, not dilated, stride 1 or 2."""
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1 and conv.dilation == (1, 1)
    square = all(one == other for one, other in (conv.kernel_size, conv.stride, conv.padding))
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    return depthwise and square and kernel in (3, 5) and stride <= 2 and padding <= kernel // 2


class _Convolution(torch.autograd.Function):
    """Convolution in float32, or in bfloat16 under autocast, optionally clipped to [0, 6]."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d, clip: bool) -> Tensor:
        """(N, C, H, W), (C', C/groups, k, k), (C',) -> (N, C', H', W'); `conv` gives stride, padding and groups."""
        ctx.before, ctx.after = _padding(conv, x)
        kernel, padding = _even_kernel(weight, ctx.before, ctx.after)
        if clip and _has_fused_clip(x.dtype):
            options = (padding, conv.stride, (1, 1), conv.groups, "hardtanh", [0.0, 6.0], "")
            out = torch.ops.mkldnn._convolution_pointwise(x, kernel, bias, *options)
        else:
            out = F.conv2d(x, kernel, bias, conv.stride, padding, 1, conv.groups)
            out = out.clamp_(0, 6) if clip else out
        ctx.save_for_backward(x, weight, out if clip else None)
        ctx.conv = conv
        return out

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(ctx, grad: Tensor):
        """The required gradients of x, weight and bias."""
        x, weight, out = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        if out is not None:
            grad = torch.ops.aten.hardtanh_backward(grad, out, 0.0, 6.0)
        needs_input, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        half, depthwise = x.dtype == torch.bfloat16, _is_simple_depthwise(ctx.conv)
        of_input = of_weight = of_bias = None
        if needs_input:
            of_input = (_depthwise_input_gradient if half and depthwise else _input_gradient)(ctx, grad, x, weight)
        if needs_bias and (depthwise or not half):  # faster than the sum in PyTorch's convolution
            of_bias, needs_bias = _bias_gradient(grad), False
        if needs_weight and depthwise:
            of_weight = _depthwise_weight_gradient(ctx, grad, x, weight)
        elif needs_weight or needs_bias:
            x, padding = _even_maps(x, ctx.before, ctx.after)
            _, of_weight, summed = _gradients(ctx, grad, x, weight, padding, (False, needs_weight, needs_bias))
            of_bias = summed if needs_bias else of_bias
        return of_input, of_weight, of_bias, None, None


def _gradients(ctx, grad: Tensor, x: Tensor, weight: Tensor, padding: tuple, wanted: tuple) -> tuple[Tensor, ...]:
    """PyTorch's gradients of x, weight and bias, of which `wanted` tells which to compute."""
    options = (ctx.conv.stride, padding, (1, 1), False, (0, 0), ctx.conv.groups)
    return torch.ops.aten.convolution_backward(grad, x, weight, [len(weight)], *options, wanted)


def _input_gradient(ctx, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    kernel, padding = _even_kernel(weight, ctx.before, ctx.after)
    return _gradients(ctx, grad, x, kernel, padding, (True, False, False))[0]


def _bias_gradient(grad: Tensor) -> Tensor:
    """(C',) float32 sums; in bfloat16 the sum of each map is rounded to bfloat16."""
    flat = grad.permute(0, 2, 3, 1).flatten(1, 2)
    if grad.dtype == torch.bfloat16:  # a matrix product with ones is several times faster than a sum
        flat = flat.new_ones(len(flat), 1, flat.shape[1]) @ flat
    return flat.flatten(0, 1).sum(0, dtype=torch.float32)


def _depthwise_input_gradient(ctx, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Convolve the gradient with the flipped kernel; with stride 2, once for each parity of row and column."""
    flipped, channels, sides = weight.flip(2, 3), weight.shape[0], x.shape[2:]
    reach = [weight.shape[-1] - 1 - padding for padding in ctx.before]
    if ctx.conv.stride[0] == 1:
        return F.conv2d(grad, flipped, padding=reach, groups=channels)
    found = torch.empty((len(grad), channels, *sides), dtype=grad.dtype, memory_format=torch.channels_last)
    for i in (0, 1):
        tap, padding, rows = _parity(i, reach[0], weight.shape[2], sides[0], grad.shape[2])
        for j in (0, 1):
            tap_j, padding_j, columns = _parity(j, reach[1], weight.shape[3], sides[1], grad.shape[3])
            if rows.start == rows.stop or columns.start == columns.stop:  # a map of one row has no odd row
                continue
            part = F.conv2d(grad, flipped[:, :, tap::2, tap_j::2], padding=(padding, padding_j), groups=channels)
            found[:, :, i::2, j::2] = part[:, :, rows, columns]
    return found


def _parity(odd: int, reach: int, taps: int, side: int, given: int) -> tuple[int, int, slice]:
    """How to compute the gradient at the even (`odd` = 0) or odd (`odd` = 1) positions of one axis, for stride 2.

    Only every second tap of the flipped kernel reaches these positions. Returns the index of the first such tap, the
    padding of the `given` output gradients, and the slice of the convolved result that holds these positions.
    """
    first = (reach - odd) % 2
    before = (reach - odd - first) // 2
    wanted = (side - odd + 1) // 2
    after = wanted + (taps - first + 1) // 2 - 1 - given - before
    padding = max(before, after)
    return first, padding, slice(padding - before, padding - before + wanted)


def _depthwise_weight_gradient(ctx, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient of a depthwise kernel, float32.

    PyTorch is fast for kernels with 3 columns, so a 5x5 kernel is computed as columns 0 to 2 and columns 2 to 4.
    """
    kernel, half, stride = weight.shape[-1], x.dtype == torch.bfloat16, ctx.conv.stride
    wanted = (False, True, False)
    if kernel == 5:
        height, width = (grad.shape[2] - 1) * stride[0] + 5, (grad.shape[3] - 1) * stride[0] + 3
        whole = torch.empty_like(weight, dtype=torch.float32)
        for j in (0, 2):
            top, left = ctx.before[0], ctx.before[1] - j  # negative padding cuts
            part = F.pad(x, (left, width - x.shape[3] - left, top, height - x.shape[2] - top))
            whole[..., j : j + 3] = _gradients(ctx, grad, part, weight[..., :3], (0, 0), wanted)[1]
        return whole
    narrow = min(x.shape[2:]) < kernel  # then oneDNN's own padding is slow in float32
    x, padding = _even_maps(x, ctx.before, ctx.after, always=narrow and not half)
    if half and min(x.shape[2:]) == 1:  # PyTorch's gradient of maps of one row is wrong in bfloat16
        grad, x, weight = grad.float(), x.float(), weight.float()
    return _gradients(ctx, grad, x, weight, padding, wanted)[1].float()
