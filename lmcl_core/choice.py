"""Which benchmarks a batch is about: one, several, or all that are there."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from .benchmarks import BENCHMARKS, load_benchmark
from .errors import InputError

ALL = "all"


def choose_benchmarks(names: str, root: str | Path | None = None) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Read the benchmarks a user asked for.

    Args:
        names: one name, several separated by commas, or "all": every benchmark of people's opinions.
        root: as in `load_benchmark`, for all of them; beside others, the demo is built all the same.

    Returns:
        Tables by name, in the order asked for; and, where "all" were asked for, the reasons why the others are left
        out, by name.

    Raises:
        InputError: unknown name, the same name twice, a benchmark asked for by name that cannot be read, or none there.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if wanted == [ALL]:
        return _all_there(root)
    if not wanted or len(set(wanted)) < len(wanted):
        raise InputError(f"benchmark is {names!r}: write one name, several different ones with commas, or {ALL}")
    built = len(wanted) > 1  # the folder that is named is that of the others
    return {name: load_benchmark(name, None if name == "demo" and built else root) for name in wanted}, {}


def _all_there(root: str | Path | None) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    if root is None:
        raise InputError(
            f"benchmark {ALL} needs the folder that holds them: pass root (--data-root on the command line)"
        )
    tables, missing = {}, {}
    for name in BENCHMARKS:
        if name != "demo":
            try:
                tables[name] = load_benchmark(name, root)
            except InputError as error:
                missing[name] = str(error)
    if not tables:
        raise InputError(f"no benchmark can be read in {root}: name the folder that holds their official folders")
    return tables, missing
