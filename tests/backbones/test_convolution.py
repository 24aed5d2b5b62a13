"""Faster convolutions have the outputs and gradients of the plain ones."""

from __future__ import annotations

import copy
import itertools
from functools import partial

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, create_conv2d
from torch import nn

from lmcl_core.backbones import convolution
from lmcl_core.backbones.convolution import _Convolution, speed_up
from lmcl_core.common.devices import computes_in_bfloat16

LITE0 = "tf_efficientnet_lite0"
PADDINGS, BOTH = ("same", ""), (False, True)


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def with_statistics(network):
    """Set statistics, scales and shifts unlike those of a fresh network."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for value in (module.weight, module.running_var):
                    value.copy_(0.5 + torch.rand(value.shape, generator=generator))
                for value in (module.bias, module.running_mean):
                    value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return network.eval()


def plain_and_fast(network):
    fast = copy.deepcopy(network)
    assert speed_up(fast) >= 1
    return network, fast


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(kernel, stride, padding="same", channels=8, **options):
    """A depthwise convolution with its normalisation, plain and fast."""
    make = lambda: nn.Sequential(  # noqa: E731
        create_conv2d(channels, channels, kernel, stride=stride, padding=padding, depthwise=True, **options),
        BatchNormAct2d(channels, apply_act=False),  # an activation would decide by rounding what passes
    )
    return plain_and_fast(with_statistics(seeded(make)).to(memory_format=torch.channels_last))


def backbone(name=LITE0):
    return with_statistics(seeded(lambda: timm.create_model(name, num_classes=0)))


def gradients(network, x, half):
    """Output, then gradients of input and parameters."""
    network.zero_grad()
    x = x.clone().to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = network(x)
    out.float().mul(noise(*out.shape, seed=9)).sum().backward()
    return [out.detach().float(), x.grad, *(parameter.grad.clone() for parameter in network.parameters())]


def assert_near(found, exact, limit):
    for got, wanted in zip(found, exact, strict=True):
        assert got.shape == wanted.shape and got.dtype == torch.float32
        assert (got - wanted).norm() <= limit * wanted.norm()


def score(network, x):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return network(x)


def convolution_of(groups, kernel, stride, padding):
    return seeded(lambda: create_conv2d(4, 4, kernel, stride=stride, padding=padding, groups=groups, bias=True))


def outputs_and_gradients(inputs, conv, clip, counted=None):
    """Of the plain convolution; with `counted`, of the fast one. Outputs near the limits of clipping do not count."""
    inputs = [value.clone().requires_grad_() for value in inputs]
    fast = counted is not None
    out = (_Convolution.apply(*inputs, conv, clip) if fast else convolution._plain(*inputs, conv)).float()
    if not fast:
        counted = ((out > 0.02) & (out < 5.9) if clip else torch.ones_like(out)).float().detach()
        out = out.clamp(0, 6) if clip else out
    (out * counted).sum().backward()
    return [out, *(value.grad for value in inputs)], counted


@pytest.mark.parametrize("half", BOTH)
def test_outputs_and_gradients_are_exact_up_to_rounding(half):
    for kernel, stride in [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (7, 2)]:
        for groups, padding, side, clip in itertools.product((1, 2, 4), PADDINGS, (2, 8, 9), BOTH):
            if half and side < kernel:  # such maps hardly occur, and their errors are relative to sums of few numbers
                continue
            conv = convolution_of(groups, kernel, stride, padding)
            inputs = noise(2, 4, side, side + 1), 0.5 * noise(*conv.weight.shape, seed=1), noise(4, seed=2)
            inputs = [value.bfloat16().float() for value in inputs]  # so that autocast rounds nothing
            plain, counted = outputs_and_gradients(inputs, conv, clip)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                fast, _ = outputs_and_gradients(inputs, conv, clip, counted)
            if half and not computes_in_bfloat16("cpu"):  # emulated bfloat16 also accumulates in bfloat16
                assert_near(fast, plain, 0.02)
            else:
                rtol, atol = (0.01, 0.03) if half else (1e-5, 1e-4)
                torch.testing.assert_close(fast, plain, rtol=rtol, atol=atol)


def test_values_at_the_limits_of_clipping_get_no_gradient():
    for half in BOTH:
        for groups in [1, 4]:
            conv = convolution_of(groups, 1, 1, "")
            x = torch.tensor([-1.0, 0.0, 1.0, 6.0, 7.0]).view(1, 1, 1, 5).repeat(1, 4, 1, 1).requires_grad_()
            weight = torch.ones(4, 1, 1, 1) if groups == 4 else torch.eye(4)[:, :, None, None]
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                _Convolution.apply(x, weight, None, conv, True).float().sum().backward()
            assert x.grad[0, 0, 0].tolist() == [0, 0, 1, 0, 0]


def test_batchnorm_in_training_mode_is_not_folded_and_keeps_updating():
    for kernel, stride in [(3, 1), (5, 2)]:
        plain, fast = pair(kernel, stride)
        x = noise(4, 8, 10, 10)
        assert torch.equal(plain.train()(x), fast.train()(x))
        assert torch.equal(plain[1].running_mean, fast[1].running_mean)
        assert not torch.equal(fast.eval()(x), fast.train()(x))
        assert_near(gradients(fast, x, half=True), gradients(plain, x, half=False), 0.03)


@pytest.fixture(scope="module")
def backbones():
    return plain_and_fast(backbone())


def test_a_backbone_has_the_same_output_in_float32_and_nearly_the_same_in_bfloat16(backbones):
    x = noise(2, 3, 96, 96)
    with torch.no_grad():
        exact, fast = (network.forward_features(x) for network in backbones)
        torch.testing.assert_close(fast, exact, rtol=1e-3, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            errors = [(network.forward_features(x) - exact).norm() / exact.norm() for network in backbones]
    assert errors[1] < 1.2 * errors[0] < 0.2


def test_every_batchnorm_of_the_default_backbone_is_folded_and_parameters_keep_their_names(backbones):
    plain, fast = backbones
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert speed_up(copy.deepcopy(plain)) == norms > 40
    assert list(plain.state_dict()) == list(fast.state_dict())
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in fast.named_parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fusing_the_activation_changes_nothing_but_the_order_of_float32_sums(backbones, monkeypatch, dtype):
    if not convolution._has_fused_clip(dtype):
        pytest.skip("this CPU or build of torch has no convolution with a fused activation")
    x = noise(2, 3, 96, 96).to(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        fused = backbones[1].forward_features(x)
        monkeypatch.setattr(convolution, "_has_fused_clip", lambda dtype: False)
        separate = backbones[1].forward_features(x)
    torch.testing.assert_close(fused, separate, rtol=0, atol=0 if dtype == torch.bfloat16 else 1e-4)


def test_a_backbone_has_the_gradients_of_the_plain_one_on_small_crops():
    """Down to maps of one row, which a stride of 2 meets once."""
    plain, fast = plain_and_fast(backbone())
    for side in (8, 17, 33):
        norms = []
        for network, half in ((plain, False), (fast, True)):
            norms.append(torch.stack([g.norm() for g in gradients(network, noise(2, 3, side, side), half)[2:]]))
        wanted, found = norms
        assert found.isfinite().all() and (found - wanted).abs().median() <= 0.2 * wanted.median()
        assert (found <= 10 * wanted + 0.05 * wanted.max()).all()


def test_networks_of_other_dtypes_run_as_plain_ones_do():
    for dtype in [torch.float64, torch.bfloat16]:
        plain, fast = (network.to(dtype) for network in pair(3, 2))
        x = noise(2, 8, 10, 10).to(dtype)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), plain(x), rtol=0.05, atol=0.1)
        torch.testing.assert_close(score(fast, x), score(plain, x), rtol=0.05, atol=0.1)


def test_kinds_of_convolution_without_their_own_gradients_are_right():
    for half, limit in [(False, 1e-5), (True, 0.03)]:
        for options in [
            dict(dilation=2),
            dict(padding=2),
            dict(padding=(2, 1)),
            dict(stride=3, padding=1),
            dict(stride=(1, 2)),
        ]:
            conv = seeded(partial(nn.Conv2d, 6, 6, 3, groups=6, bias=False, **options))
            plain, fast = plain_and_fast(with_statistics(nn.Sequential(conv, BatchNormAct2d(6, apply_act=False))))
            x = noise(4, 6, 11, 12)
            assert_near(gradients(fast, x, half), gradients(plain, x, half=False), limit)


def test_a_change_of_weights_or_statistics_takes_effect_at_once_and_a_copy_has_its_own():
    _, network = pair(3, 2)
    x = noise(2, 8, 10, 10)
    before, twin = score(network, x), copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.5, fused=True)  # it increases no version counter
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    stepped = score(network, x)
    torch._foreach_lerp_([network[1].running_var], [torch.ones(8)], 0.5)
    assert (stepped - before).abs().max() > 0.1 and (score(network, x) - stepped).abs().max() > 0.1
    assert torch.equal(score(twin, x), before)


def test_layers_that_cannot_be_folded_stay_as_they_are():
    conv = seeded(lambda: nn.Conv2d(6, 6, 3, bias=False))
    for layers in [
        (seeded(lambda: nn.Conv2d(6, 6, 1)), BatchNormAct2d(6), conv, nn.ReLU()),
        (conv, BatchNormAct2d(6, affine=False)),
        (conv, BatchNormAct2d(6, track_running_stats=False)),
        (conv, nn.BatchNorm2d(6)),
    ]:
        assert speed_up(nn.Sequential(*layers)) == 0
    norm = BatchNormAct2d(6, act_layer=nn.ReLU6, drop_layer=lambda: nn.Hardtanh(0, 0.5))
    _, fast = plain_and_fast(nn.Sequential(conv, norm).eval())  # a layer between normalisation and activation
    assert score(fast, 4 * noise(2, 6, 9, 9)).max() <= 0.5
