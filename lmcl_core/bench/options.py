"""Check the options of ``lmcl bench`` before torch and matplotlib are imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..common.errors import InputError, unknown
from ..data.benchmarks import load_benchmark
from ..recipe import Recipe

PARTS = ("store", "features", "training", "scoring", "loss", "growth")


def check_options(
    benchmark: str, data_root: str, parts: Sequence[str], against: str, changes: Mapping[str, Any]
) -> None:
    """Raise `InputError` for arguments that `bench` cannot use. The demo is not built."""
    for part in parts:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
    by_recipe = ["features", "growth", "store", "training"]
    for option, value, users in (("against", against, ["training"]), ("set", changes, by_recipe)):
        if value and parts and not set(users) & set(parts):
            raise InputError(f"--{option} has no effect on {', '.join(parts)}: add {' or '.join(users)}")
    if against and benchmark != "livec":
        raise InputError("--against: DEIQT is timed on LIVEC only; add --benchmark livec --data-root DIR")
    Recipe.for_benchmark("demo", **changes)
    if benchmark != "demo" or data_root:
        load_benchmark(benchmark, data_root or None)
