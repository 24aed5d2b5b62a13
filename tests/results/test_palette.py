"""The colours that appear together stay apart for readers with protanopia and deuteranopia."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from matplotlib.colors import to_rgb
from skimage.color import deltaE_ciede2000, rgb2lab

from lmcl_core.results import palette

#: Machado, Oliveira and Fernandes (2009), full severity, on linear RGB: 3 x 3 matrices by rows.
MACHADO = {
    "protanopia": [0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998],
    "deuteranopia": [0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.011820, 0.042940, 0.968881],
}
LEAST = 10  # CIEDE2000; about 2 is just noticeable


def seen(colour: str, kind: str) -> np.ndarray:
    """CIELAB of a colour as it is seen with a kind of colour blindness."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.reshape(MACHADO[kind], (3, 3)) @ linear, 0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def too_close(colours, kind: str) -> list[tuple[str, str]]:
    return [pair for pair in combinations(colours, 2) if deltaE_ciede2000(*(seen(c, kind) for c in pair)) < LEAST]


def test_the_colours_of_groups_and_grey_stay_apart():
    for kind in MACHADO:
        assert too_close([*palette.COLOURS, palette.GREY], kind) == []


def test_groups_differ_without_colour():
    styles = palette.group_styles(map(str, range(25)))
    assert len({tuple(style.values()) for style in styles.values()}) == 25
    assert len({style["marker"] for style in list(styles.values())[: len(palette.MARKERS)]}) == len(palette.MARKERS)
    for one, other in ((palette.WITH, palette.WITHOUT), (palette.OURS, palette.PAPER), (palette.PAPER, palette.OTHERS)):
        assert one["color"] != other["color"] and one["marker"] != other["marker"]
