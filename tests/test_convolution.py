"""Faster convolutions compute what the plain ones do, forwards and backwards."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, create_conv2d, pad_same
from torch import nn

from lmcl_core import convolution
from lmcl_core.convolution import _Depthwise, speed_up
from lmcl_core.freezing import freeze_batchnorm

LITE0 = "tf_efficientnet_lite0"


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def with_statistics(network):
    """Statistics, scales and shifts unlike those of a fresh network."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for value in (module.weight, module.running_var):
                    value.copy_(0.5 + torch.rand(value.shape, generator=generator))
                for value in (module.bias, module.running_mean):
                    value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return network


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(kernel, stride, padding="same", channels=8):
    """A depthwise convolution with its normalisation, plain and faster."""
    plain = seeded(
        lambda: nn.Sequential(
            create_conv2d(channels, channels, kernel, stride=stride, padding=padding, depthwise=True),
            BatchNormAct2d(channels, apply_act=False),  # else a rounding decides what passes
        )
    )
    plain = with_statistics(plain).to(memory_format=torch.channels_last)
    faster = copy.deepcopy(plain)
    assert speed_up(faster) == 1
    return plain, faster


def gradients(network, x, half):
    x = x.clone().to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = network(x)
    out.float().mul(noise(*out.shape, seed=9)).sum().backward()
    return [out.detach().float(), x.grad, *(parameter.grad for parameter in network.parameters())]


@pytest.mark.parametrize("side", [14, 15])
@pytest.mark.parametrize("padding", ["same", ""])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_depthwise_outputs_and_gradients_are_those_of_the_plain_pair(kernel, stride, padding, side):
    plain, faster = pair(kernel, stride, padding)
    for network in (plain, faster):
        freeze_batchnorm(network.train())
    x = noise(4, 8, side, side)
    exact = gradients(plain, x, half=False)
    for half, limit in ((False, 1e-5), (True, 0.02)):
        for network in (plain, faster):
            network.zero_grad()
        for wanted, got in zip(exact, gradients(faster, x, half), strict=True):
            assert got.shape == wanted.shape and got.dtype == torch.float32
            assert (got - wanted).norm() <= limit * wanted.norm()


@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)])
def test_the_gradients_of_the_depthwise_function_are_exact_up_to_bfloat16(kernel, stride):
    x, weight, bias = noise(2, 4, 9, 9), noise(4, 1, kernel, kernel, seed=1), noise(4, seed=2)
    x, weight = x.bfloat16().float(), weight.bfloat16().float()  # what the function rounds to
    results = []
    for call in (
        lambda *a: nn.functional.conv2d(*a, stride, kernel // 2, groups=4),
        lambda *a: _Depthwise.apply(*a, stride, kernel // 2),
    ):
        inputs = [value.clone().requires_grad_() for value in (x, weight, bias)]
        with torch.autocast("cpu", torch.bfloat16, enabled=len(results) == 1):
            out = call(*inputs)
        out.float().sum().backward()  # a gradient of ones is the same in bfloat16
        results.append([value.grad for value in inputs])
    for wanted, got in zip(*results):
        torch.testing.assert_close(got, wanted, rtol=0.01, atol=0.02)


def test_only_what_is_asked_for_is_computed(monkeypatch):
    monkeypatch.setattr(convolution, "_of_input", None)
    weight = noise(4, 1, 5, 5).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        _Depthwise.apply(noise(1, 4, 8, 8), weight, None, 1, 2).float().sum().backward()
    assert weight.grad.shape == (4, 1, 5, 5)


@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_a_live_normalisation_is_not_folded_and_its_gradients_are_right_too(kernel, stride):
    plain, faster = pair(kernel, stride)
    x = noise(4, 8, 10, 10)
    exact = gradients(plain.train(), x, half=False)
    for wanted, got in zip(exact, gradients(faster.train(), x, half=True), strict=True):
        assert (got - wanted).norm() <= 0.03 * wanted.norm()


def test_a_live_normalisation_keeps_counting():
    plain, faster = pair(5, 1)
    x = noise(4, 8, 10, 10)
    assert torch.equal(plain.train()(x), faster.train()(x))
    assert torch.equal(plain[1].running_mean, faster[1].running_mean)
    assert not torch.equal(faster.eval()(x), faster.train()(x))


@pytest.fixture(scope="module")
def backbones():
    plain = with_statistics(seeded(lambda: timm.create_model(LITE0, num_classes=0)))
    faster = copy.deepcopy(plain)
    assert speed_up(faster) == sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules()) > 40
    return plain.eval(), faster.eval()


def test_a_whole_backbone_says_the_same_in_float32_and_nearly_so_in_bfloat16(backbones):
    plain, faster = backbones
    x = noise(2, 3, 96, 96)
    with torch.no_grad():
        exact = plain.forward_features(x)
        torch.testing.assert_close(faster.forward_features(x), exact, rtol=1e-3, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            errors = [(network.forward_features(x) - exact).norm() / exact.norm() for network in (plain, faster)]
    assert errors[1] < 1.2 * errors[0] < 0.2


@pytest.mark.skipif(not convolution._has_pointwise(), reason="this processor or build of torch lacks the convolution")
def test_clipping_within_the_convolution_changes_no_bit(backbones, monkeypatch):
    faster = backbones[1]
    x = noise(2, 3, 96, 96).to(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        clipped = faster.forward_features(x)
        monkeypatch.setattr(convolution, "_has_pointwise", lambda: False)
        assert torch.equal(clipped, faster.forward_features(x))


def test_names_and_parameters_stay_as_they_were(backbones):
    plain, faster = backbones
    assert list(plain.state_dict()) == list(faster.state_dict())
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in faster.named_parameters()]


def test_a_copy_runs_its_own_weights_and_statistics():
    _, network = pair(3, 1)
    network.eval()
    x = noise(2, 8, 10, 10)
    with torch.no_grad():
        before = network(x)
        twin = copy.deepcopy(network)
        assert torch.equal(twin(x), before)
        network[0].weight.zero_(), network[1].running_mean.add_(1)
        assert torch.equal(twin(x), before) and not torch.equal(network(x), before)


@pytest.mark.parametrize("options", [dict(dilation=2), dict(padding=(2, 1)), dict(stride=(1, 2))])
def test_kinds_that_the_function_does_not_know_are_left_to_pytorch(options):
    conv = seeded(lambda: nn.Conv2d(6, 6, 3, groups=6, bias=False, **options))
    plain = with_statistics(nn.Sequential(conv, BatchNormAct2d(6, apply_act=False))).eval()
    faster = copy.deepcopy(plain)
    assert speed_up(faster) == 1
    x = noise(2, 6, 11, 11)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(faster(x), plain(x), rtol=0.02, atol=0.03)


@pytest.mark.parametrize("name", ["mixnet_s", "efficientnet_es", "efficientnet_b0", "mnasnet_050"])
def test_other_efficientnets_of_timm_say_the_same(name):
    """Mixed convolutions, squeeze and excitation, fused blocks: what is not a known pair stays as it is."""
    plain = with_statistics(seeded(lambda: timm.create_model(name, num_classes=0))).eval()
    faster = copy.deepcopy(plain)
    assert speed_up(faster) > 5
    x = noise(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(faster.forward_features(x), plain.forward_features(x), rtol=1e-2, atol=1e-3)


def test_convolutions_with_a_bias_of_their_own_and_without_a_normalisation_are_left_alone():
    network = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1, bias=False), nn.ReLU())
    )
    assert speed_up(network) == 0


@pytest.mark.parametrize("kernel, stride, side", [(3, 2, 12), (5, 2, 12), (5, 2, 13), (3, 1, 9), (3, 4, 5)])
def test_zeros_lie_where_timm_puts_them_with_and_without_gradients(kernel, stride, side):
    with torch.random.fork_rng(devices=[]):
        conv = create_conv2d(3, 4, kernel, stride=stride, padding="same")
    x = torch.randn(2, 3, side, side + 1, generator=torch.Generator().manual_seed(0))
    x = x.to(memory_format=torch.channels_last)
    wanted = pad_same(x, conv.kernel_size, conv.stride)
    assert torch.equal(convolution._pad_same(x, conv), wanted)
    with torch.no_grad():
        found = convolution._pad_same(x, conv)
    assert torch.equal(found, wanted) and found.is_contiguous(memory_format=torch.channels_last)
