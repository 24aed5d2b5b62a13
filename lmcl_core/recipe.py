"""Recipes: every hyper-parameter of a run with its range, the preset of each benchmark, and the ablation's variants."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple, get_type_hints

import pandas as pd

from .backbones.networks import NETWORKS
from .common.errors import InputError, unknown
from .common.fields import check_range, setting, typed
from .common.paths import DEFAULT_NETWORK
from .data.benchmarks import load_benchmark
from .data.identity import data_hash, split_hash
from .data.images import median_short_side
from .data.splits import Split

#: Settings that differ from the defaults of `Recipe`, by benchmark.
BENCHMARK_PRESETS: dict[str, dict[str, Any]] = {
    # Crops are small because with large ones a model memorises the twelve photographs.
    "demo": dict(crop_size=64, view_size=128, epochs=3, lr=3e-4, view_gradient=False),
    # All below except LIVEC are untuned: epochs, batch and short side were set from the number and size of the images.
    "live": dict(),
    "csiq": dict(),
    "tid2013": dict(epochs=4),
    "kadid10k": dict(epochs=3, batch_images=32),
    # Chosen on validation parts of LIVEC; figures/ledger.csv lists every configuration that was tried.
    "livec": dict(correlation_weight=0.5, manifold_weight=0.02, quality_sigma=1.0),
    "koniq10k": dict(epochs=3, batch_images=32, short_side=384),
    "livefb": dict(epochs=2, batch_images=32, short_side=384),
    "spaq": dict(epochs=3, batch_images=32, short_side=512),
}


class Variant(NamedTuple):
    """A recipe of the ablation: its title in tables, and the fields that differ from the benchmark's preset."""

    title: str
    changes: dict[str, Any]


#: The recipes by name, in the order of the ablation's tables.
VARIANTS: dict[str, Variant] = {
    "quality": Variant("quality loss alone", dict(manifold_weight=0.0, mutual_weight=0.0)),
    "inter": Variant("+ inter-image term", dict(variant="v1", intra_weight=0.0, mutual_weight=0.0)),
    "intra-v1": Variant("+ intra-image negatives, v1", dict(variant="v1", mutual_weight=0.0)),
    "intra-v2": Variant("+ intra-image negatives, v2", dict(variant="v2", mutual_weight=0.0)),
    "lmcl": Variant("the method", dict()),
    "lmcl-v2": Variant("the method, v2", dict(variant="v2")),
    "no-manifold": Variant("without the manifold loss", dict(manifold_weight=0.0)),
    "uniform-pooling": Variant("uniform crop weights", dict(saliency_pooling=False)),
    "quality-aware": Variant("negatives weighted by MOS distance", dict(quality_sigma=1.0)),
    "equal-negatives": Variant("equally weighted negatives", dict(quality_sigma=None)),
    "opinion": Variant("manifold by opinion", dict(variant="opinion", quality_sigma=0.5)),
    "no-correlation": Variant("without the correlation loss", dict(correlation_weight=0.0)),
    "paper": Variant("only what the paper describes", dict(correlation_weight=0.0, quality_sigma=None)),
    "crops-2": Variant("2 crops per image", dict(crops=2)),
    "crops-8": Variant("8 crops per image", dict(crops=8)),
    # The test part is 20 % of a benchmark, so a quarter of the training part is 20 % of all images.
    "train-20": Variant("20 % of the data to train", dict(train_share=0.25)),
    "train-40": Variant("40 % of the data to train", dict(train_share=0.5)),
    "train-60": Variant("60 % of the data to train", dict(train_share=0.75)),
}

#: The recipes that `lmcl reproduce` trains by default. Notebook 04 compares them; notebooks 03 and 06 show one of them.
COMPARED = ("lmcl", "no-manifold")

#: Fields that were removed, each with the value that equals today's behaviour. They still enter the hash, so that
#: recipes of earlier versions keep their hashes.
_RETIRED = dict(stages=None, frozen_stages=0, probe=False, backbone_lr=None, batchnorm_momentum=0.05)
_RETIRED |= dict(freeze_batchnorm=True, tested="student")
#: Fields that were added later, each with the value that equals the earlier behaviour. A field with that value does not
#: enter the hash, so that runs of earlier versions keep their hashes.
_ADDED_LATER = dict(frozen_stages=0, saliency_pooling=True, train_share=1.0, view_gradient=True, frozen=False)
_ADDED_LATER |= dict(bank_crops=6, schedule="one-cycle")


@dataclass(frozen=True)
class Recipe:
    """Every hyper-parameter of one training run. Meaning and range stand beside each field.

    Raises:
        TypeError: unknown field, or a value of the wrong type.
        ValueError: a value out of its range.
    """

    name: str = setting("lmcl", "folder name of the run; not part of the hash")
    backbone: str = setting("tf_efficientnet_lite0", "timm model name")
    frozen: bool = setting(False, "train heads on stored features of the backbone, which is not trained")
    pretrained: bool = setting(True, "start from pretrained weights (False is meant for tests)")
    embedding_dim: int = setting(128, "D, length of the unit embedding of the manifold loss", 1, 65536)
    crop_size: int = setting(224, "S, side of a crop as the model sees it, in pixels", 8, 4096)
    crops: int = setting(4, "K, crops per image and step", 1, 4096)
    scales: tuple[float, ...] = setting(
        (1.0, 1.0, 1.0, 1.5), "crop k covers crop_size * scales[k % len(scales)] image pixels", 0, 1000, open_low=True
    )
    view_size: int | None = setting(None, "side of the global view in pixels; None: crop_size", 8, 4096)
    view_gradient: bool = setting(True, "the mutual loss of saliency maps trains the backbone, not only the pooling")
    flip: bool = setting(True, "mirror crops left-right at random")
    test_crops: int = setting(9, "crops of the test grid at the first scale; fewer at larger ones", 1, 4096)
    bank_crops: int = setting(6, "random crops per image in the feature bank of a frozen backbone", 0, 4096)
    short_side: int | None = setting(None, "larger images are shrunk to this short side in pixels", 8, 65536)
    variant: str = setting(
        "v1", "manifold loss: equations 4 and 5, 6, or 11 and 5 (beyond the paper)", choices=("v1", "v2", "opinion")
    )
    temperature: float = setting(0.2, "τ of the manifold loss", 0, open_low=True)
    intra_weight: float = setting(0.5, "weight of the intra-image negatives", 0)
    manifold_weight: float = setting(0.05, "α in L_quality + α·L_manifold + β·L_mutual", 0)
    mutual_weight: float = setting(0.2, "β", 0)
    quality_sigma: float | None = setting(
        None, "σ, in MOS deviations, of the weights of negatives by MOS distance; None: off", 0, open_low=True
    )
    correlation_weight: float = setting(0.0, "weight of 1 - PLCC over a step's images (beyond the paper)", 0)
    saliency_pooling: bool = setting(True, "weigh an image's crops by saliency, in the loss and at test")
    train_share: float = setting(1.0, "share of the training contents that is used", 0, 1, open_low=True)
    ema_momentum: float = setting(0.99, "m of equation 10, the teacher's moving average", 0, 1, open_high=True)
    epochs: int = setting(7, "passes over the training images", 1, 65536)
    batch_images: int = setting(16, "B, images per step", 1, 65536)
    lr: float = setting(2e-4, "peak learning rate of AdamW", 0, open_low=True)
    schedule: str = setting("one-cycle", "step: lr is divided by 10 every 3 epochs", choices=("one-cycle", "step"))
    weight_decay: float = setting(0.01, "decoupled weight decay", 0)
    precision: str = setting(
        "bf16-mixed", "float32 replaces it on CPUs without bfloat16", choices=("bf16-mixed", "16-mixed", "32-true")
    )
    seed: int = setting(0, "seed of everything random in the run", 0, 2**64 - 1)

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for one in fields(self):
            value = typed(one.name, getattr(self, one.name), hints[one.name])
            object.__setattr__(self, one.name, value)
            check_range(one, value)
        if not self.scales:
            raise InputError("recipe field scales is (): it must hold at least one number")
        if not re.fullmatch(r"[^./\\\0-\x1f][^/\\\0-\x1f]{,99}", self.name):
            rule = "it needs 1 to 100 characters, a first one other than ., no slash and no control character"
            raise InputError(f"recipe field name is {self.name!r}: {rule}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], base: Recipe | None = None) -> Recipe:
        """Make a recipe from plain values, such as those of a JSON file; `base` supplies the other fields.

        A field of an earlier version is accepted only with the value that equals today's behaviour, and is then
        ignored. InputError: unknown or retired field, wrong type or range.
        """
        known = {one.name for one in fields(cls)}
        for name in values:
            if name in _RETIRED and values[name] != _RETIRED[name]:
                raise InputError(f"recipe field {name} no longer exists: use the version that wrote this recipe")
            if name not in known and name not in _RETIRED:
                raise unknown("recipe field", name, known)
        try:
            return dataclasses.replace(base or cls(), **{k: v for k, v in values.items() if k in known})
        except TypeError as error:
            raise InputError(str(error)) from error

    @classmethod
    def for_benchmark(
        cls, benchmark: str | pd.DataFrame, recipe: str = "lmcl", /, network: str = DEFAULT_NETWORK, **changes: Any
    ) -> Recipe:
        """The preset of a benchmark, or that preset with changes. InputError: unknown name or field.

        The recipe has the name of its variant, and of the network unless it is the default, such as
        ``lmcl+clip-b16-frozen``. If the changes alter the hash, the first six digits of the hash are added, such as
        ``lmcl@3f2a9c``, so that a changed recipe has a run folder of its own. A name among the changes is kept.

        Args:
            benchmark: a table of `lmcl_core.load_benchmark`, a key of `lmcl_core.BENCHMARKS`, or the path of a folder
                with a ``benchmark.toml``. The preset of such own data comes from `preset_by_size`.
            recipe: a key of `VARIANTS`, such as "lmcl" (the method) or "no-manifold".
            network: a key of `backbones.networks.NETWORKS`.
            **changes: fields to set on top of the preset, except those that define the variant.
        """
        if recipe not in VARIANTS:
            raise unknown("recipe", recipe, VARIANTS)
        preset = _preset(benchmark, recipe, network)
        name = recipe if network == DEFAULT_NETWORK else f"{recipe}+{network}"
        changed = cls.from_dict({"name": name, **changes, **VARIANTS[recipe].changes}, preset)
        if "name" in changes or changed.hash == preset.hash:
            return changed
        return dataclasses.replace(changed, name=f"{name}@{changed.hash[:6]}")

    @staticmethod
    def parse_changes(changes: Mapping[str, Any] | str) -> dict[str, Any]:
        """Changed fields as a dict, from a mapping or from JSON, such as ``{"epochs": 1}``; fields are not checked."""
        parsed: Any = changes
        if isinstance(changes, str):
            try:
                parsed = json.loads(changes)
            except (ValueError, RecursionError):
                parsed = None
        if not isinstance(parsed, Mapping):
            fix = 'write for example {"epochs": 1}'
            raise InputError(f"recipe changes {str(changes)[:80]!r} are not a JSON object: {fix}")
        return dict(parsed)

    def differences(self, benchmark: str | pd.DataFrame) -> dict[str, Any]:
        """Fields but the name that differ from the preset of the recipe's variant, or of "lmcl" for other names."""
        variant, _, network = self.name.partition("@")[0].partition("+")
        known = variant in VARIANTS and network in ("", *NETWORKS)
        preset = _preset(benchmark, *((variant, network or DEFAULT_NETWORK) if known else ())).to_dict()
        return {field: value for field, value in self.to_dict().items() if field != "name" and value != preset[field]}

    @property
    def view_side(self) -> int:
        """Side of the global view in pixels."""
        return self.view_size or self.crop_size

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {**dataclasses.asdict(self), "scales": list(self.scales)}

    @cached_property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of all fields but the name; the same as in earlier versions."""
        values = {**_RETIRED, **self.to_dict()}
        hashed = {k: v for k, v in values.items() if k != "name" and (k, v) not in _ADDED_LATER.items()}
        return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:12]

    def identity(self, table: pd.DataFrame, split: Split) -> dict[str, Any]:
        """What identifies a run: benchmark, hashes of recipe, data and split, and the recipe's fields."""
        return dict(
            benchmark=table.attrs["benchmark"],
            recipe_hash=self.hash,
            data_hash=data_hash(table),
            split_hash=split_hash(table, split),
            recipe=self.to_dict(),
        )


def preset_by_size(images: int, short_side: int) -> dict[str, Any]:
    """Settings for own data from the number of images and their median short side in pixels; not tuned.

    epochs is 7 up to 2,000 images, 4 up to 5,000, 3 up to 20,000 and 2 above; batch_images is 32 above 5,000 images.
    If the side exceeds 640, images are shrunk to 512; if it is below 224, crop_size is the largest multiple of 32 that
    fits, at least 32.
    """
    epochs = next((epochs for most, epochs in ((2_000, 7), (5_000, 4), (20_000, 3)) if images <= most), 2)
    sides = dict(short_side=512 if short_side > 640 else None, crop_size=min(224, max(32, short_side // 32 * 32)))
    return dict(epochs=epochs, batch_images=16 if images <= 5_000 else 32, **sides)


def _preset(benchmark: str | pd.DataFrame, variant: str = "lmcl", network: str = DEFAULT_NETWORK) -> Recipe:
    """A variant's recipe on a benchmark, as `Recipe.for_benchmark` describes it."""
    if network not in NETWORKS:
        raise unknown("network", network, NETWORKS)
    is_table = isinstance(benchmark, pd.DataFrame)
    settings = BENCHMARK_PRESETS.get(benchmark.attrs["benchmark"] if is_table else str(benchmark))
    if settings is None:
        table = benchmark if is_table else load_benchmark(benchmark)
        settings = preset_by_size(len(table), median_short_side(table))
    return Recipe.from_dict({**settings, **NETWORKS[network], **VARIANTS[variant].changes})


def variants_of(benchmark: str | pd.DataFrame, network: str = DEFAULT_NETWORK) -> tuple[str, ...]:
    """Names of the variants that differ from a benchmark's preset, and "lmcl", which is the preset."""
    hashes = {name: _preset(benchmark, name, network).hash for name in VARIANTS}
    return tuple(name for name, found in hashes.items() if name == "lmcl" or found != hashes["lmcl"])


def check_changes(changes: Mapping[str, Any], variants: Iterable[str] = tuple(VARIANTS)) -> None:
    """Raise InputError if `changes` hold the name, or a recipe field that defines one of the variants."""
    if "name" in changes:
        raise InputError("recipe field name cannot be changed here: run folders are named after their variants")
    for name in variants:
        for changed in sorted(set(changes) & set(VARIANTS[name].changes)):
            raise InputError(f"recipe field {changed} defines the variant {name!r}: drop this change or the variant")
