"""The losses against plain loops over the equations of notebook 02, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lmcl_core import InputError, LocalManifoldContrastiveLoss, mutual_loss, quality_loss
from lmcl_core.losses import _parts, correlation_loss

SHAPES = [(2, 2, 3), (3, 4, 8), (5, 3, 2), (4, 1, 6), (1, 5, 4), (2, 7, 16)]
DEGENERATE = [(1, 1, 4), (1, 2, 4), (1, 4, 4), (3, 1, 4), (3, 2, 4)]


def units(B, K, D, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(B, K, D, generator=generator, dtype=dtype), dim=-1)


def sample(B, K, D, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1000 + seed)
    salient = torch.randint(0, K, (B,), generator=generator)
    return units(B, K, D, 2 * seed, dtype), units(B, K, D, 2 * seed + 1, dtype), salient


def cross_entropy(positive, negatives):
    """negatives: (weight, logit) pairs."""
    return -positive + math.log(math.exp(positive) + sum(weight * math.exp(logit) for weight, logit in negatives))


def by_loops(student, teacher, salient, temperature, intra_weight, variant, mos=None, sigma=None):
    """(total, inter, intra) from explicit loops over images and crops."""
    z, t, s = student.tolist(), teacher.tolist(), salient.tolist()
    B, K = len(z), len(z[0])

    def logit(a, b):
        return sum(x * y for x, y in zip(a, b)) / temperature

    def weight(i, j):
        return 1.0 if sigma is None else 1 - math.exp(-(((mos[i] - mos[j]) / sigma) ** 2) / 2)

    totals, inters, intras = [], [], []
    for i in range(B):
        if variant != "v2":
            for k in range(K):
                anchor = z[i][k]
                others = [(weight(i, j), logit(anchor, t[j][m])) for j in range(B) if j != i for m in range(K)]
                own = [(1.0, logit(anchor, t[i][m])) for m in range(K) if m != k and m != s[i]]
                near = [1 - weight(i, j) if variant == "opinion" else float(i == j) for j in range(B)]
                terms = [near[j] * cross_entropy(logit(anchor, t[j][s[j]]), others) for j in range(B)]
                inters.append(sum(terms) / sum(near))
                intras.append(cross_entropy(logit(anchor, t[i][k]), own))
        else:
            anchor = z[i][s[i]]
            positive = logit(anchor, t[i][s[i]])
            others = [(weight(i, j), logit(anchor, t[j][m])) for j in range(B) if j != i for m in range(K)]
            own = [(intra_weight, logit(anchor, t[i][m])) for m in range(K) if m != s[i]]
            totals.append(cross_entropy(positive, own + others))
            inters.append(cross_entropy(positive, others))
            intras.append(cross_entropy(positive, own))
    inter, intra = sum(inters) / len(inters), sum(intras) / len(intras)
    return (inter + intra_weight * intra if variant != "v2" else sum(totals) / B), inter, intra


@pytest.mark.parametrize("variant", ["v1", "v2"])
@pytest.mark.parametrize("shape", SHAPES + DEGENERATE)
def test_the_loss_equals_explicit_loops_on_random_unit_vectors(variant, shape):
    for seed, temperature, intra_weight in [(0, 0.2, 1.0), (1, 1.0, 0.5), (2, 0.07, 3.0), (3, 0.5, 0.0)]:
        inputs = sample(*shape, seed)
        terms = LocalManifoldContrastiveLoss(temperature, intra_weight, variant)(*inputs)
        assert [x.item() for x in terms] == pytest.approx(
            by_loops(*inputs, temperature, intra_weight, variant), rel=1e-10, abs=1e-12
        )


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_the_loss_equals_explicit_loops_on_hand_placed_vectors(variant):
    angle = torch.tensor([[0.0, 0.3, 1.2], [2.0, 2.0, 5.0], [3.1, 0.0, 4.0]], dtype=torch.float64)
    student, teacher = (torch.stack([(angle + d).cos(), (angle + d).sin()], -1) for d in (0.0, 0.4))
    salient = torch.tensor([2, 0, 1])
    terms = LocalManifoldContrastiveLoss(0.3, 0.7, variant)(student, teacher, salient)
    assert [x.item() for x in terms] == pytest.approx(by_loops(student, teacher, salient, 0.3, 0.7, variant))


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_two_orthogonal_images_of_one_crop_give_the_value_worked_out_by_hand(variant):
    vectors = torch.eye(2, dtype=torch.float64)[:, None]
    terms = LocalManifoldContrastiveLoss(1.0, 1.0, variant)(vectors, vectors, torch.zeros(2, dtype=torch.int64))
    assert terms.inter.item() == pytest.approx(math.log(math.e + 1) - 1) and terms.total == terms.inter
    assert terms.intra.item() == 0


def test_in_v1_three_identical_crops_give_the_value_worked_out_by_hand():
    vectors = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(1, 3, 2)
    terms = LocalManifoldContrastiveLoss(0.2, 2.0)(vectors, vectors, torch.tensor([0]))
    # the salient crop has two negatives, each other crop one
    assert terms.intra.item() == pytest.approx((math.log(3) + 2 * math.log(2)) / 3)
    assert terms.inter.item() == 0 and terms.total.item() == pytest.approx(2 * terms.intra.item())


@pytest.mark.parametrize("variant", ["v1", "v2"])
@pytest.mark.parametrize("shape, empty", [((1, 1, 4), "both"), ((1, 4, 4), "inter"), ((3, 1, 4), "intra")])
def test_an_empty_negative_set_gives_exactly_zero_and_finite_gradients(variant, shape, empty):
    student, teacher, salient = sample(*shape)
    student.requires_grad_()
    terms = LocalManifoldContrastiveLoss(0.2, 1.0, variant)(student, teacher, salient)
    teacher.requires_grad_()
    terms.total.backward()
    assert torch.isfinite(student.grad).all() and teacher.grad is None
    assert (terms.inter.item() == 0) == (empty in ("inter", "both"))
    assert (terms.intra.item() == 0) == (empty in ("intra", "both"))
    assert terms.total.item() == 0 or empty != "both"


@pytest.mark.parametrize("variant", ["v1", "v2"])
@pytest.mark.parametrize("shape", [(3, 3, 4), (2, 1, 3), (1, 3, 3)])
def test_the_gradient_is_the_derivative(variant, shape):
    student, teacher, salient = sample(*shape)
    mos = torch.linspace(-1, 1, shape[0], dtype=torch.float64)
    loss = LocalManifoldContrastiveLoss(0.5, 0.7, variant, quality_sigma=0.8)
    with torch.random.fork_rng(devices=[]):
        assert torch.autograd.gradcheck(lambda z: tuple(loss(z, teacher, salient, mos)), student.requires_grad_())


@pytest.mark.parametrize("variant", ["v1", "v2"])
@pytest.mark.parametrize("sigma", [None, 0.5])
@pytest.mark.parametrize("part", [1, 2 * 3 * 7 * 3])  # one image at a time; two, so that the last part is smaller
def test_loss_and_gradient_do_not_depend_on_how_many_products_exist_at_once(variant, sigma, part, monkeypatch):
    student, teacher, salient = sample(7, 3, 5)
    loss, mos = LocalManifoldContrastiveLoss(0.2, 0.5, variant, sigma), torch.linspace(-2, 2, 7, dtype=torch.float64)

    def value_and_gradient():
        z = student.clone().requires_grad_()
        total = loss(z, teacher, salient, mos).total
        total.backward()
        return torch.cat([total.detach()[None], z.grad.flatten()])

    whole = value_and_gradient()
    monkeypatch.setattr("lmcl_core.losses.PART", part)
    assert len(_parts(student, teacher)) == (7 if part == 1 else 4)
    assert torch.allclose(value_and_gradient(), whole, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("variant", ["v1", "v2"])
@pytest.mark.parametrize("sigma", [None, 0.5])
def test_the_order_of_the_images_does_not_matter(variant, sigma):
    student, teacher, salient = sample(5, 3, 4)
    mos = torch.tensor([0.1, -1.0, 0.3, 2.0, 0.1])
    order = torch.tensor([3, 0, 4, 1, 2])
    loss = LocalManifoldContrastiveLoss(0.2, 0.5, variant, sigma)
    straight = loss(student, teacher, salient, mos)
    shuffled = loss(student[order], teacher[order], salient[order], mos[order])
    torch.testing.assert_close(list(shuffled), list(straight))


@pytest.mark.parametrize("variant", ["v1", "v2", "opinion"])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0])
def test_quality_weights_equal_explicit_loops(variant, sigma):
    inputs = sample(4, 3, 5)
    mos = [0.2, -1.5, 0.2, 1.1]
    terms = LocalManifoldContrastiveLoss(0.2, 0.5, variant, sigma)(*inputs, torch.tensor(mos, dtype=torch.float64))
    assert [x.item() for x in terms] == pytest.approx(by_loops(*inputs, 0.2, 0.5, variant, mos, sigma), rel=1e-9)
    if variant != "opinion":  # images of equal MOS are no negatives
        assert LocalManifoldContrastiveLoss(0.2, 0.5, variant, sigma)(*inputs, torch.full((4,), 0.7)).inter.item() == 0


def test_by_opinion_the_loss_falls_when_images_of_near_mos_come_closer_and_images_of_far_mos_part():
    far, loss = torch.tensor([0.0, 0.0, 4.0]), LocalManifoldContrastiveLoss(0.2, 0.0, "opinion", 0.5)
    apart = F.one_hot(torch.tensor([[0], [1], [2]])).double()
    near = F.one_hot(torch.tensor([[0], [0], [2]]), 3).double()
    wrong = F.one_hot(torch.tensor([[0], [1], [0]]), 3).double()
    values = [loss(z, z, torch.zeros(3, dtype=torch.int64), far).inter.item() for z in (near, apart, wrong)]
    assert values == sorted(values) and len(set(values)) == 3
    with pytest.raises(InputError, match="variant 'opinion' needs quality_sigma"):
        LocalManifoldContrastiveLoss(variant="opinion")


@pytest.mark.parametrize("variant", ["v1", "v2"])
@pytest.mark.parametrize(
    "given, used",
    [(torch.float64, torch.float64), (torch.bfloat16, torch.float32), (torch.float16, torch.float32)],
)
def test_half_precision_is_raised_and_double_is_kept(variant, given, used):
    student, teacher, salient = sample(3, 3, 8)
    student, teacher = student.to(given), teacher.to(given)
    loss = LocalManifoldContrastiveLoss(0.1, 0.5, variant)
    terms = loss(student, teacher, salient)
    assert all(x.dtype == used and x.shape == () for x in terms)
    assert list(terms) == list(loss(student.to(used), teacher.to(used), salient))


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_autocast_changes_nothing(variant):
    student, teacher, salient = sample(3, 3, 8, dtype=torch.float32)
    student.requires_grad_()
    loss = LocalManifoldContrastiveLoss(1e-3, 0.5, variant, 0.5)  # a small temperature does not overflow
    mos = torch.tensor([0.0, 1.0, 1.2])
    outside = loss(student, teacher, salient, mos)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(student, teacher, salient, mos)
    assert list(inside) == list(outside) and inside.total.dtype == torch.float32
    gradients = [torch.autograd.grad(terms.total, student)[0] for terms in (inside, outside)]
    assert torch.equal(*gradients) and torch.isfinite(gradients[0]).all()


@pytest.mark.parametrize(
    "name, values, rule",
    [
        ("temperature", (0, math.nan, math.inf), "a finite number greater than 0"),
        ("intra_weight", (-0.1, math.nan), "a finite number of 0 or more"),
        ("variant", ("v3", None), "'v1', 'v2' or 'opinion'"),
        ("quality_sigma", (0, math.nan), "None or greater than 0"),
    ],
)
def test_a_bad_setting_is_named(name, values, rule):
    for value in values:
        with pytest.raises(InputError) as error:
            LocalManifoldContrastiveLoss(**{name: value})
        assert str(error.value) == f"{name} is {value!r}: it must be {rule}"


LONGS = torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    "student, teacher, salient, message",
    [
        ((3, 4), (3, 4), LONGS, "student (3, 4) and teacher (3, 4): both must be (B, K, D), equal and not empty"),
        ((2, 3, 4), (2, 3, 5), LONGS, "teacher (2, 3, 5): both must be (B, K, D), equal"),
        ((2, 3, 4), (2, 3, 4), torch.zeros(2), "salient is (2,) torch.float32: it must be (2,) int64"),
        ((2, 3, 4), (2, 3, 4), LONGS[:1], "salient is (1,) torch.int64: it must be (2,) int64"),
        ((2, 3, 4), (2, 3, 4), torch.tensor([-1, 3]), "salient holds -1..3: crop indices must lie in 0..2"),
    ],
)
def test_inputs_that_do_not_fit_are_named(student, teacher, salient, message):
    with pytest.raises(InputError) as error:
        LocalManifoldContrastiveLoss()(torch.zeros(student), torch.zeros(teacher), salient)
    assert message in str(error.value)
    for mos, problem in ((None, "needs the MOS of every image: pass mos="), (torch.zeros(3), "mos is .3,.: it must")):
        with pytest.raises(InputError, match=problem):
            LocalManifoldContrastiveLoss(quality_sigma=1.0)(*sample(2, 2, 4), mos)


def smooth_l1(difference):
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def test_mutual_loss_equals_the_plain_formulas():
    generator = torch.Generator().manual_seed(0)
    a, b = (2 * torch.randn(3, 4, generator=generator) for _ in range(2))
    p, q = (torch.rand(3, 2, 5, generator=generator).flatten(1).softmax(1).view(3, 2, 5) for _ in range(2))
    terms = mutual_loss(a, b, p, q)
    score = sum(smooth_l1(x - y) for x, y in zip(a.flatten().tolist(), b.flatten().tolist())) / 12
    kl = sum(y * math.log(y / x) for x, y in zip(p.flatten().tolist(), q.flatten().tolist())) / 3
    assert terms.score.item() == pytest.approx(score, rel=1e-5)
    assert terms.saliency.item() == pytest.approx(kl, rel=1e-4)


def test_mutual_loss_stays_finite_where_a_map_is_zero():
    zero, spread = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.5, 0.5]]])
    score = torch.zeros(1, 1)
    assert torch.isfinite(mutual_loss(score, score, zero, spread).saliency)
    assert mutual_loss(score, score, spread, zero).saliency.item() == pytest.approx(math.log(2))


def test_mutual_loss_teaches_the_student_only():
    student, teacher = (torch.zeros(1, 2, requires_grad=True) for _ in range(2))
    student_map = torch.tensor([[[0.3, 0.7]]], requires_grad=True)
    teacher_map = torch.tensor([[[0.6, 0.4]]], requires_grad=True)
    terms = mutual_loss(student + 1, teacher, student_map, teacher_map)
    (terms.score + terms.saliency).backward()
    assert teacher.grad is None and teacher_map.grad is None
    assert student.grad.abs().min() > 0 and student_map.grad.abs().min() > 0


def test_quality_loss_equals_the_plain_formula():
    generator = torch.Generator().manual_seed(0)
    scores, mos = 2 * torch.randn(3, 4, generator=generator), torch.randn(3, generator=generator)
    weights = torch.rand(3, 4, generator=generator).softmax(1)
    s, w, m = scores.tolist(), weights.tolist(), mos.tolist()
    crops = sum(smooth_l1(s[i][k] - m[i]) for i in range(3) for k in range(4)) / 12
    image = sum(smooth_l1(sum(x * y for x, y in zip(s[i], w[i])) - m[i]) for i in range(3)) / 3
    assert quality_loss(scores, weights, mos).item() == pytest.approx((crops + image) / 2, rel=1e-5)


def test_correlation_loss_is_one_minus_the_correlation():
    generator = torch.Generator().manual_seed(0)
    scores, mos = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    wanted = 1 - np.corrcoef(scores, mos)[0, 1]
    assert correlation_loss(scores, mos).item() == pytest.approx(wanted, abs=1e-5)
    assert correlation_loss(3 * mos - 7, mos).item() == pytest.approx(0, abs=1e-5)
    assert correlation_loss(-mos, mos).item() == pytest.approx(2, abs=1e-5)
    assert correlation_loss(torch.tensor([1.0, float("nan"), 2.0]), torch.arange(3.0)).isnan()


@pytest.mark.parametrize("scores", [torch.ones(4), torch.tensor([0.3])])
def test_correlation_loss_of_constant_scores_has_no_gradient(scores):
    scores = scores.requires_grad_()
    loss = correlation_loss(scores, torch.arange(float(len(scores))))
    assert loss.item() == 1 and not loss.requires_grad
