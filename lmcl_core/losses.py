"""The losses of the method, as pure functions of tensors. Notebook 02 has their equations.

Shapes: `B` images, `K` crops per image, `D` embedding size, `h w` token grid, `N` = B·K. Student z[i,k] and teacher
t[i,k] are unit vectors; s(i) is the salient crop of image i; τ is the temperature. The functions are
deterministic, do not communicate with other processes, and compute on the device of their inputs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common.errors import InputError


class ManifoldTerms(NamedTuple):
    """The manifold loss and its two parts, each a scalar tensor."""

    total: Tensor
    inter: Tensor
    intra: Tensor


class LocalManifoldContrastiveLoss(nn.Module):
    """Pull an image's crops towards its salient crop, push other images away, keep its non-salient crops apart.

    Source: the paper's abstract as interpreted in notebook 02: v1 is equations 4 and 5, v2 is equation 6. Variant
    "opinion" is an extension of our own: v1 with equation 11, the local manifold by opinion, in place of equation 4.

    Args:
        temperature: τ, > 0.
        intra_weight: weight of the intra-image part, >= 0.
        variant: "v1" (every crop is an anchor, two cross-entropies), "v2" (one anchor and one softmax per image) or
            "opinion" (as v1, but salient crops of images with a similar MOS are positives too).
        quality_sigma: None, or the width σ > 0 of a weight ``1 - exp(-(Δmos/σ)²/2)`` on the negatives of other
            images, so that images of equal quality are not pushed apart (beyond the paper). None: no weights.
            Variant "opinion" needs it.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        temperature: float = 0.2,
        intra_weight: float = 1.0,
        variant: str = "v1",
        quality_sigma: float | None = None,
    ) -> None:
        super().__init__()
        if not (math.isfinite(temperature) and temperature > 0):
            raise InputError(f"temperature is {temperature!r}: it must be a finite number greater than 0")
        if not (math.isfinite(intra_weight) and intra_weight >= 0):
            raise InputError(f"intra_weight is {intra_weight!r}: it must be a finite number of 0 or more")
        if variant not in ("v1", "v2", "opinion"):
            raise InputError(f"variant is {variant!r}: it must be 'v1', 'v2' or 'opinion'")
        if variant == "opinion" and quality_sigma is None:
            meaning = "the MOS distance within which images are positives"
            raise InputError(f"variant 'opinion' needs quality_sigma: {meaning}")
        if quality_sigma is not None and not quality_sigma > 0:
            raise InputError(f"quality_sigma is {quality_sigma!r}: it must be None or greater than 0")
        self.temperature, self.intra_weight = float(temperature), float(intra_weight)
        self.variant, self.quality_sigma = variant, quality_sigma

    def forward(self, student: Tensor, teacher: Tensor, salient: Tensor, mos: Tensor | None = None) -> ManifoldTerms:
        """Compute the loss in float32, or in float64 if the inputs are.

        Args:
            student: (B, K, D) unit vectors z, float.
            teacher: (B, K, D) unit vectors t, float; detached.
            salient: (B,) int64, s(i) in 0..K-1.
            mos: (B,) float scores in standard deviations; required with `quality_sigma`.

        Returns:
            `ManifoldTerms` of scalars. A term without negatives is 0.

        Raises:
            ValueError: shapes that do not fit, or a salient index out of range (on a GPU the check would synchronise).
        """
        _check_embeddings(student, teacher, salient)
        if self.quality_sigma is not None and mos is None:
            raise InputError("quality_sigma is set, so the loss needs the MOS of every image: pass mos=")
        if mos is not None and mos.shape != student.shape[:1]:
            raise InputError(f"mos is {tuple(mos.shape)}: it must hold one score per image, ({student.shape[0]},)")
        dtype = torch.promote_types(student.dtype, torch.float32)
        with torch.autocast(student.device.type, enabled=False):
            z, t = student.to(dtype) / self.temperature, teacher.detach().to(dtype)
            scaled_mos = None if self.quality_sigma is None else mos.to(z) / self.quality_sigma
            terms = self._v2 if self.variant == "v2" else self._v1
            return terms(z, t, salient, scaled_mos)

    def _v1(self, z: Tensor, t: Tensor, salient: Tensor, scaled_mos: Tensor | None) -> ManifoldTerms:
        B, K, _ = z.shape
        own = torch.einsum("ikd,ild->ikl", z, t)  # (B, K, K): z[i,k]·t[i,l]/τ

        # Equation 4, L_inter(i,k): positive t[i,s(i)], negatives every t[j,l] with j != i
        positive = own.gather(2, salient[:, None, None].expand(B, K, 1)).squeeze(2)  # (B, K)
        negatives = _LogSumOfOthers.apply(z, t, scaled_mos)  # (B, K)
        if self.variant == "opinion":
            inter = _opinion_term(z, t, salient, negatives, scaled_mos)
        else:
            inter = (torch.logaddexp(positive, negatives) - positive).mean()

        # Equation 5, L_intra(i,k): positive t[i,k], negatives t[i,l] with l != k and l != s(i)
        crop = torch.arange(K, device=z.device)
        barred = (crop[:, None] == crop)[None] | (crop[None, None, :] == salient[:, None, None])  # (B, K, K)
        intra = _cross_entropy(own.diagonal(dim1=1, dim2=2)[..., None], own.masked_fill(barred, -torch.inf)).mean()
        return ManifoldTerms(inter + self.intra_weight * intra, inter, intra)

    def _v2(self, z: Tensor, t: Tensor, salient: Tensor, scaled_mos: Tensor | None) -> ManifoldTerms:
        # Equation 6, L(i): anchor z[i,s(i)], positive t[i,s(i)], one softmax over all negatives
        anchor = z[torch.arange(len(z), device=z.device), salient][:, None]  # (B, 1, D)
        own = torch.einsum("id,ild->il", anchor[:, 0], t)  # (B, K)
        positive = own.gather(1, salient[:, None])  # (B, 1)
        log_weight = math.log(self.intra_weight) if self.intra_weight > 0 else -math.inf
        within = (own + log_weight).scatter(1, salient[:, None], -torch.inf)  # (B, K)
        across = _LogSumOfOthers.apply(anchor, t, scaled_mos)  # (B, 1)
        total = _cross_entropy(positive, torch.cat([within, across], dim=1)).mean()
        return ManifoldTerms(total, _cross_entropy(positive, across).mean(), _cross_entropy(positive, within).mean())


def _opinion_term(z: Tensor, t: Tensor, salient: Tensor, negatives: Tensor, scaled_mos: Tensor) -> Tensor:
    """Equation 11: mean over positives t[j,s(j)] of every image j, weighted by exp(-(Δmos/σ)²/2)."""
    positives = t[torch.arange(len(t), device=t.device), salient]  # (B, D)
    products = torch.einsum("ikd,jd->ikj", z, positives)  # (B, K, B)
    weight = (-(scaled_mos[:, None] - scaled_mos[None, :]).square() / 2).softmax(dim=1)  # (B, B)
    terms = torch.logaddexp(products, negatives[..., None]) - products
    return torch.einsum("ij,ikj->ik", weight, terms).mean()


class MutualTerms(NamedTuple):
    """The two parts of the mutual loss, each a scalar tensor."""

    score: Tensor
    saliency: Tensor


def mutual_loss(student_score: Tensor, teacher_score: Tensor, student_map: Tensor, teacher_map: Tensor) -> MutualTerms:
    """Mutual learning: pull the student's crop scores and saliency maps (of the global view) towards the teacher's.

    Args:
        student_score, teacher_score: (B, K) standardised scores of crops; the teacher's are detached.
        student_map, teacher_map: (B, h, w) saliency, each map summing to 1; the teacher's are detached.

    Returns:
        `MutualTerms`: smooth-L1 of the scores, and KL(teacher || student) of the maps in nats, mean over B.
        Source: notebook 02, equation 8.
    """
    # Equation 8
    teacher = teacher_map.detach().float().flatten(1)  # (B, h·w)
    student = student_map.float().flatten(1).clamp_min(1e-12).log()
    return MutualTerms(
        F.smooth_l1_loss(student_score.float(), teacher_score.detach().float()),
        F.kl_div(student, teacher, reduction="batchmean"),
    )


def quality_loss(crop_scores: Tensor, weights: Tensor, mos: Tensor) -> Tensor:
    """Mean of smooth-L1 on every crop's score and smooth-L1 on the saliency-weighted mean of an image's crops.

    Args:
        crop_scores: (B, K) standardised scores.
        weights: (B, K) saliency weights, summing to 1 over K.
        mos: (B,) standardised scores.

    Returns:
        Scalar. Source: notebook 02, equation 7.
    """
    # Equation 7
    scores = crop_scores.float()
    per_crop = F.smooth_l1_loss(scores, mos[:, None].expand_as(scores))
    per_image = F.smooth_l1_loss((scores * weights).sum(dim=1), mos)
    return (per_crop + per_image) / 2


def correlation_loss(scores: Tensor, mos: Tensor) -> Tensor:
    """1 - Pearson correlation of scores (B,) and MOS (B,) over a step's images (beyond the paper).

    The scalar is 1 without a gradient if either input is constant, as with B = 1, and NaN if a value is NaN. Source:
    last term of notebook 02, equation 7.
    """
    if scores.ndim != 1 or scores.shape != mos.shape:
        raise InputError(f"scores are {tuple(scores.shape)}, mos {tuple(mos.shape)}: both must be (B,)")
    a, b = (values.float() - values.float().mean() for values in (scores, mos))
    norm = a.norm() * b.norm()
    return torch.ones_like(norm) if norm <= 1e-6 else 1 - (a * b).sum() / norm


def _cross_entropy(positive: Tensor, negatives: Tensor) -> Tensor:
    """-positive + logsumexp(positive and negatives) over the last axis; 0 if every negative is -inf."""
    return torch.logsumexp(torch.cat([positive, negatives], dim=-1), dim=-1) - positive.squeeze(-1)


class _LogSumOfOthers(torch.autograd.Function):
    """log Σ_{j≠i,l} w_ij·exp(z[i,a]·t[j,l]) over the negatives of other images, computed in chunks of images.

    The full matrix of anchor-crop products is never stored: each chunk holds at most `PART` products (or those of one
    image), and the backward pass recomputes them. Only z receives a gradient.
    """

    @staticmethod
    def forward(ctx, z: Tensor, t: Tensor, scaled_mos: Tensor | None) -> Tensor:
        """z: (B, A, D) anchors / τ; t: (B, K, D); scaled_mos: None or (B,) mos / σ -> (B, A), -inf if B = 1."""
        logs = []
        for part in _parts(z, t):
            products = _others(z, t, scaled_mos, part)
            highest = products.amax(dim=1, keepdim=True).clamp_min(torch.finfo(z.dtype).min)
            logs.append(products.sub_(highest).exp_().sum(dim=1).log_() + highest[:, 0])
        result = torch.cat(logs).view(z.shape[:2])
        ctx.save_for_backward(z, t, result, *([] if scaled_mos is None else [scaled_mos]))
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of z[i,a]: the incoming gradient times Σ_{j≠i,l} p[j,l]·t[j,l], p the softmax over negatives."""
        z, t, result, *scaled_mos = ctx.saved_tensors
        result = result.clamp_min(torch.finfo(z.dtype).min)
        given = torch.empty_like(z)
        with torch.autocast(z.device.type, enabled=False):
            for part in _parts(z, t):
                products = _others(z, t, scaled_mos[0] if scaled_mos else None, part)
                share = products.sub_(result[part].reshape(-1, 1)).exp_()  # (n·A, B·K)
                pull = share @ t.flatten(0, 1)
                given[part] = pull.view_as(z[part]) * gradient[part][..., None]
        return given, None, None


#: Largest number of anchor-crop products in memory at a time: 16 MiB in float32, about the size of a CPU cache.
PART = 2**22


def _parts(z: Tensor, t: Tensor) -> list[slice]:
    """Ranges of images, each as large as `PART` allows."""
    images = max(1, PART // (z.shape[1] * t.shape[0] * t.shape[1]))
    return [slice(first, min(first + images, len(z))) for first in range(0, len(z), images)]


def _others(z: Tensor, t: Tensor, scaled_mos: Tensor | None, part: slice) -> Tensor:
    """(n·A, B·K) z[i,a]·t[j,l] + log w_ij for the anchors of n images; -inf where j = i."""
    B, K, _ = t.shape
    anchors = z[part]
    n, A, _ = anchors.shape
    products = anchors.flatten(0, 1) @ t.flatten(0, 1).T
    by_image = products.view(n, A, B, K)
    if scaled_mos is not None:
        weight = -torch.expm1(-(scaled_mos[part, None] - scaled_mos[None, :]).square() / 2)  # (n, B)
        by_image += weight.log_()[:, None, :, None]
    row = torch.arange(n, device=z.device)
    by_image[row, :, row + part.start] = -torch.inf
    return products


def _check_embeddings(student: Tensor, teacher: Tensor, salient: Tensor) -> None:
    if student.ndim != 3 or student.shape != teacher.shape or 0 in student.shape:
        shapes = f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)}"
        raise InputError(f"{shapes}: both must be (B, K, D), equal and not empty")
    if not (student.is_floating_point() and teacher.is_floating_point()):
        raise InputError(f"student is {student.dtype} and teacher is {teacher.dtype}: both must be floating point")
    if salient.shape != student.shape[:1] or salient.dtype != torch.int64:
        raise InputError(f"salient is {tuple(salient.shape)} {salient.dtype}: it must be ({student.shape[0]},) int64")
    if not salient.is_cuda and (salient.min() < 0 or salient.max() >= student.shape[1]):
        held = f"{salient.min().item()}..{salient.max().item()}"
        raise InputError(f"salient holds {held}: crop indices must lie in 0..{student.shape[1] - 1}")
