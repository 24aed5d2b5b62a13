"""A feature space to walk through: point at a dot, see the picture; in JupyterLab, without a network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

#: The kind of output for which JupyterLab 4 ships a renderer; Altair 5 writes this version.
VEGA_LITE = "application/vnd.vegalite.v5+json"


class Explorer:
    """A Vega-Lite chart that JupyterLab draws with what it ships; elsewhere a line of text takes its place.

    Args:
        spec: the chart as a dict, its data inside.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {VEGA_LITE: self.spec, "text/plain": "an interactive chart: open the notebook in JupyterLab to see it"}


def thumbnail(pixels: np.ndarray, side: int = 72) -> str:
    """A picture as a small JPEG in a data address.

    Args:
        pixels: (H, W, 3) uint8.
        side: its longer side at most, in pixels.

    Returns:
        ``data:image/jpeg;base64,...``, about 2 kB.
    """
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def umap_explorer(data: pd.DataFrame, thumbnails: Mapping[str, str], label: str) -> Explorer:
    """UMAP panels to zoom and to point at; a picture that is pointed at in one panel stands out in all of them.

    Args:
        data: columns recipe, image, x, y, mos, pred, hard, as for `result_figures.umap_panels`.
        thumbnails: from `thumbnail`, by image; pictures without one are left out. At most 5,000.
        label: what the scores are.

    Returns:
        The chart, to be displayed.
    """
    import altair as alt

    names = list(data["recipe"].unique())
    data = data[data["image"].isin(thumbnails)]
    wide = data.pivot(index="image", columns="recipe", values=["x", "y", "hard"])
    wide.columns = [f"{value}_{names.index(recipe)}" for value, recipe in wide.columns]
    once = data.drop_duplicates("image").set_index("image")[["mos"]]
    rows = wide.join(once).reset_index()
    rows = rows.assign(shown=rows["image"].map(thumbnails)).astype(
        {name: float for name in rows if name[:2] in ("x_", "y_")}
    )
    pointed = alt.selection_point(name="pointed", fields=["image"], on="pointerover", empty=False, clear="pointerout")
    panels = []
    for n, name in enumerate(names):
        panel = (
            alt.Chart(name=f"panel_{n}", title=name, width=330, height=330)
            .mark_circle(strokeWidth=1.4)
            .encode(
                x=alt.X(f"x_{n}:Q", axis=None, scale=alt.Scale(zero=False)),
                y=alt.Y(f"y_{n}:Q", axis=None, scale=alt.Scale(zero=False)),
                color=alt.Color("mos:Q", scale=alt.Scale(scheme="viridis"), title=label),
                stroke=alt.condition(f"datum.hard_{n}", alt.value("#c0392b"), alt.value("transparent")),
                size=alt.condition(pointed, alt.value(260), alt.value(45)),
                tooltip=[
                    alt.Tooltip("shown:N", title="image"),
                    alt.Tooltip("image:N", title="file"),
                    alt.Tooltip("mos:Q", format=".1f"),
                ],
            )
            .add_params(pointed, alt.selection_interval(bind="scales", name=f"zoom_{n}"))
        )
        panels.append(panel)
    return Explorer(alt.hconcat(*panels, data=rows).to_dict())
