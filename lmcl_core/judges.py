"""Who judges which crop is salient: the model that scores, another backbone by its attention, or nobody.

``python -m lmcl_core.judges BENCHMARK DATA_ROOT [WEIGHTS]`` compares them on the test part of split 0 and writes
``figures/<benchmark>/judges.csv`` of the checkout. The scores of the crops are the same for all; only their weights
differ.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import evaluation
from .arguments import module_command
from .benchmarks import load_benchmark
from .crops import crop_saliency, crop_weights, resize_crop, salient_crop
from .errors import InputError
from .files import replacing
from .looking import Look
from .model import QualityModel
from .model_file import percentiles
from .paths import figures_folder
from .scoring import Scorer, load
from .splits import Split, make_split, thinned
from .store import PictureStore

#: The backbone whose attention is compared; its wheel was made to look for regions of interest.
OTHER = "vit_small_patch14_dinov2"
_VIEW = 224  # pixels, of the whole picture that it looks at


def compare(scorer: Scorer, table: pd.DataFrame, positions: Sequence[int], other: QualityModel) -> pd.DataFrame:
    """Pictures scored through the same crops, weighed by one judge after another.

    Args:
        scorer: whose crops' scores are weighed.
        table: the benchmark, from `load_benchmark`.
        positions: (n,) of the pictures in the table, n >= 3.
        other: the backbone that judges in the model's place, for views of 224 pixels.

    Returns:
        One row a judge: judge; plcc and srcc of its weighted mean of the crops' scores; plcc_salient, of the score of
        its most salient crop alone; same_salient, the share of pictures in which that is also the model's own;
        contrast, its mean highest density of a crop, 1 where its map is uniform. Source: notebook 02, equation 2.
    """
    store = PictureStore.open(table, scorer.recipe.short_side)
    mos = table["mos"].to_numpy()[positions]
    own: list[Tensor] = []
    others: list[Tensor] = []
    scores: list[Tensor] = []
    for picture in (store.picture(int(position)) for position in positions):
        (look,) = scorer.look_at([picture])
        own.append(_density(look.saliency, look, picture))
        others.append(_density(_attention(other, picture), look, picture))
        scores.append(look.crop_scores)
    crops = torch.cat(scores)  # (n, K)
    densities = {"the model itself": torch.cat(own), OTHER: torch.cat(others), "nobody": torch.ones_like(crops)}
    chosen = salient_crop(densities["the model itself"])
    return pd.DataFrame([_row(name, crops, density, chosen, mos) for name, density in densities.items()])


def check_trained_on(scorer: Scorer, table: pd.DataFrame, split: Split) -> None:
    """Refuse a model that did not learn from a split's training part: it may have seen the pictures of its test part.

    Args:
        scorer: the model.
        table: the benchmark, from `load_benchmark`.
        split: of this table.

    Raises:
        InputError: the scores that the model learnt from are others.
    """
    learnt = thinned(table, split, scorer.recipe.train_share)
    if scorer.about["mos_percentiles"] != percentiles(table["mos"].to_numpy()[learnt]):
        raise InputError(
            f"these weights did not learn from exactly the training part of split {split.index} of "
            f"{table.attrs['benchmark']}, and may have seen its test part: name weights that did"
        )


def _row(judge: str, crops: Tensor, density: Tensor, own: Tensor, mos: np.ndarray) -> dict[str, object]:
    salient, nothing = salient_crop(density), float("nan")
    alone = evaluation.metrics(pred=crops[torch.arange(len(crops)), salient].double().numpy(), mos=mos)
    together = evaluation.metrics(pred=(crops * crop_weights(density)).sum(dim=1).double().numpy(), mos=mos)
    judged = judge != "nobody"  # whose most salient crop is the first, as good as any
    return dict(
        judge=judge,
        plcc=together["plcc"],
        srcc=together["srcc"],
        plcc_salient=alone["plcc"] if judged else nothing,
        same_salient=(salient == own).double().mean().item() if judged else nothing,
        contrast=density.amax(dim=1).mean().item(),
        pictures=len(crops),
        crops=crops.shape[1],
    )


def _density(maps: Tensor, look: Look, picture: Tensor) -> Tensor:
    """(1, K) saliency of a picture's test crops by a map (1, h, w)."""
    return crop_saliency(maps, look.boxes, torch.tensor([picture.shape[0]]), torch.tensor([picture.shape[1]]))


@torch.no_grad()
def _attention(other: QualityModel, picture: Tensor) -> Tensor:
    """(1, h, w) attention of a backbone that looks at the whole picture."""
    return other(resize_crop(picture, _VIEW).permute(2, 0, 1)[None]).saliency.float()


def main(arguments: list[str]) -> None:
    """What ``python -m lmcl_core.judges`` does; exit 0 good, 1 failed, 2 wrong use, as `lmcl`."""
    with module_command("judges", "BENCHMARK DATA_ROOT [WEIGHTS]", arguments, (2, 3)):
        table = load_benchmark(arguments[0], arguments[1] or None)
        scorer = load(*arguments[2:] or ["livec"])
        check_trained_on(scorer, table, make_split(table, 0))
        other = QualityModel(OTHER, True, crop_size=_VIEW).eval()
        found = compare(scorer, table, make_split(table, 0).test, other)
        path = Path(figures_folder(arguments[0])) / "judges.csv"
        with replacing(path) as temporary:
            found.to_csv(temporary, index=False, float_format="%.6g")
        print(found.round(4).to_string(index=False))
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
