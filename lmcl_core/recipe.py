"""One frozen recipe: every hyper-parameter of a run, checked on creation, with a hash that names it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_type_hints
from collections.abc import Iterable, Mapping

from .errors import InputError, unknown

#: Settings that differ from the defaults of `Recipe`, by benchmark.
BENCHMARK_PRESETS: dict[str, dict[str, Any]] = {
    # Small crops: twelve photographs are too few to be seen whole without being learnt by heart.
    "demo": dict(crop_size=64, view_size=128, epochs=4, lr=3e-4),
    # Of the sets below none was at hand: batch, epochs and short side follow from their size, untuned. A short side of
    # 384 is that of the 512 x 384 at which KonIQ-10k is mostly used; SPAQ's phone photographs have several megapixels.
    "live": dict(),
    "csiq": dict(),
    "tid2013": dict(epochs=4),
    "kadid10k": dict(epochs=3, batch_images=32),
    # Found on the validation part of LIVEC's split 0: see figures/ledger.csv.
    "livec": dict(correlation_weight=0.5, manifold_weight=0.02, quality_sigma=1.0),
    "koniq10k": dict(epochs=3, batch_images=32, short_side=384),
    "livefb": dict(epochs=2, batch_images=32, short_side=384),
    "spaq": dict(epochs=3, batch_images=32, short_side=512),
}

#: What the walk compares: the method, and the same without its manifold loss.
COMPARED = ("lmcl", "no-manifold")

#: Settings that differ from the benchmark's preset, by recipe name; those beyond `COMPARED` are the ablation's.
VARIANTS: dict[str, dict[str, Any]] = {
    "lmcl": dict(),
    "no-manifold": dict(manifold_weight=0.0),
    "quality": dict(manifold_weight=0.0, mutual_weight=0.0),
    "inter": dict(variant="v1", intra_weight=0.0, mutual_weight=0.0),
    "intra-v1": dict(variant="v1", mutual_weight=0.0),
    "intra-v2": dict(variant="v2", mutual_weight=0.0),
    "lmcl-v2": dict(variant="v2"),
    "uniform-pooling": dict(saliency_pooling=False),
    "quality-aware": dict(quality_sigma=1.0),
    "equal-negatives": dict(quality_sigma=None),
    "no-correlation": dict(correlation_weight=0.0),
    "paper": dict(correlation_weight=0.0, quality_sigma=None),  # nothing beyond the paper
    "crops-2": dict(crops=2),
    "crops-8": dict(crops=8),
    # of 100 % of a benchmark, of which 20 % are the test part
    "train-20": dict(train_share=0.25),
    "train-40": dict(train_share=0.5),
    "train-60": dict(train_share=0.75),
}

#: Fields that are not hashed at these values, at which they do nothing.
_AS_BEFORE = dict(frozen_stages=0, saliency_pooling=True, train_share=1.0)

#: The largest values that are accepted; what lies above is a slip of the pen that no machine would finish.
_AT_MOST = dict.fromkeys(("crop_size", "view_size", "crops", "test_crops"), 4096) | dict.fromkeys(
    ("short_side", "epochs", "batch_images", "embedding_dim"), 65536
)
_SIDES, _SHORTEST = ("crop_size", "view_size", "short_side"), 8
_WIDEST = 1000.0  # of the scales: crops are clipped to the picture all the same
_POSITIVE = ("temperature", "lr", "backbone_lr", "quality_sigma")
_NOT_NEGATIVE = (
    *("intra_weight", "manifold_weight", "mutual_weight", "correlation_weight"),
    *("weight_decay", "frozen_stages", "seed"),
)
_CHOICES = {
    "variant": ("v1", "v2"),
    "precision": ("bf16-mixed", "16-mixed", "32-true"),
    "tested": ("student", "teacher"),
}


@dataclass(frozen=True)
class Recipe:
    """Every hyper-parameter of one training run.

    Args:
        name: folder name of the run; not part of the hash.
        backbone: a timm model name.
        pretrained: start from ImageNet weights (False is meant for tests).
        stages: None, or the stages of an EfficientNet (blocks of a vision transformer) that are read together instead
            of the last features; what lies deeper is left out.
        frozen_stages: how many of the first stages of an EfficientNet (blocks of a vision transformer) keep their
            pretrained weights, with all that comes before them; 0 trains everything.
        probe: start from a ridge regression of MOS on the pretrained features of the training images, standardised
            (linear probing, then fine-tuning: Kumar et al., ICLR 2022), instead of a random score head.
        embedding_dim: D, length of the unit embedding the manifold loss works on, 1..65536.
        crop_size: S, side of a crop as the model sees it, in pixels, 8..4096.
        crops: K, crops per image and step, 1..4096.
        scales: crop k covers a square of side ``crop_size * scales[k % len(scales)]`` image pixels, each > 0, <= 1000.
        view_size: side in pixels of the global view, in which saliency is located, 8..4096; None: `crop_size`.
        flip: mirror crops left-right at random.
        test_crops: crops of the test grid at the first scale, 1..4096; fewer at larger ones (`crops.fixed_boxes`).
        short_side: None, or the short side in pixels, 8..65536, that larger images are brought to before anything else.
        variant: wording of the manifold loss, "v1" or "v2" (notebook 02, equations 4 to 6).
        temperature: τ of the manifold loss, > 0.
        intra_weight: weight of the intra-image negatives, >= 0.
        manifold_weight: α in L_quality + α·L_manifold + β·L_mutual, >= 0.
        mutual_weight: β, >= 0.
        quality_sigma: None, or width (in MOS standard deviations) within which negatives of other images are
            down-weighted because their opinion scores are alike; beyond the paper.
        correlation_weight: weight of 1 - PLCC over a step's images beside smooth-L1, >= 0; beyond the paper.
        freeze_batchnorm: normalise with the pretrained statistics, so that crops and global views of a step do not
            change one another; scale and shift are trained all the same.
        batchnorm_momentum: share of the newest step in the running statistics, in (0, 1]; a network's own value may
            be made for far longer training (0.01 in tf_efficientnet) and would lag behind the weights here. It plays
            a part only where `freeze_batchnorm` is False.
        saliency_pooling: weigh an image's crops by their saliency, in the loss and at test; else all alike.
        train_share: share of the training contents that is used, in (0, 1]; smaller shares are parts of larger ones.
        ema_momentum: share of itself that the teacher keeps at a step, in [0, 1).
        epochs: passes over the training images, 1..65536.
        batch_images: B, images per step, 1..65536.
        lr: peak learning rate of AdamW under a one-cycle schedule.
        backbone_lr: None, or a peak learning rate of the pretrained layers' own.
        tested: which of the two is evaluated and saved, "student" or "teacher".
        weight_decay: decoupled weight decay.
        precision: "bf16-mixed" (float32 on processors that only imitate bfloat16), "16-mixed" (GPU only) or "32-true".
        seed: seed of everything random in the run.

    Raises:
        TypeError: unknown field, or a value of the wrong type.
        ValueError: a value out of its range.
    """

    name: str = "lmcl"
    backbone: str = "tf_efficientnet_lite0"
    pretrained: bool = True
    stages: tuple[int, ...] | None = None
    frozen_stages: int = 0
    probe: bool = False
    embedding_dim: int = 128
    crop_size: int = 224
    crops: int = 4
    scales: tuple[float, ...] = (1.0, 1.0, 1.0, 1.5)
    view_size: int | None = None
    flip: bool = True
    test_crops: int = 9
    short_side: int | None = None
    variant: str = "v1"
    temperature: float = 0.2
    intra_weight: float = 0.5
    manifold_weight: float = 0.05
    mutual_weight: float = 0.2
    quality_sigma: float | None = None
    correlation_weight: float = 0.0
    freeze_batchnorm: bool = True
    batchnorm_momentum: float = 0.05
    saliency_pooling: bool = True
    train_share: float = 1.0
    ema_momentum: float = 0.99
    epochs: int = 7
    batch_images: int = 16
    lr: float = 2e-4
    backbone_lr: float | None = None
    tested: str = "student"
    weight_decay: float = 0.01
    precision: str = "bf16-mixed"
    seed: int = 0

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _typed(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        self._check_ranges()

    def _check_ranges(self) -> None:
        def refuse(field: str, rule: str) -> None:
            raise InputError(f"recipe field {field} is {getattr(self, field)!r}: it must be {rule}")

        for field, most in _AT_MOST.items():
            least = _SHORTEST if field in _SIDES else 1
            if getattr(self, field) is not None and not least <= getattr(self, field) <= most:
                refuse(field, f"{least} to {most}")
        for field in _POSITIVE:
            if getattr(self, field) is not None and not getattr(self, field) > 0:
                refuse(field, "greater than 0")
        for field in _NOT_NEGATIVE:
            if not getattr(self, field) >= 0:
                refuse(field, "0 or greater")
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                refuse(field, f"one of {', '.join(choices)}")
        if not 0 < self.batchnorm_momentum <= 1:
            refuse("batchnorm_momentum", "in (0, 1]")
        if not 0 < self.train_share <= 1:
            refuse("train_share", "in (0, 1]")
        if not 0 <= self.ema_momentum < 1:
            refuse("ema_momentum", "in [0, 1)")
        if self.seed >= 2**64:
            refuse("seed", "less than 2**64")
        if not self.scales or min(self.scales) <= 0 or max(self.scales) > _WIDEST:
            refuse("scales", f"one or more numbers greater than 0, of {_WIDEST:g} at most")
        if not self.name or any(c in self.name for c in "/\\\0") or self.name.startswith("."):
            refuse("name", "usable as a folder name")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], base: Recipe | None = None) -> Recipe:
        """Make a recipe from plain values, such as those of a JSON file or a notebook's parameters.

        Args:
            values: field names and values; lists stand for tuples.
            base: recipe whose values hold where `values` says nothing; the defaults if None.

        Returns:
            The checked recipe.

        Raises:
            InputError: unknown field (with the nearest known one), wrong type or range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise unknown("recipe field", key, known)
        try:
            return dataclasses.replace(base or cls(), **values)
        except TypeError as error:
            raise InputError(str(error)) from error

    @classmethod
    def for_benchmark(cls, benchmark: str, recipe: str = "lmcl", /, **changes: Any) -> Recipe:
        """The preset of a benchmark.

        Args:
            benchmark: name as in `lmcl_core.BENCHMARKS`.
            recipe: "lmcl" (the method), "no-manifold" (the same without the manifold loss), or another key of
                `VARIANTS`.
            **changes: fields to set on top; one that makes the recipe what it is stays as it is.

        Returns:
            The recipe.

        Raises:
            InputError: unknown name or field.
        """
        if benchmark not in BENCHMARK_PRESETS:
            raise unknown("benchmark", benchmark, BENCHMARK_PRESETS)
        if recipe not in VARIANTS:
            raise unknown("recipe", recipe, VARIANTS)
        preset = {**BENCHMARK_PRESETS[benchmark], "name": recipe}
        return cls.from_dict({**preset, **changes, **VARIANTS[recipe]})

    @staticmethod
    def changes_from_json(text: str) -> dict[str, Any]:
        """Read changed fields from a JSON object, such as ``{"epochs": 1}``.

        Args:
            text: the object as text.

        Returns:
            The fields, unchecked.

        Raises:
            InputError: not a JSON object.
        """
        try:
            changes = json.loads(text)
        except ValueError as error:
            raise InputError(f'recipe changes {text!r} are no JSON ({error}): write e.g. {{"epochs": 1}}') from error
        if not isinstance(changes, dict):
            raise InputError(f'recipe changes {text!r} are no JSON object: write for example {{"epochs": 1}}')
        return changes

    @property
    def view_side(self) -> int:
        """Side of the global view in pixels, whether it was set or not."""
        return self.view_size or self.crop_size

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values."""
        values = dataclasses.asdict(self)
        return {**values, "scales": list(self.scales), "stages": None if self.stages is None else list(self.stages)}

    @cached_property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of all fields but the name, and but what `_AS_BEFORE` leaves out."""
        values = {k: v for k, v in self.to_dict().items() if k != "name" and (k, v) not in _AS_BEFORE.items()}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def variants_of(benchmark: str) -> tuple[str, ...]:
    """Those of `VARIANTS` that differ from a benchmark's preset; "lmcl", which is the preset, is the first.

    Args:
        benchmark: its name; others than those with a preset have the defaults.
    """
    preset = Recipe.from_dict(BENCHMARK_PRESETS.get(benchmark, {}))
    return tuple(
        name for name in VARIANTS if name == "lmcl" or Recipe.from_dict(VARIANTS[name], preset).hash != preset.hash
    )


def check_changes(changes: Mapping[str, Any], variants: Iterable[str] = tuple(VARIANTS)) -> None:
    """Refuse changes of what a variant sets itself, and of the name, after which the folders of variants are called.

    Args:
        changes: recipe fields that are to differ in every variant.
        variants: keys of `VARIANTS`.

    Raises:
        InputError: a variant sets one of the fields itself, or the name is among them.
    """
    if "name" in changes:
        raise InputError(
            "recipe field name cannot be changed here: runs of several recipes lie in folders of their names"
        )
    for name in variants:
        for field in sorted(set(changes) & set(VARIANTS[name])):
            raise InputError(f"recipe field {field} cannot be changed in {name!r}, which sets it itself: leave one out")


def _typed(field: str, value: Any, hint: Any) -> Any:
    """Return `value` as its declared type; ints stand for floats, lists for tuples; all else raises TypeError."""
    if hint == tuple[float, ...] and isinstance(value, (list, tuple)):
        return tuple(_typed(field, item, float) for item in value)
    if hint == tuple[int, ...] | None:
        return None if value is None else tuple(_typed(field, item, int) for item in _listed(field, value))
    if hint in (float | None, int | None):
        return None if value is None else _typed(field, value, float if hint == float | None else int)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # a whole number of more than 308 digits
            number = math.inf
        if not math.isfinite(number):
            raise InputError(f"recipe field {field} is {value!r}: it must be a finite number")
        return number
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    if hint == tuple[float, ...]:
        raise TypeError(
            f"recipe field {field} is {value!r} of type {type(value).__name__}: write a list, as [1.0, 1.5]"
        )
    wanted = getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint)
    raise TypeError(f"recipe field {field} is {value!r} of type {type(value).__name__}: it must be {wanted}")


def _listed(field: str, value: Any) -> list | tuple:
    if not isinstance(value, (list, tuple)):
        raise TypeError(
            f"recipe field {field} is {value!r} of type {type(value).__name__}: it must be a list of numbers"
        )
    return value
