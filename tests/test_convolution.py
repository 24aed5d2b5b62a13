"""Faster convolutions compute what the plain ones do, forwards and backwards."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, create_conv2d, pad_same
from torch import nn

from lmcl_core import convolution
from lmcl_core.convolution import _Convolution, speed_up
from lmcl_core.devices import computes_in_bfloat16
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


def convolution_of(groups, kernel, stride, padding, channels=4):
    return seeded(
        lambda: create_conv2d(channels, channels, kernel, stride=stride, padding=padding, groups=groups, bias=True)
    )


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("padding", ["same", ""])
@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (7, 2)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_outputs_and_gradients_are_exact_up_to_rounding(groups, kernel, stride, padding, side, clip, half):
    conv = convolution_of(groups, kernel, stride, padding)
    x, weight, bias = noise(2, 4, side, side + 1), 0.5 * noise(*conv.weight.shape, seed=1), noise(4, seed=2)
    x, weight, bias = (value.bfloat16().float() for value in (x, weight, bias))  # what the function rounds to
    results, counted = [], None
    for ours in (False, True):
        inputs = [value.clone().requires_grad_() for value in (x, weight, bias)]
        with torch.autocast("cpu", torch.bfloat16, enabled=ours and half):
            out = (_Convolution.apply(*inputs, conv, clip) if ours else convolution._plain(*inputs, conv)).float()
        if not ours:  # where rounding could decide what is clipped, nothing is counted
            counted = torch.where((out > 0.02) & (out < 5.9) | ~torch.tensor(clip), 1.0, 0.0).detach()
            out = out.clamp(0, 6) if clip else out
        (out * counted).sum().backward()
        results.append([out, *(value.grad for value in inputs)])
    for wanted, got in zip(*results):
        assert got.shape == wanted.shape and got.dtype == torch.float32
        if half and not computes_in_bfloat16("cpu"):  # PyTorch's imitation of it also adds up in bfloat16
            assert (got - wanted).norm() <= 0.02 * wanted.norm()
        else:
            rtol, atol = (0.01, 0.03) if half else (1e-5, 1e-4)
            torch.testing.assert_close(got, wanted, rtol=rtol, atol=atol)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
def test_what_lies_at_the_limits_of_clipping_gets_no_gradient(groups, half):
    conv = convolution_of(groups, 1, 1, "")
    x = torch.tensor([-1.0, 0.0, 1.0, 6.0, 7.0]).view(1, 1, 1, 5).repeat(1, 4, 1, 1).requires_grad_()
    weight = torch.ones(4, 1, 1, 1) if groups == 4 else torch.eye(4)[:, :, None, None]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        _Convolution.apply(x, weight, None, conv, True).float().sum().backward()
    assert x.grad[0, 0, 0].tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
def test_only_what_is_asked_for_is_computed(monkeypatch, groups, half):
    for name in ("_of_input", "_of_any_input", "_of_bias"):
        monkeypatch.setattr(convolution, name, None)
    conv = convolution_of(groups, 5, 1, "")
    weight = noise(*conv.weight.shape).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        _Convolution.apply(noise(1, 4, 8, 8), weight, None, conv, False).float().sum().backward()
    assert weight.grad.shape == (4, 4 // groups, 5, 5)


@pytest.mark.parametrize("side", [1, 2, 3, 6])
@pytest.mark.parametrize("padding", ["same", ""])
@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)])
def test_gradients_in_float32_are_exact_on_maps_smaller_than_the_kernel_too(kernel, stride, padding, side):
    conv, found = convolution_of(4, kernel, stride, padding), []
    for convolve in (convolution._plain, lambda x, w, b, conv: _Convolution.apply(x, w, b, conv, False)):
        inputs = [value.requires_grad_() for value in (noise(2, 4, side, 4), noise(4, 1, kernel, kernel), noise(4))]
        out = convolve(*inputs, conv)
        (out * noise(*out.shape, seed=9)).sum().backward()
        found.append([out, *(value.grad for value in inputs)])
    for wanted, got in zip(*found):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-4)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clipping_within_the_convolution_changes_nothing(backbones, monkeypatch, dtype):
    """No bit in bfloat16; in float32 oneDNN may add up in another order."""
    if not convolution._has_pointwise(dtype):
        pytest.skip("this processor or build of torch lacks the convolution")
    faster = backbones[1]
    x = noise(2, 3, 96, 96).to(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        clipped = faster.forward_features(x)
        monkeypatch.setattr(convolution, "_has_pointwise", lambda dtype: False)
        apart = faster.forward_features(x)
    torch.testing.assert_close(clipped, apart, rtol=0, atol=0 if dtype == torch.bfloat16 else 1e-4)


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


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("options", [dict(dilation=2), dict(padding=(2, 1)), dict(stride=(1, 2))])
def test_kinds_that_the_function_does_not_know_are_left_to_pytorch(options, half):
    conv = seeded(lambda: nn.Conv2d(6, 6, 3, groups=6, bias=False, **options))
    plain = with_statistics(nn.Sequential(conv, BatchNormAct2d(6, apply_act=False))).eval()
    faster = copy.deepcopy(plain)
    assert speed_up(faster) == 1
    x = noise(2, 6, 11, 11)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        rtol, atol = (0.02, 0.03) if half else (1e-4, 1e-5)
        torch.testing.assert_close(faster(x), plain(x), rtol=rtol, atol=atol)


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
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), BatchNormAct2d(3), nn.Conv2d(3, 3, 1, bias=False), nn.ReLU())
    )
    assert speed_up(network) == 0


@pytest.mark.parametrize("kernel, stride, side", [(3, 2, 12), (5, 2, 12), (5, 2, 13), (3, 1, 9), (3, 4, 5)])
@pytest.mark.parametrize("groups", [1, 4])
def test_zeros_lie_where_timm_puts_them(groups, kernel, stride, side):
    conv = convolution_of(groups, kernel, stride, "same")
    x = noise(2, 4, side, side + 1).to(memory_format=torch.channels_last)
    edges = convolution._edges(conv, x)
    assert torch.equal(convolution._bordered(x, *edges), pad_same(x, conv.kernel_size, conv.stride))
    found = []
    for call in (conv, lambda x: _Convolution.apply(x, conv.weight, conv.bias, conv, False)):
        given = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = call(given)
        out.float().sum().backward()
        found.append((out.float(), given.grad))
    for wanted, got in zip(*found):
        torch.testing.assert_close(got, wanted, rtol=0.02, atol=0.03)


def score(network, x):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return network(x)


def step_of_a_fused_optimiser(network):
    """It changes weights without counting the change, as no other one does."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.5, fused=True)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def live_statistics(network):
    network.train()
    score(network, 5 + noise(2, 8, 10, 10, seed=3))
    network.eval()


CHANGES = {
    "in place": lambda network: torch._foreach_lerp_([network[1].running_var], [torch.ones(8)], 0.5),
    "by hand": lambda network: network[1].bias.data.add_(1),
    "loaded": lambda network: network.load_state_dict({k: v + 1 for k, v in network.state_dict().items()}),
    "other memory": lambda network: setattr(network[0].weight, "data", 3 * network[0].weight.detach()),
    "fused": step_of_a_fused_optimiser,
    "live": live_statistics,
}


@pytest.mark.parametrize("changed", CHANGES)
def test_a_change_of_weights_or_statistics_is_seen_at_once(changed):
    _, network = pair(3, 2)
    network.eval()
    x = noise(2, 8, 10, 10)
    before = score(network, x)
    CHANGES[changed](network)
    after = score(network, x)
    assert torch.equal(after, score(copy.deepcopy(network), x)) and (after - before).abs().max() > 0.1


def test_a_backbone_on_small_crops_has_the_gradients_of_the_plain_one():
    """Down to maps of one row, of which a step of 2 meets no other."""
    for side in (8, 16, 17, 33):
        plain = with_statistics(seeded(lambda: timm.create_model(LITE0, num_classes=0))).eval()
        faster = copy.deepcopy(plain)
        speed_up(faster)
        results = []
        for network, half in ((plain, False), (faster, True)):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                out = network(noise(2, 3, side, side).to(memory_format=torch.channels_last))
            out.float().square().mean().backward()
            results.append([parameter.grad.norm() for parameter in network.parameters()])
        found, wanted = (torch.stack(norms) for norms in reversed(results))
        assert found.isfinite().all() and (found - wanted).abs().median() <= 0.2 * wanted.median()
        assert (found <= 10 * wanted + 0.01).all()


def test_weights_have_gradients_where_the_input_has_none():
    _, network = pair(5, 2)
    network.eval()
    with torch.autocast("cpu", torch.bfloat16):
        network(noise(2, 8, 9, 9)).float().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


@pytest.mark.parametrize("half", [False, True])
def test_second_gradients_are_refused(half):
    conv, x = convolution_of(4, 3, 1, ""), noise(1, 4, 8, 8).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = _Convolution.apply(x, conv.weight, None, conv, True)
    (grad,) = torch.autograd.grad(out.float().square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_other_types_run_as_plain_ones_do(dtype):
    plain, faster = (network.eval().to(dtype) for network in pair(3, 2))
    x = noise(2, 8, 10, 10).to(dtype)
    with torch.no_grad():
        torch.testing.assert_close(faster(x), plain(x), rtol=0.05, atol=0.1)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(faster(x), plain(x), rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    "norm", [BatchNormAct2d(6, affine=False), BatchNormAct2d(6, track_running_stats=False), nn.BatchNorm2d(6)]
)
def test_normalisations_that_cannot_be_folded_are_left_alone(norm):
    network = nn.Sequential(seeded(lambda: nn.Conv2d(6, 6, 3, bias=False)), norm)
    assert speed_up(network) == 0


@pytest.mark.parametrize("act", [nn.ReLU6, nn.SiLU])
def test_what_drops_between_normalisation_and_activation_still_does(act):
    network = nn.Sequential(
        seeded(lambda: nn.Conv2d(6, 6, 3, bias=False)),
        BatchNormAct2d(6, act_layer=act, drop_layer=lambda: nn.Hardtanh(0, 0.5)),
    ).eval()
    assert speed_up(network) == 1
    assert score(network, 4 * noise(2, 6, 9, 9)).max() <= 0.5


def test_holes_are_left_to_pytorch_where_padding_is_uneven_too():
    plain = seeded(
        lambda: nn.Sequential(
            create_conv2d(6, 6, 3, stride=2, dilation=2, padding="same", depthwise=True),
            BatchNormAct2d(6, apply_act=False),
        )
    )
    plain = with_statistics(plain).eval()
    faster = copy.deepcopy(plain)
    speed_up(faster)
    x = noise(2, 6, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(faster(x), plain(x))
    torch.testing.assert_close(score(faster, x), score(plain, x), rtol=0.02, atol=0.03)


@pytest.mark.parametrize("half, limit", [(False, 1e-5), (True, 0.03)])
@pytest.mark.parametrize(
    "options", [dict(padding=2), dict(padding=(1, 0)), dict(stride=3, padding=1), dict(stride=(1, 2))]
)
def test_gradients_of_kinds_without_a_way_of_their_own_are_right(options, half, limit):
    conv = seeded(lambda: nn.Conv2d(6, 6, 3, groups=6, bias=False, **options))
    plain = with_statistics(nn.Sequential(conv, BatchNormAct2d(6, apply_act=False))).eval()
    faster = copy.deepcopy(plain)
    speed_up(faster)
    x = noise(4, 6, 11, 12)
    for wanted, got in zip(gradients(plain, x, half=False), gradients(faster, x, half), strict=True):
        assert (got - wanted).norm() <= limit * wanted.norm()
