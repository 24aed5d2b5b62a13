"""Weights that ship with the package: a finished run, packed, with a model card made from what the run recorded.

``python -m lmcl_core.bundle RUN_FOLDER DATA_ROOT`` makes both anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from . import evaluation, runs
from .benchmarks import BENCHMARKS, load_benchmark, rows_of
from .errors import InputError, RunError
from .ledger import changes
from .model_file import BUNDLED_FOLDER, pack
from .scoring import load
from .splits import Split, make_split, split_hash
from .files import replacing
from .store import PictureStore

CARD = BUNDLED_FOLDER / "card_template.md"


def bundle(run: str | Path, table: pd.DataFrame, folder: str | Path = BUNDLED_FOLDER) -> Path:
    """Pack a finished run of a numbered split, and write its card.

    Args:
        run: its folder.
        table: its benchmark, from `load_benchmark`.
        folder: where ``NAME.safetensors`` and ``NAME.md`` go, NAME being the benchmark's.

    Returns:
        The weights' path.

    Raises:
        InputError: not a finished run of a numbered split of this table.
        RunError: it cannot be saved.
    """
    run, record = Path(run), runs.read_run(run)
    if record is None or not isinstance(record["split_index"], int) or record["benchmark"] != table.attrs["benchmark"]:
        raise InputError(f"{run} holds no finished run of a numbered split of {table.attrs['benchmark']}: train one")
    if record["recipe"]["backbone"] != "tf_efficientnet_lite0" or table.attrs["benchmark"] != "livec":
        raise InputError(f"{run}: the card is written for tf_efficientnet_lite0 trained on livec; bundle such a run")
    split = make_split(table, record["split_index"])
    if split_hash(table, split) != record["split_hash"]:
        raise InputError(f"{run} was trained on another split of other data: train it again")
    path = Path(folder) / f"{record['benchmark']}.safetensors"
    pack(run, path)
    with replacing(path.with_suffix(".md")) as card:
        card.write_text(CARD.read_text().format(**_facts(run, record, table, split, path)))
    return path


def _facts(run: Path, record: dict, table: pd.DataFrame, split: Split, path: Path) -> dict[str, object]:
    """What the card says."""
    scorer, benchmark = load(path), BENCHMARKS[record["benchmark"]]
    own = pd.read_csv(run / "predictions.csv")
    store = PictureStore.open(table, scorer.recipe.short_side)
    looks = scorer.looks(store.picture(int(i)) for i in rows_of(table, own["image"]))
    packed = np.concatenate([scorer.to_mos(seen.score) for seen in looks])
    mos = table["mos"].to_numpy()[split.train]
    fields = {key: value for key, value in record["recipe"].items() if key != "name"}
    options = changes(pd.Series(dict(benchmark=record["benchmark"], recipe=json.dumps(record["recipe"]))))
    return dict(
        name=path.stem,
        title=benchmark.title,
        label_kind=benchmark.label_kind,
        source=benchmark.source,
        n_train=len(split.train),
        n_test=len(split.test),
        index=record["split_index"],
        **{key: record[key] for key in ("benchmark", "split_hash", "data_hash", "device", "seed")},
        commit=f"{record['commit']}{', with changes' if record['dirty'] else ''}",
        options=f" {options}" if options else "",
        **{key: record["metrics"][key] for key in ("plcc", "srcc", "rmse")},
        size=path.stat().st_size / 1e6,
        packed_plcc=evaluation.metrics(pred=packed, mos=own["mos"])["plcc"],
        shift=float(np.abs(packed - own["pred"]).max()),
        low=mos.min(),
        high=mos.max(),
        mean=mos.mean(),
        std=mos.std(),
        short_side=scorer.short_side,
        threads="threads not recorded" if "threads" not in record else f"{record['threads']} CPU threads",
        torch=record["versions"]["torch"],
        minutes=record["seconds"] / 60,
        recipe_name=record["recipe"]["name"],
        recipe=", ".join(f"`{key}` {value}" for key, value in fields.items()),
    )


def main(arguments: list[str]) -> None:
    """``python -m lmcl_core.bundle RUN_FOLDER DATA_ROOT``: exit 0 good, 1 failed, 2 wrong use, as `lmcl`."""
    try:
        if len(arguments) != 2:
            raise InputError("use: python -m lmcl_core.bundle RUN_FOLDER DATA_ROOT")
        print(bundle(arguments[0], load_benchmark("livec", arguments[1])))
    except (InputError, RunError) as error:
        print(f"bundle: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
