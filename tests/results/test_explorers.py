"""The explorer holds every image once, and both feature spaces."""

from __future__ import annotations

import base64
import io

import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from lmcl_core.results.explorers import VEGA_LITE, thumbnail, umap_explorer

DATA = pd.DataFrame(
    dict(
        recipe=["without"] * 3 + ["with"] * 3,
        image=["a", "b", "c"] * 2,
        x=[0.0, 1, 2, 5, 6, 7],
        y=[0.0, 1, 2, 8, 9, 10],
        mos=[10.0, 20, 30] * 2,
        pred=0.0,
        hard=[True, False, False, False, False, True],
    )
)


@pytest.mark.parametrize("shape", [(500, 300, 3), (20, 200, 3), (10, 10, 3)])
def test_a_thumbnail_is_a_small_image_of_the_same_aspect_ratio(shape):
    text = thumbnail(np.full(shape, 128, dtype=np.uint8), side=96)
    head, data = text.split(",")
    assert head == "data:image/jpeg;base64" and len(text) < 8000
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert max(image.size) == min(96, max(shape))
    assert image.size[0] / image.size[1] == pytest.approx(shape[1] / shape[0], rel=0.1)


def test_the_chart_has_one_panel_a_space_and_one_row_an_image():
    chart = umap_explorer(DATA, {"a": "data:a", "b": "data:b", "c": "data:c"}, "MOS").spec
    assert [panel["title"] for panel in chart["hconcat"]] == ["without", "with"]
    (rows,) = chart["datasets"].values()
    by_name = {row["image"]: row for row in rows}
    assert set(by_name) == {"a", "b", "c"} and by_name["b"]["shown"] == "data:b"
    assert [by_name["c"][key] for key in ("x_0", "y_0", "x_1", "y_1", "mos")] == [2, 2, 7, 10, 30]
    assert (by_name["c"]["hard_0"], by_name["c"]["hard_1"]) == (False, True)


def test_an_image_without_a_thumbnail_is_left_out():
    (rows,) = umap_explorer(DATA, {"a": "data:a"}, "MOS").spec["datasets"].values()
    assert [row["image"] for row in rows] == ["a"]


def test_jupyterlab_renders_the_chart_without_a_network():
    shown = DisplayFormatter().format(umap_explorer(DATA, {"a": "data:a"}, "MOS"))[0]
    assert set(shown) == {VEGA_LITE, "text/plain"} and "vega-lite/v5" in shown[VEGA_LITE]["$schema"]


def test_the_same_data_give_the_same_chart():
    assert umap_explorer(DATA, {"a": "data:a"}, "MOS").spec == umap_explorer(DATA, {"a": "data:a"}, "MOS").spec
