"""Ridge regression and principal components of frozen features, with which training in the frozen regime starts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RidgeFit(NamedTuple):
    """Ridge regression and principal components of n inputs of P numbers.

    ``x @ basis + offset`` is the predicted target, then R components of mean 0 and variance 1 on the n inputs. Column f
    of ``x @ held_out + held_out_offset`` is the target predicted from all inputs but those of fold f.
    """

    basis: Tensor  # (P, 1 + R)
    offset: Tensor  # (1 + R,)
    fold: Tensor  # (n,) int64, the fold of each input
    held_out: Tensor  # (P, folds)
    held_out_offset: Tensor  # (folds,)


def ridge(x: Tensor, target: Tensor, groups: Tensor, components: int, folds: int = 5) -> RidgeFit:
    """Fit ridge regression of inputs (n, P), whose penalty is chosen by cross-validation, and R principal components.

    A group of `groups` (n,), such as the images of one content, is not divided between folds. Components beyond the
    rank of the inputs are 0.
    """
    centre, mean = x.mean(dim=0).double(), target.mean().double()
    x, y, fold = x.double() - centre, target.double() - mean, groups % folds
    gram = x @ x.T  # (n, n)
    errors, parts = torch.zeros(len(_PENALTIES), dtype=torch.float64), {}
    for one in fold.unique().tolist():
        test, train = fold == one, fold != one
        values, vectors = torch.linalg.eigh(gram[train][:, train])
        parts[one] = train, values, vectors
        across = gram[test][:, train] @ vectors
        for number, penalty in enumerate(_PENALTIES):
            predicted = across @ _dual(values, vectors.T @ y[train], penalty)
            errors[number] += (predicted - y[test]).square().sum()
    penalty = _PENALTIES[int(errors.argmin())]
    held_out = torch.zeros(x.shape[1], folds, dtype=torch.float64)
    for one, (train, values, vectors) in parts.items():
        held_out[:, one] = x[train].T @ (vectors @ _dual(values, vectors.T @ y[train], penalty))
    values, vectors = torch.linalg.eigh(gram)
    kept = min(components, int((values > 1e-9 * values[-1]).sum()))
    basis = torch.zeros(x.shape[1], 1 + components, dtype=torch.float64)
    basis[:, 0] = x.T @ (vectors @ _dual(values, vectors.T @ y, penalty))
    basis[:, 1 : 1 + kept] = x.T @ vectors.flip(1)[:, :kept] / values.flip(0)[:kept] * len(x) ** 0.5
    offset = -centre @ basis
    offset[0] += mean
    return RidgeFit(basis.float(), offset.float(), fold, held_out.float(), (mean - centre @ held_out).float())


def _dual(values: Tensor, projected: Tensor, penalty: float) -> Tensor:
    """Dual weights of ridge regression in the eigenvectors of the Gram matrix."""
    return projected / (values.clamp_min(0) + penalty * values[-1])


#: Penalties that `ridge` tries, in units of the largest eigenvalue of the Gram matrix.
_PENALTIES = [10 ** (exponent / 2) for exponent in range(-12, 1)]
