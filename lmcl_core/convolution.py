"""EfficientNet's convolutions, made faster without changing what they compute.

Frozen batch normalisation is folded into the convolution before it. On a CPU the activation after it is too, and no
forward pass copies maps to give them borders of zeros. Gradients are taken in ways that were faster than PyTorch's own,
in bfloat16 on a machine with AVX-512, in float32 on one with AVX2.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame, get_same_padding, pad_same
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .devices import computes_in_bfloat16

_gradients = torch.ops.aten.convolution_backward


def speed_up(network: nn.Module) -> int:
    """Speed up every pair of a convolution and the batch normalisation that its block applies right after it.

    While a normalisation is in training mode it is not folded. Parameters and their names stay as they are, and so do
    outputs and first gradients, up to rounding, as long as pairs stay together: replace neither half of one.
    Activations that are not numbers may be clipped to numbers.

    Args:
        network: a timm EfficientNet, or parts of one; changed in place.

    Returns:
        Number of pairs.
    """
    pairs = 0
    for parent in network.modules():
        children = list(parent.children())
        for conv, norm in zip(children, children[1:]):  # timm's blocks register them in the order they apply them
            if type(conv) in (nn.Conv2d, Conv2dSame) and conv.bias is None and _can_be_folded(norm):
                conv.forward = functools.partial(_convolve, conv, norm)
                norm.forward = functools.partial(_normalise, norm)
                pairs += 1
    return pairs


def _can_be_folded(norm: nn.Module) -> bool:
    return isinstance(norm, BatchNormAct2d) and norm.affine and norm.track_running_stats


def _convolve(conv: nn.Conv2d, norm: BatchNormAct2d, x: Tensor) -> Tensor:
    """The convolution; where the normalisation is folded into it, with what follows that too."""
    weight, bias = (conv.weight, None) if norm.training else _folded(conv, norm)
    clip = isinstance(norm.act, nn.ReLU6) and isinstance(norm.drop, nn.Identity) and not norm.training
    if conv.dilation == (1, 1) and _runs_on_a_cpu(x):
        out = _Convolution.apply(x, weight, bias, conv, clip)
    else:
        out, clip = _plain(x, weight, bias, conv), False
    return out if norm.training or clip else norm.act(norm.drop(out))


def _normalise(norm: BatchNormAct2d, x: Tensor) -> Tensor:
    """Nothing is left of a normalisation that is folded: its convolution applies the activation at its end too."""
    return type(norm).forward(norm, x) if norm.training else x


def _folded(conv: nn.Conv2d, norm: BatchNormAct2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution with the normalisation in them.

    Nothing of it is kept: fused optimisers and live statistics change values without a trace.
    """
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight, bias = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    return weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)


def _runs_on_a_cpu(x: Tensor) -> bool:
    """Whether convolutions of it are taken on a CPU, by autocast in bfloat16, or else in float32."""
    if x.device.type != "cpu" or x.dtype == torch.float64:
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return x.dtype == torch.float32


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d) -> Tensor:
    """PyTorch's own convolution."""
    before, behind = _edges(conv, x)
    if before != behind:
        x, behind = pad_same(x, conv.kernel_size, conv.stride, conv.dilation), (0, 0)
    return F.conv2d(x, weight, bias, conv.stride, behind, conv.dilation, conv.groups)


@functools.cache
def _has_pointwise(dtype: torch.dtype) -> bool:
    """Whether this build of torch and this processor have the convolution that TorchInductor clips within."""
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return there and (dtype == torch.float32 or computes_in_bfloat16("cpu"))


def _edges(conv: nn.Conv2d, x: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of zeros before maps, and behind them; TensorFlow places an odd one behind."""
    if not isinstance(conv, Conv2dSame):
        return conv.padding, conv.padding
    totals = [get_same_padding(*each) for each in zip(x.shape[2:], conv.kernel_size, conv.stride, conv.dilation)]
    before = (totals[0] // 2, totals[1] // 2)
    return before, (totals[0] - before[0], totals[1] - before[1])


def _evened(weight: Tensor, before: Sequence[int], behind: Sequence[int]) -> tuple[Tensor, tuple[int, int]]:
    """A kernel for as many zeros before maps as behind them, so that no copy of the maps with a border is made.

    Where there is one more behind, a row of zeros is put in front of the kernel: sums of finite numbers stay the same
    to the bit.
    """
    if before != behind:
        weight = F.pad(weight, (behind[1] - before[1], 0, behind[0] - before[0], 0))
    return weight, tuple(behind)


def _empty_maps(like: Tensor, height: int, width: int) -> Tensor:
    """Maps of another size, of the same number and kind, channels last and not filled."""
    N, C = like.shape[:2]
    return torch.empty_strided((N, C, height, width), (C * height * width, 1, C * width, C), dtype=like.dtype)


def _window(x: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Part of maps, channels last; where it reaches beyond them there are zeros."""
    out, (rows, columns) = _empty_maps(x, height, width), x.shape[2:]
    up, down = max(0, -top), min(height, rows - top)
    first, last = max(0, -left), min(width, columns - left)
    out[:, :, up:down, first:last] = x[:, :, top + up : top + down, left + first : left + last]
    out[:, :, :up], out[:, :, down:], out[..., :first], out[..., last:] = 0, 0, 0, 0
    return out


def _bordered(x: Tensor, before: Sequence[int], behind: Sequence[int]) -> Tensor:
    """Maps with zeros around them."""
    height, width = (before[n] + x.shape[2 + n] + behind[n] for n in (0, 1))
    return _window(x, -before[0], -before[1], height, width)


def _is_plain_depthwise(conv: nn.Conv2d) -> bool:
    """Whether `_of_depthwise` knows its kind: one kernel a channel, square in all, no holes, no step above 2."""
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1 and conv.dilation == (1, 1)
    square = all(one == other for one, other in (conv.kernel_size, conv.stride, conv.padding))
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    return depthwise and square and kernel in (3, 5, 7) and stride <= 2 and padding <= kernel // 2


class _Convolution(torch.autograd.Function):
    """Convolution in float32, or within autocast in bfloat16, that may clip what comes of it to 0..6, of which it keeps
    no other copy.

    Of depthwise ones the gradients of weights, and in bfloat16 of inputs too, are our own: PyTorch's are many times
    slower than its forward pass.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d, clip: bool) -> Tensor:
        """(N, C, H, W), (C', C/groups, k, k), (C',) -> (N, C', H', W'); `conv` tells how."""
        ctx.before, ctx.behind = _edges(conv, x)
        kernel, edge = _evened(weight, ctx.before, ctx.behind)
        if clip and _has_pointwise(x.dtype):
            steps = (edge, conv.stride, (1, 1), conv.groups, "hardtanh", [0.0, 6.0], "")
            out = torch.ops.mkldnn._convolution_pointwise(x, kernel, bias, *steps)
        else:
            out = F.conv2d(x, kernel, bias, conv.stride, edge, 1, conv.groups)
            out = out.clamp_(0, 6) if clip else out
        ctx.save_for_backward(x, weight, out if clip else None)
        ctx.conv = conv
        return out

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(ctx, grad: Tensor):
        """Gradients of what is asked for."""
        x, weight, out = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        if out is not None:
            grad = torch.ops.aten.hardtanh_backward(grad, out, 0.0, 6.0)
        gradients = _of_depthwise if _is_plain_depthwise(ctx.conv) else _of_any
        return *gradients(grad, x, weight, ctx.conv, ctx.before, ctx.behind, ctx.needs_input_grad[:3]), None, None


def _of_any(grad: Tensor, x: Tensor, weight: Tensor, conv: nn.Conv2d, before: tuple, behind: tuple, wanted: tuple):
    """PyTorch's own gradients of input, weight and bias; in float32 the bias is summed apart, which is faster."""
    of_input = _of_any_input(grad, x, weight, conv, before, behind) if wanted[0] else None
    of_weight, of_bias = None, _of_bias(grad) if wanted[2] and x.dtype == torch.float32 else None
    wanted = (False, wanted[1], wanted[2] and of_bias is None)
    if any(wanted):
        x, edge = (x, behind) if before == behind else (_bordered(x, before, behind), (0, 0))
        steps = (conv.stride, edge, (1, 1), False, (0, 0), conv.groups)
        _, of_weight, summed = _gradients(grad, x, weight, [len(weight)], *steps, wanted)
        of_bias = summed if wanted[2] else of_bias
    return of_input, of_weight, of_bias


def _of_any_input(grad: Tensor, x: Tensor, weight: Tensor, conv: nn.Conv2d, before: tuple, behind: tuple) -> Tensor:
    """PyTorch's own gradient of the input."""
    kernel, edge = _evened(weight, before, behind)
    steps = (conv.stride, edge, (1, 1), False, (0, 0), conv.groups)
    return _gradients(grad, x, kernel, None, *steps, (True, False, False))[0]


def _of_bias(grad: Tensor) -> Tensor:
    """Sums over maps, (C',) float32; in bfloat16 those of each map are rounded to it."""
    flat = grad.permute(0, 2, 3, 1).flatten(1, 2)
    if grad.dtype == torch.bfloat16:  # a product with ones is several times faster than a sum
        flat = flat.new_ones(len(flat), 1, flat.shape[1]) @ flat
    return flat.flatten(0, 1).sum(0, dtype=torch.float32)


def _of_depthwise(
    grad: Tensor, x: Tensor, weight: Tensor, conv: nn.Conv2d, before: tuple, behind: tuple, wanted: tuple
):
    """Gradients of input, weight and bias, those of weight and bias in float32."""
    of_input, stride = None, conv.stride[0]
    if wanted[0] and x.dtype == torch.bfloat16:
        of_input = _of_input(grad, weight, x.shape[2:], stride, before)
    elif wanted[0]:
        of_input = _of_any_input(grad, x, weight, conv, before, behind)
    of_weight = _of_weight(grad, x, weight, stride, before, behind) if wanted[1] else None
    return of_input, of_weight, _of_bias(grad) if wanted[2] else None


def _of_input(grad: Tensor, weight: Tensor, sides: Sequence[int], stride: int, before: Sequence[int]) -> Tensor:
    """Convolutions of the gradient with the kernel turned round; a step of 2 makes four of them, of every other tap,
    one for each kind of place: even or odd row, even or odd column."""
    turned, channels = weight.flip(2, 3), weight.shape[0]
    reach = [weight.shape[-1] - 1 - edge for edge in before]
    if stride == 1:
        return F.conv2d(grad, turned, padding=reach, groups=channels)
    found = _empty_maps(grad, *sides)
    for i in (0, 1):
        tap, edge, rows = _phase(i, reach[0], weight.shape[2], sides[0], grad.shape[2])
        for j in (0, 1):
            tap_j, edge_j, columns = _phase(j, reach[1], weight.shape[3], sides[1], grad.shape[3])
            if rows.start == rows.stop or columns.start == columns.stop:  # maps of one row have no odd one
                continue
            part = F.conv2d(grad, turned[:, :, tap::2, tap_j::2], padding=(edge, edge_j), groups=channels)
            found[:, :, i::2, j::2] = part[:, :, rows, columns]
    return found


def _phase(odd: int, reach: int, taps: int, side: int, given: int) -> tuple[int, int, slice]:
    """Along one axis, for the even (0) or odd (1) places: the first of every other tap that meets them, the zeros at
    both ends of the `given` gradients, and which of the results are theirs."""
    first = (reach - odd) % 2
    before = (reach - odd - first) // 2
    wanted = (side - odd + 1) // 2
    behind = wanted + (taps - first + 1) // 2 - 1 - given - before
    edge = max(before, behind)
    return first, edge, slice(edge - before, edge - before + wanted)


def _of_weight(grad: Tensor, x: Tensor, weight: Tensor, stride: int, before: tuple, behind: tuple) -> Tensor:
    """Kernels of three columns are fast, so that one of 5x5 is taken in such parts.

    In bfloat16 larger ones are raised to float32. On maps that are narrower than the kernel, oneDNN's own borders are
    slow in float32.
    """
    kernel, half = weight.shape[-1], x.dtype == torch.bfloat16
    if kernel == 5:
        return _of_5x5(grad, x, weight, stride, before)
    if before != behind or (not half and min(x.shape[2:]) < kernel):
        x, before = _bordered(x, before, behind), (0, 0)
    if half and (kernel == 7 or min(x.shape[2:]) == 1):  # of one row, PyTorch's in bfloat16 is wrong
        grad, x, weight = grad.float(), x.float(), weight.float()
    return _of_kernel(grad, x, weight, stride, before).float()


def _of_5x5(grad: Tensor, x: Tensor, weight: Tensor, stride: int, before: tuple) -> Tensor:
    """The gradient of a 5x5 kernel, from two parts of three columns; both have the middle one."""
    height, width = (grad.shape[2] - 1) * stride + 5, (grad.shape[3] - 1) * stride + 3
    whole = torch.empty_like(weight, dtype=torch.float32)
    for j in (0, 2):
        part = _window(x, -before[0], j - before[1], height, width)
        whole[..., j : j + 3] = _of_kernel(grad, part, weight[..., :3], stride, (0, 0))
    return whole


def _of_kernel(grad: Tensor, x: Tensor, weight: Tensor, stride: int, edge: Sequence[int]) -> Tensor:
    """PyTorch's own gradient of the weight."""
    steps, of_weight = (stride, stride), (False, True, False)
    return _gradients(grad, x, weight, None, steps, edge, (1, 1), False, (0, 0), weight.shape[0], of_weight)[1]
