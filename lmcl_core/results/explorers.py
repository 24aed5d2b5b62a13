"""An interactive chart of feature spaces for JupyterLab: hover over a dot to see the image. It works offline."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from . import palette

VEGA_LITE = "application/vnd.vegalite.v5+json"  #: output type that JupyterLab 4 renders and Altair 5 writes


class Explorer:
    """A Vega-Lite chart with its data. JupyterLab draws it with its own renderer; others show a line of text."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {VEGA_LITE: self.spec, "text/plain": "an interactive chart: open the notebook in JupyterLab to see it"}


def thumbnail(pixels: np.ndarray, side: int = 72) -> str:
    """A (H, W, 3) uint8 image as a JPEG data URL of about 2 kB; its longer side has at most `side` pixels."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    image.save(buffer, format="JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def umap_explorer(data: pd.DataFrame, thumbnails: Mapping[str, str], label: str) -> Explorer:
    """UMAP panels with zoom; the image under the pointer is marked in every panel and shown in the tooltip.

    Images in hard pairs are squares with a black edge.

    `data` has the columns recipe, image, x, y, mos, hard; `thumbnails` are at most 5,000 data URLs by image, and images
    without one are left out; `label` is the label of the MOS.
    """
    import altair as alt

    names = list(data["recipe"].unique())
    data = data[data["image"].isin(thumbnails)]
    wide = data.pivot(index="image", columns="recipe", values=["x", "y", "hard"])
    wide.columns = [f"{value}_{names.index(recipe)}" for value, recipe in wide.columns]
    rows = wide.join(data.drop_duplicates("image").set_index("image")["mos"]).reset_index()
    rows = rows.assign(shown=rows["image"].map(thumbnails))
    rows = rows.astype({name: float for name in rows if name[:2] in ("x_", "y_")})
    pointed = alt.selection_point(name="pointed", fields=["image"], on="pointerover", empty=False, clear="pointerout")
    shown = alt.Tooltip("shown:N", title="image")
    tooltip = [shown, alt.Tooltip("image:N", title="file"), alt.Tooltip("mos:Q", format=".1f")]
    bare = dict(axis=None, scale=alt.Scale(zero=False))
    panels = [
        alt.Chart(name=f"panel_{n}", title=name, width=330, height=330)
        .mark_point(filled=True, strokeWidth=1.8, opacity=0.9)
        .encode(
            x=alt.X(f"x_{n}:Q", **bare),
            y=alt.Y(f"y_{n}:Q", **bare),
            color=alt.Color("mos:Q", scale=alt.Scale(scheme="viridis"), title=label),
            stroke=alt.condition(f"datum.hard_{n}", alt.value(palette.BLACK), alt.value("transparent")),
            shape=alt.condition(f"datum.hard_{n}", alt.value("square"), alt.value("circle")),
            size=alt.condition(pointed, alt.value(260), alt.value(45)),
            tooltip=tooltip,
        )
        .add_params(pointed, alt.selection_interval(bind="scales", name=f"zoom_{n}"))
        for n, name in enumerate(names)
    ]
    return Explorer(alt.hconcat(*panels, data=rows).to_dict())
