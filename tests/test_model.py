"""The model, where its weights come from, its teacher, and what is done for CPUs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, layer_norm

from lmcl_core import InputError, QualityModel, make_teacher, update_teacher
from lmcl_core.model import AttentionPool

LITE0 = "tf_efficientnet_lite0"


def quietly(make, *args, seed=0, **options):
    """Build something whose initial weights come from the global generator, and leave that generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(*args, **options)


def build(backbone=LITE0, pretrained=False, embedding_dim=8, crop_size=64, seed=0):
    return quietly(QualityModel, backbone, pretrained, embedding_dim, crop_size, seed=seed).eval()


def images(number=3, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, 3, size, size), generator=generator, dtype=torch.uint8)


def randomise(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in [*module.parameters(), *module.buffers()]:
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)


@pytest.fixture(scope="module")
def convolutional():
    return build()


@pytest.fixture(scope="module")
def transformer():
    return build("deit3_small_patch16_224")


@pytest.mark.parametrize("name, grid, channels", [("convolutional", 2, 1280), ("transformer", 4, 384)])
def test_the_output_keeps_its_contract(name, grid, channels, request):
    with torch.no_grad():
        out = request.getfixturevalue(name)(images())
    assert out.score.shape == (3,) and out.embedding.shape == (3, 8)
    assert out.saliency.shape == (3, grid, grid) and out.feature.shape == (3, channels)
    assert all(x.dtype == torch.float32 and torch.isfinite(x).all() for x in out)
    torch.testing.assert_close(out.embedding.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(out.saliency.sum((1, 2)), torch.ones(3))
    assert (out.saliency >= 0).all()
    model = request.getfixturevalue(name)
    with torch.no_grad():
        shared, alone = model(model.normalise(images()), normalised=True), model(images()[1:2])
    for a, b, c in zip(out, shared, alone):
        assert torch.equal(a, b)
        torch.testing.assert_close(a[1:2], c, atol=1e-5, rtol=1e-4)  # an image does not depend on its batch


@pytest.mark.parametrize("name", ["convolutional", "transformer"])
def test_the_output_keeps_its_contract_under_bfloat16_autocast(name, request):
    model = request.getfixturevalue(name)
    with torch.no_grad():
        plain = model(images())
        with torch.autocast("cpu", torch.bfloat16):
            out = model(images())
    assert all(x.dtype == torch.float32 for x in out)
    torch.testing.assert_close(out.saliency.sum((1, 2)), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.embedding.norm(dim=1), torch.ones(3))
    assert cosine_similarity(out.feature, plain.feature).min() > 0.98


@pytest.mark.parametrize("name", ["convolutional", "transformer"])
def test_without_training_of_the_backbone_only_pool_and_heads_take_gradients(name, request):
    model = copy.deepcopy(request.getfixturevalue(name))
    whole, cut = model(images()), model(images(), train_backbone=False)
    assert all(torch.equal(a, b) for a, b in zip(whole, cut))
    (whole.score.sum() + whole.embedding[:, 0].sum() + whole.saliency[:, 0, 0].sum()).backward()
    assert next(model.backbone.parameters()).grad.abs().max() > 0
    assert model.embedding_head[0].weight.grad.abs().max() > 0
    model.zero_grad()
    (cut.score.sum() + cut.saliency.square().sum()).backward()
    assert model.score_head.weight.grad.abs().sum() > 0
    assert all(value.grad is None for value in model.backbone.parameters())
    if name == "convolutional":
        assert model.pool.gate.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "name, mean, std",
    [
        ("convolutional", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("transformer", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_images_are_normalised_inside(name, mean, std, request):
    model, seen = request.getfixturevalue(name), []
    first = next(module for module in model.backbone.modules() if isinstance(module, nn.Conv2d))
    hook = first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(images())
    hook.remove()
    expected = (images() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=1e-5)


def pool_by_hand(tokens, gate):
    """Softmax of the standardised log energy plus the gate, straight from the docstring."""
    energy = tokens.square().mean(-1).log()
    logits = (energy - energy.mean(1, keepdim=True)) / energy.std(1, keepdim=True, correction=0)
    logits = logits + (layer_norm(tokens, (4,)) * gate).sum(-1)
    return logits.exp() / logits.exp().sum(1, keepdim=True)


@pytest.mark.parametrize("gate", [[[0.0] * 4], [[1.0, -2.0, 0.5, 3.0]]], ids=["fresh", "trained"])
def test_the_attention_pool_is_a_softmax_of_energy_and_gate(gate):
    pool, gate = quietly(AttentionPool, 4), torch.tensor(gate)
    tokens = 3 * torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    assert not pool.gate.weight.any()
    with torch.no_grad():
        pool.gate.weight.copy_(gate)
        pooled, weights = pool(tokens)
    torch.testing.assert_close(weights, pool_by_hand(tokens, gate))
    torch.testing.assert_close(pooled, (tokens * weights[..., None]).sum(1))


def test_the_saliency_of_a_convolutional_model_weighs_its_feature(convolutional):
    model = copy.deepcopy(convolutional)
    with torch.no_grad():
        model.pool.gate.weight.copy_(torch.randn(1, 1280, generator=torch.Generator().manual_seed(0)))
        out = model(images(2, 96))
        tokens = model.backbone.forward_features((images(2, 96) / 255 - 0.5) / 0.5)
    assert out.saliency.shape == (2, 3, 3) and out.saliency.std() > 1e-4
    torch.testing.assert_close(out.feature, torch.einsum("nhw,nchw->nc", out.saliency, tokens), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("training", [False, True])
def test_the_saliency_of_a_transformer_is_the_attention_of_its_cls_token_in_the_last_block(transformer, training):
    model, seen = copy.deepcopy(transformer).train(training), []
    attention = model.backbone.blocks[-1].attn
    attention.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model.backbone.pos_embed.mul_(20)
        attention.qkv.weight.mul_(20)  # far from uniform attention
        out = model(images(2))
        x, heads = seen[0], attention.num_heads  # (N, 1 + L, C)
        qkv = (x @ attention.qkv.weight.T + attention.qkv.bias).view(2, 17, 3, heads, -1)
        q, k = qkv[:, 0, 0], qkv[:, :, 1]  # (N, heads, c), (N, 1 + L, heads, c)
        weights = torch.einsum("nac,nlac->nal", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
        expected = weights[:, :, 1:].mean(1)
        expected = (expected / expected.sum(1, keepdim=True)).view(2, 4, 4)
    assert expected.std() > 1e-3
    torch.testing.assert_close(out.saliency, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 64, 64),
        torch.zeros(3, 64, 64, dtype=torch.uint8),
        torch.zeros(2, 64, 64, 3, dtype=torch.uint8),
        torch.zeros(2, 3, 64, 48, dtype=torch.uint8),
    ],
)
def test_images_of_another_type_or_shape_are_refused(convolutional, images):
    with pytest.raises(InputError) as error:
        convolutional(images)
    assert str(error.value) == (f"images are {tuple(images.shape)} {images.dtype}: they must be (N, 3, S, S) uint8 RGB")


@pytest.mark.parametrize(
    "backbone, crop_size, message",
    [
        ("test_vit", 70, "crop_size is 70: .* multiple of its patch size, 16"),
        ("test_vit2", 64, "no CLS token"),
        ("test_mambaout", 64, "'test_mambaout' gives features of shape .*, not a .N, C, h, w. map"),
    ],
)
def test_backbones_that_cannot_be_used_are_refused(backbone, crop_size, message):
    with pytest.raises(InputError, match=message):
        build(backbone, crop_size=crop_size)


@pytest.fixture
def pair():
    """A student and a teacher with real-valued and whole-numbered buffers."""
    student = quietly(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    teacher = make_teacher(student)
    randomise(student, 1), randomise(teacher, 2)
    student[1].num_batches_tracked.fill_(41)
    return student, teacher


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_the_teacher_is_a_moving_average_buffers_included(pair, momentum):
    student, teacher = pair
    before, source = ({k: v.clone() for k, v in m.state_dict().items()} for m in (teacher, student))
    update_teacher(teacher, student, momentum)
    for key, value in teacher.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, momentum * before[key] + (1 - momentum) * source[key])
        else:
            assert value.item() == 41
        assert torch.equal(student.state_dict()[key], source[key])


def test_a_teacher_starts_as_a_separate_equal_copy_in_evaluation_mode_without_gradients(convolutional):
    student = copy.deepcopy(convolutional).train()
    teacher = make_teacher(student)
    assert student.training and not any(m.training for m in teacher.modules())
    assert all(p.requires_grad for p in student.parameters()) and not any(p.requires_grad for p in teacher.parameters())
    mine, its = student.state_dict(), teacher.state_dict()
    assert list(mine) == list(its) and all(torch.equal(mine[k], its[k]) for k in mine)
    assert not {p.data_ptr() for p in student.parameters()} & {p.data_ptr() for p in teacher.parameters()}
    assert not teacher(images(1)).score.requires_grad


def test_batch_normalisation_keeps_its_statistics_in_training_mode():
    model = build().train()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert model.training and norms and not any(norm.training for norm in norms)
    before = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    model(images()).score.sum().backward()
    assert all(torch.equal(before[key], model.state_dict()[key]) for key in before)
    assert all(norm.weight.grad is not None for norm in norms)
