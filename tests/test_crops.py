"""Where crops are taken: inside the image, at every edge, by the given generator alone; and how salient they are."""

from __future__ import annotations


import pytest
import torch

from lmcl_core import CropSampler, InputError, crop_saliency, salient_crop
from lmcl_core.crops import crops_by_scale, fixed_boxes

SIZES = "1x1 1x9 9x1 2x3 5x5 7x8 8x7 8x8 9x8 16x9 31x200 200x31 500x500 1000x8 3x4000".split()
SIZES = [tuple(map(int, size.split("x"))) for size in SIZES]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_inside(boxes, height, width):
    top, left, tall, wide = boxes.unbind(-1)
    assert boxes.dtype == torch.int64
    assert (top >= 0).all() and (left >= 0).all() and (tall >= 1).all() and (wide >= 1).all()
    assert (top + tall <= height).all() and (left + wide <= width).all()


def test_sampled_boxes_are_whole_numbers_inside_the_image():
    for height, width in SIZES:
        boxes = CropSampler(8, 5, (1.0, 1.5, 0.5)).sample([height] * 20, [width] * 20, seeded())
        assert boxes.shape == (20, 5, 4)
        assert_inside(boxes, height, width)


def test_crop_k_covers_a_square_of_scale_k_clipped_to_the_short_side():
    for size, scales in [(8, (1.0,)), (8, (1.0, 1.5, 0.5)), (10, (0.04, 0.33)), (7, (2.2, 1.0))]:
        heights, widths = [h for h, _ in SIZES], [w for _, w in SIZES]
        boxes = CropSampler(size, 7, scales).sample(heights, widths, seeded())
        for i, (height, width) in enumerate(SIZES):
            for k in range(7):
                side = min(max(1, round(size * scales[k % len(scales)])), height, width)
                assert boxes[i, k, 2:].tolist() == [side, side]


def test_every_edge_is_reached():
    for height, width in [(7, 9), (4, 6), (6, 4), (5, 5), (1, 6), (11, 3)]:
        boxes = CropSampler(4, 4, (1.0, 0.5)).sample([height] * 400, [width] * 400, seeded()).view(-1, 4)
        assert_inside(boxes, height, width)
        assert boxes[:, 0].min() == 0 and boxes[:, 1].min() == 0
        assert (boxes[:, 0] + boxes[:, 2]).max() == height and (boxes[:, 1] + boxes[:, 3]).max() == width


def test_all_positions_are_equally_likely():
    boxes = CropSampler(4, 1).sample([6] * 9000, [7] * 9000, seeded()).view(-1, 4)  # 3 x 4 positions
    counts = torch.bincount(boxes[:, 0] * 4 + boxes[:, 1], minlength=12)
    assert counts.sum() == 9000 and ((counts - 750).abs() < 130).all()  # five standard deviations


def test_the_same_seed_gives_the_same_boxes_and_another_seed_others():
    sampler, sizes = CropSampler(8, 4), ([50, 60], [70, 40])
    first = sampler.sample(*sizes, seeded(3))
    assert torch.equal(first, sampler.sample(*map(torch.tensor, sizes), seeded(3)))
    assert not torch.equal(first, sampler.sample(*sizes, seeded(4)))


def test_flips_mirror_about_half_of_the_crops():
    flips = CropSampler(8, 10).flips(200, seeded())
    assert flips.shape == (200, 10) and flips.dtype == torch.bool and 0.44 < flips.float().mean() < 0.56
    assert torch.equal(flips, CropSampler(8, 10).flips(200, seeded()))
    generator = seeded()
    assert not CropSampler(8, 3, flip=False).flips(20, generator).any()
    assert torch.equal(generator.get_state(), seeded().get_state()), "without flip nothing is drawn"


def test_the_grid_reaches_all_four_edges_with_exactly_the_asked_number_of_squares():
    for height, width in SIZES:
        sampler = CropSampler(8, 3, (1.0, 2.0))
        for crops in range(1, 31):
            boxes = sampler.grid(height, width, crops)
            assert boxes.shape == (crops, 4)
            assert_inside(boxes, height, width)
            assert boxes[:, 0].min() == 0 and boxes[:, 1].min() == 0
            assert (boxes[:, 0] + boxes[:, 2]).max() == height and (boxes[:, 1] + boxes[:, 3]).max() == width
            if crops >= 2:
                assert (boxes[:, 2:] == min(8, height, width)).all()
            assert torch.equal(boxes, sampler.grid(height, width, crops))


def test_grids_of_one_two_and_nine():
    assert CropSampler(8).grid(50, 30, 1).tolist() == [[0, 0, 50, 30]]  # the whole image
    assert CropSampler(8).grid(50, 30, 2).tolist() == [[0, 0, 8, 8], [42, 22, 8, 8]]  # opposite corners
    nine = [[top, left, 15, 15] for top in (0, 18, 35) for left in (0, 18, 35)]
    assert CropSampler(10, 2, (1.5, 1.0)).grid(50, 50, 9).tolist() == nine  # of the first scale


def test_no_grid_box_stands_twice_where_there_is_room():
    for height, width in [(60, 60), (60, 100), (300, 60)]:
        for crops in range(2, 31):
            assert len(set(map(tuple, CropSampler(8).grid(height, width, crops).tolist()))) == crops


def density_by_pixels(heat, box, height, width):
    """Mean of the map over the box on a raster that both pixels and cells divide, relative to the whole mean."""
    h, w = heat.shape
    raster = heat.repeat_interleave(height, 0).repeat_interleave(width, 1)  # (h·height, w·width)
    top, left, tall, wide = box
    part = raster[top * h : (top + tall) * h, left * w : (left + wide) * w]
    return (part.mean() / raster.mean()).item()


def test_the_saliency_of_a_box_equals_the_mean_of_the_enlarged_map():
    for h, w, height, width in [(2, 3, 8, 12), (4, 4, 16, 16), (3, 5, 7, 11), (7, 7, 5, 6), (1, 1, 4, 9)]:
        heat = torch.rand(3, h, w, generator=seeded(), dtype=torch.float64)
        heat /= heat.sum((1, 2), keepdim=True)
        boxes = CropSampler(3, 6, (1.0, 0.4, 2.0)).sample([height] * 3, [width] * 3, seeded())
        density = crop_saliency(heat, boxes, torch.tensor([height] * 3), torch.tensor([width] * 3))
        assert density.shape == (3, 6) and density.dtype == torch.float64
        for i in range(3):
            for k in range(6):
                expected = density_by_pixels(heat[i], boxes[i, k].tolist(), height, width)
                assert density[i, k].item() == pytest.approx(expected)


def test_on_a_uniform_map_every_box_has_saliency_one():
    boxes = CropSampler(5, 8, (1.0, 0.3, 3.0)).sample([13] * 4, [17] * 4, seeded())
    density = crop_saliency(torch.full((4, 7, 7), 1 / 49), boxes, torch.tensor([13] * 4), torch.tensor([17] * 4))
    torch.testing.assert_close(density, torch.ones(4, 8))


def test_a_large_crop_does_not_win_by_its_size():
    heat = torch.zeros(1, 4, 4)
    heat[0, 1, 1], heat[0, 3, 3] = 0.9, 0.1
    boxes = torch.tensor([[[0, 0, 16, 16], [4, 4, 4, 4], [2, 2, 8, 8]]])
    density = crop_saliency(heat, boxes, torch.tensor([16]), torch.tensor([16]))
    assert density[0].tolist() == pytest.approx([1.0, 0.9 * 16, 0.9 * 4])
    assert salient_crop(density).tolist() == [1]


def test_the_first_of_equally_salient_crops_is_chosen():
    density = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [0.0, 1.0, 5.0], [4.0, 1.0, 4.0]])
    chosen = salient_crop(density)
    assert chosen.tolist() == [1, 0, 2, 0] and chosen.dtype == torch.int64


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: CropSampler(0), "CropSampler size is 0"),
        (lambda: CropSampler(crops=True), "CropSampler crops is True"),
        (lambda: CropSampler(scales=(1.0, 0.0)), "CropSampler scales is "),
        (lambda: CropSampler(flip="no"), "CropSampler flip is 'no'"),
        (lambda: CropSampler(4).sample([5, 6], [7], seeded()), "both must hold one number per image"),
        (lambda: CropSampler(4).sample([5], [-3], seeded()), "every height and width must be at least 1"),
        (lambda: CropSampler(4).grid(9, 9, 10**9), "at least 1 and at most 65536"),
        (lambda: CropSampler(4).grid(9, 9, 2.0), "it must be a whole number of at least 1"),
    ],
)
def test_bad_settings_and_sizes_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_test_boxes_are_the_grid_of_every_different_scale():
    sampler = CropSampler(32, crops=4, scales=(1.0, 1.0, 1.5))
    boxes = fixed_boxes(sampler, 100, 120, 9)
    assert boxes.shape == (9 + 4, 4)
    assert torch.equal(boxes[:9], CropSampler(32).grid(100, 120, 9))
    assert torch.equal(boxes[9:], CropSampler(48).grid(100, 120, 4))
    assert torch.equal(fixed_boxes(CropSampler(32, 1, (1.0, 1.5)), 100, 120, 9), boxes[:9]), "only scales of training"


def test_every_scale_is_covered_equally_densely():
    for scales, crops, counts in [
        ((1.0,), 9, [9]),
        ((1.0, 2.0), 9, [9, 2]),
        ((1.0, 0.5), 3, [3, 12]),
        ((2.0, 1.0, 2.0), 4, [4, 16]),
        ((1.0, 5.0), 9, [9, 2]),
        ((1.0, 1.5), 1, [1, 1]),
    ]:
        assert list(crops_by_scale(scales, crops).values()) == counts
        assert len(fixed_boxes(CropSampler(20, scales=scales), 300, 400, crops)) == sum(counts)
