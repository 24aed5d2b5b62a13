"""EfficientNet's convolutions, made faster to train without changing what they compute.

Frozen batch normalisation is folded into the convolution before it, with the activation after it where no gradient is
wanted, and the gradients of depthwise convolutions are taken on the CPU in ways that were faster than PyTorch's own on
a machine with AVX-512 and bfloat16.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame, get_same_padding, pad_same
from torch import Tensor, nn

_gradients = torch.ops.aten.convolution_backward
#: Of each convolution: what was folded, in which state (see `_folded_once`), and the bfloat16 weight and bias.
_FOLDED: weakref.WeakKeyDictionary[nn.Module, tuple] = weakref.WeakKeyDictionary()


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
    if norm.training:
        return _plain_or_depthwise(conv, x, conv.weight, None)
    if _can_be_one(conv, norm, x):
        weight, bias = _folded_once(conv, norm)
        kernel, edge = _evened(weight, *_edges(conv, x))
        clip = ("hardtanh", [0.0, 6.0], "") if isinstance(norm.act, nn.ReLU6) else ("none", [], "")
        steps = (edge, conv.stride, conv.dilation, conv.groups)
        return torch.ops.mkldnn._convolution_pointwise(x.to(torch.bfloat16), kernel, bias, *steps, *clip)
    return norm.act(norm.drop(_plain_or_depthwise(conv, x, *_folded(conv, norm))))


def _folded(conv: nn.Conv2d, norm: BatchNormAct2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution with the normalisation in them."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


def _folded_once(conv: nn.Conv2d, norm: BatchNormAct2d) -> tuple[Tensor, Tensor]:
    """`_folded` in bfloat16, kept until one of what it is made of is replaced, or changed in place."""
    sources = [conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var]
    if any(source.is_inference() for source in sources):  # these do not count their changes
        return tuple(value.to(torch.bfloat16) for value in _folded(conv, norm))
    # data_ptr tells memory apart while it is held, which the detached tensors see to; they share the count of changes
    state = [(source.data_ptr(), source._version) for source in sources]
    if conv not in _FOLDED or _FOLDED[conv][1] != state:
        folded = [value.to(torch.bfloat16) for value in _folded(conv, norm)]
        _FOLDED[conv] = ([source.detach() for source in sources], state, *folded)
    return _FOLDED[conv][2:]


def _plain_or_depthwise(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    before, behind = _edges(conv, x)
    if _is_plain_depthwise(conv) and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return _Depthwise.apply(x, weight, bias, conv.stride[0], before, behind)
    if before != behind:
        x, behind = pad_same(x, conv.kernel_size, conv.stride, conv.dilation), (0, 0)
    return F.conv2d(x, weight, bias, conv.stride, behind, conv.dilation, conv.groups)


def _can_be_one(conv: nn.Conv2d, norm: BatchNormAct2d, x: Tensor) -> bool:
    """Whether oneDNN may clip within the convolution, to the same bits: on a CPU, in bfloat16, without gradients."""
    known = isinstance(norm.act, (nn.ReLU6, nn.Identity)) and isinstance(norm.drop, nn.Identity)
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    there = x.device.type == "cpu" and conv.dilation == (1, 1) and not torch.is_grad_enabled()
    return known and half and there and _has_pointwise()


@functools.cache
def _has_pointwise() -> bool:
    """Whether this build of torch and this processor have the convolution that TorchInductor clips within."""
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return there and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _edges(conv: nn.Conv2d, x: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of zeros before maps, and behind them; TensorFlow places an odd one behind."""
    if not isinstance(conv, Conv2dSame):
        return conv.padding, conv.padding
    totals = [get_same_padding(*each) for each in zip(x.shape[2:], conv.kernel_size, conv.stride, conv.dilation)]
    before = (totals[0] // 2, totals[1] // 2)
    return before, (totals[0] - before[0], totals[1] - before[1])


def _evened(weight: Tensor, before: Sequence[int], behind: Sequence[int]) -> tuple[Tensor, tuple[int, int]]:
    """A kernel for as many zeros before maps as behind them, so that no copy of the maps with a border is made.

    Where there is one more behind, a row of zeros is put in front of the kernel: the sums are the same to the bit.
    """
    return F.pad(weight, (behind[1] - before[1], 0, behind[0] - before[0], 0)), tuple(behind)


def _empty_maps(like: Tensor, height: int, width: int) -> Tensor:
    """Maps of another size, of the same number and kind, channels last and not filled."""
    N, C = like.shape[:2]
    return torch.empty_strided((N, C, height, width), (C * height * width, 1, C * width, C), dtype=like.dtype)


def _bordered(x: Tensor, before: Sequence[int], behind: Sequence[int]) -> Tensor:
    """Maps with zeros around them; only the border is filled, not all."""
    (top, left), (height, width) = before, x.shape[2:]
    out = _empty_maps(x, top + height + behind[0], left + width + behind[1])
    out[:, :, top : top + height, left : left + width] = x
    out[:, :, :top], out[:, :, top + height :] = 0, 0
    out[..., :left], out[..., left + width :] = 0, 0
    return out


def _is_plain_depthwise(conv: nn.Conv2d) -> bool:
    """Whether `_Depthwise` knows its kind: one kernel a channel, square in all, no holes, no step above 2."""
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1 and conv.dilation == (1, 1)
    square = all(one == other for one, other in (conv.kernel_size, conv.stride, conv.padding))
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    return depthwise and square and kernel in (3, 5, 7) and stride <= 2 and padding <= kernel // 2


def _normalise(norm: BatchNormAct2d, x: Tensor) -> Tensor:
    """Nothing is left of a normalisation that is folded: its convolution applies the activation at its end too."""
    return type(norm).forward(norm, x) if norm.training else x


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution in bfloat16. PyTorch's own gradients of it are many times slower than its forward pass."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, before: tuple, behind: tuple):
        """(N, C, H, W), (C, 1, k, k), (C,) -> (N, C, H', W') bfloat16; zeros as in `_edges`."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.before, ctx.behind = stride, before, behind
        kernel, edge = _evened(weight, before, behind)
        return F.conv2d(x, kernel, bias, stride, edge, groups=weight.shape[0])

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, grad: Tensor):
        """Gradients of what is asked for, those of weight and bias in float32."""
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        wanted = ctx.needs_input_grad
        return (
            _of_input(grad, weight, x.shape[2:], ctx.stride, ctx.before) if wanted[0] else None,
            _of_weight(grad, x, weight, ctx.stride, ctx.before, ctx.behind) if wanted[1] else None,
            grad.sum((0, 2, 3), dtype=torch.float32) if wanted[2] else None,
            None,
            None,
            None,
        )


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
    """3x3 kernels are fast in bfloat16; one of 5x5 is taken as four of them, or in float32 where there is a stride."""
    kernel, four = weight.shape[-1], weight.shape[-1] == 5 and stride == 1
    if four or before != behind:
        x, before = _bordered(x, before, behind), (0, 0)
    if four:
        return _of_5x5(grad, x, weight)
    if kernel <= 3:
        return _plain(grad, x, weight, stride, before).float()
    return _plain(grad.float(), x.float(), weight.float(), stride, before)


def _of_5x5(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The gradient of a 5x5 kernel, from its four corners of 3x3; x with its border."""
    height, width = grad.shape[2] + 2, grad.shape[3] + 2
    whole = torch.empty_like(weight, dtype=torch.float32)
    for i in (0, 2):
        for j in (0, 2):
            part = x[:, :, i : i + height, j : j + width].contiguous(memory_format=torch.channels_last)
            whole[:, :, i : i + 3, j : j + 3] = _plain(grad, part, weight[:, :, :3, :3], 1, (0, 0))
    return whole


def _plain(grad: Tensor, x: Tensor, weight: Tensor, stride: int, edge: Sequence[int]) -> Tensor:
    """PyTorch's own gradient of the weight."""
    steps, of_weight = (stride, stride), (False, True, False)
    return _gradients(grad, x, weight, None, steps, edge, (1, 1), False, (0, 0), weight.shape[0], of_weight)[1]
