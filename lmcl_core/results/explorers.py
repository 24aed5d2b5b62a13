"""Explorers of notebook 08: controls and a figure in JupyterLab, the figure alone where nobody can use controls."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import altair
import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import display
from ipywidgets import HTML, Box, Button, Dropdown, FileUpload, HBox, IntSlider, Text, VBox, Widget
from ipywidgets import Image as WidgetImage
from matplotlib.figure import Figure
from PIL import Image

from ..common.errors import InputError, RunError, first_line
from ..data.distortions import ALL_DISTORTIONS, LEVELS
from ..data.images import from_bytes, load_rgb
from ..hard_examples import Features
from ..inference import Explanation, Scorer
from . import figures, palette, views

#: Builds a widget; a partial with the keyword `value`.
Control = partial[Widget]
VEGA_LITE = "application/vnd.vegalite.v5+json"  #: output type that JupyterLab 4 renders and Altair 5 writes
CROPS_SHORT_SIDE = 384  #: pixels; larger pictures are shrunk, so that crops of the demo's models stay visible


def has_user() -> bool:
    """Whether someone can use controls: JupyterLab lets cells ask for input; papermill, nbconvert and nbval do not."""
    message = getattr(get_ipython(), "get_parent", dict)()
    return bool(message.get("content", {}).get("allow_stdin"))


def show(figure: Figure, alt: str) -> None:
    """Display a figure with photographs, sharp, with an alternative text. JPEG keeps the notebook small."""
    figures.show(figure, alt, "jpeg", dpi=palette.DPI, pil_kwargs=dict(quality=80))


def slider(description: str, value: int, low: int, high: int) -> Control:
    """A whole-number slider that reports its value when it is released."""
    return partial(IntSlider, value=value, min=low, max=high, description=description, continuous_update=False)


class Explorer:
    """Controls above a figure that follows them. Where nobody can use the controls, the figure of their first values.

    Args:
        draw: returns the figure of the controls' values, which it takes by name. An `InputError` or `RunError` is shown
            instead of the figure.
        controls: functions that build a widget, by name, with the first value among their keywords.
        alt: alternative text of the figure without controls.
        dress: what is shown for a widget, by name; by default the widget itself.
    """

    def __init__(
        self,
        draw: Callable[..., Figure],
        controls: Mapping[str, Control],
        alt: str = "",
        **dress: Callable[[Widget], Widget],
    ) -> None:
        self.draw, self.controls, self.alt, self.dress = draw, controls, alt, dress
        self.widgets: dict[str, Widget] = {}  # by name of the control; empty until `panel` is called

    def panel(self) -> VBox:
        """Build the controls, with the figure and a line for messages below them."""
        self.message, self.picture = HTML(), WidgetImage(format="png", layout=dict(max_width="100%"))
        self.widgets = {name: build() for name, build in self.controls.items()}
        shown = [self.dress.get(name, lambda one: one)(widget) for name, widget in self.widgets.items()]
        for widget in self.widgets.values():
            widget.observe(self.update, names="value")
        self.update()
        return VBox([Box(shown, layout=dict(flex_flow="row wrap")), self.message, self.picture])

    def figure(self) -> Figure:
        """The figure of the controls' values."""
        values = {name: control.keywords["value"] for name, control in self.controls.items()}
        return self.draw(**values | {name: widget.value for name, widget in self.widgets.items()})

    def update(self, change: object = None) -> None:
        """Draw the figure again. The old one disappears first, so that it is never shown beside new values."""
        self.picture.layout.display = "none"
        self.picture.value = b""
        self.message.value = "computing …"
        try:
            figure, buffer = self.figure(), io.BytesIO()
            figure.savefig(buffer, format="png", dpi=palette.DPI)
        except Exception as error:
            expected = isinstance(error, (InputError, RunError))
            text = str(error) if expected else f"{type(error).__name__}: {first_line(error)}"
            self.message.value = f"<b>{html.escape(text)}</b>"
            if not expected:
                raise
        else:
            self.picture.layout.width = f"{figures.css_width(figure)}px"
            self.message.value = ""
            self.picture.value = buffer.getvalue()
            self.picture.layout.display = ""

    def _ipython_display_(self) -> None:
        if has_user():
            display(self.panel())
            return
        try:
            show(self.figure(), self.alt)
        except (InputError, RunError) as error:
            print(error)


class PictureChooser:
    """A list of pictures to which an upload or a path adds one. A picture is read when it is drawn.

    `pictures` are (H, W, 3) uint8 arrays or paths, by name; the first is chosen at the beginning. Pictures whose short
    side is larger than `short_side` pixels are shrunk to it.
    """

    def __init__(self, pictures: Mapping[str, np.ndarray | str | Path], short_side: int) -> None:
        self.pictures: dict[str, Any] = dict(pictures)
        self.short_side = short_side
        self.control = partial(Dropdown, options=list(pictures), value=next(iter(pictures)), description="picture")

    def read(self, name: str) -> np.ndarray:
        """The picture of that name, shrunk. InputError: it cannot be read."""
        item = self.pictures[name]
        return load_rgb(from_bytes(item, name) if isinstance(item, bytes) else item, self.short_side).numpy()

    def add(self, name: str, item: bytes | str) -> None:
        """Put a path, or the content of a file, at the head of the list, and choose it."""
        while name in self.pictures and not (isinstance(item, str) and self.pictures[name] == item):
            name += "'"
        self.pictures = {name: item} | self.pictures
        self.choice.options = list(self.pictures)  # chooses the first one

    def dress(self, choice: Dropdown) -> HBox:
        """The list with a button for uploads and a field for paths."""
        self.choice = choice
        upload = FileUpload(accept="image/*", description="your picture")
        path = Text(placeholder="or its path, then Enter", continuous_update=False)
        upload.observe(self._uploaded, names="value")
        path.observe(lambda change: change["new"].strip() and self.add(*2 * [change["new"].strip()]), names="value")
        return HBox([choice, upload, path])

    def _uploaded(self, change: dict[str, Any]) -> None:
        for file in change["new"]:
            self.add(file["name"], bytes(file["content"]))


def buttons(slider: IntSlider) -> HBox:
    """A slider between two buttons, previous and next, which stop at its ends."""

    def step(by: int) -> None:
        slider.value = min(max(slider.value + by, slider.min), slider.max)

    before, after = (Button(description=text) for text in ("previous", "next"))
    before.on_click(lambda button: step(-1))
    after.on_click(lambda button: step(1))
    return HBox([before, slider, after])


def numbers(text: str) -> tuple[float, ...]:
    """The numbers of a text such as "1, 1, 1.5". InputError: it holds something else."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{text!r} is not a list of numbers: write them like 1, 1, 1.5") from error


def crop_explorer(model: views.CropModel, pictures: Mapping[str, np.ndarray | str | Path]) -> Explorer:
    """Random crops of a picture, their saliency, similarity and loss; the next three pictures complete the batch."""
    chooser, recipe = PictureChooser(pictures, CROPS_SHORT_SIDE), model.recipe

    def draw(picture: str, seed: int, crops: int, scales: str) -> Figure:
        others = [name for name in pictures if name != picture][:3]
        batch = [chooser.read(name) for name in (picture, *others)]
        view = views.view_crops(model, batch, seed, crops, numbers(scales))
        return views.draw_crops(batch[0], view, model.title)

    scales = ", ".join(f"{scale:g}" for scale in recipe.scales)
    controls = dict(
        picture=chooser.control,
        seed=slider("seed", 0, 0, 99),
        crops=slider("crops", recipe.crops, 1, max(12, recipe.crops)),
        scales=partial(Text, value=scales, description="scales", continuous_update=False),
    )
    alt = "A picture with random crops, its saliency map, the similarities of the crops' embeddings and the loss terms."
    return Explorer(draw, controls, alt, picture=chooser.dress)


def distortion_explorer(scorer: Scorer, pictures: Mapping[str, np.ndarray | str | Path]) -> Explorer:
    """A picture at a level of a distortion, its score and saliency, and the curve over the levels."""
    chooser = PictureChooser(pictures, scorer.short_side)

    @lru_cache(maxsize=4)  # another level of the same picture and distortion is not computed again
    def levels(content: bytes, shape: tuple[int, ...], distortion: str) -> list[Explanation]:
        return views.explain_levels(scorer, np.frombuffer(content, np.uint8).reshape(shape), distortion)

    def draw(picture: str, distortion: str, level: int) -> Figure:
        pixels = chooser.read(picture)
        return views.draw_level(levels(pixels.tobytes(), pixels.shape, distortion), distortion, level)

    kind = partial(Dropdown, options=list(ALL_DISTORTIONS), value="blur", description="distortion")
    controls = dict(picture=chooser.control, distortion=kind, level=slider("level", 3, 0, LEVELS))
    alt = "A blurred picture, its saliency map, and its score at every level of the blur."
    return Explorer(draw, controls, alt, picture=chooser.dress)


def pair_explorer(read: views.Read, spaces: Mapping[str, Features], pairs: pd.DataFrame) -> Explorer:
    """Hard pairs one after another; `read`, `spaces` and `pairs` as in `views.draw_pair`; at least one pair."""
    controls = dict(number=slider("pair", 1, 1, len(pairs)))
    alt = "Two pictures that are close in feature space although their labels differ, large, with their predictions."
    return Explorer(lambda number: views.draw_pair(read, spaces, pairs, number), controls, alt, number=buttons)


class Chart:
    """A Vega-Lite chart with its data. JupyterLab draws it with its own renderer; others show a line of text."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {VEGA_LITE: self.spec, "text/plain": "an interactive chart: open the notebook in JupyterLab to see it"}


def thumbnail(pixels: np.ndarray, side: int = 240) -> str:
    """A (H, W, 3) uint8 image as a JPEG data URL of 5 to 20 kB; its longer side has at most `side` pixels."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    image.save(buffer, format="JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def umap_explorer(data: pd.DataFrame, thumbnails: Mapping[str, str], label: str) -> Chart:
    """UMAP panels with zoom; the image under the pointer and its partner in each space are marked and shown large.

    `data` is from `views.umap_table`. `thumbnails` are at most 5,000 data URLs, by image; images without one are left
    out. `label` is the label of the MOS.
    """
    names = list(data["recipe"].unique())
    rows = _one_row_an_image(data[data["image"].isin(thumbnails)], names)
    rows = rows.assign(shown=rows["image"].map(thumbnails))
    first = rows.sort_values("hard_0", ascending=False, kind="stable")["image"].iloc[0]
    pointed = altair.selection_point(  # only dots count: pointing beside them keeps the last image
        name="pointed", fields=["image"], on="symbol:pointerover", clear=False, empty=False, value=first
    )
    bare = dict(axis=None, scale=altair.Scale(zero=False))
    panels = []
    for n, name in enumerate(names):
        dots = altair.Chart(rows, title=name, width=300, height=300).encode(
            x=altair.X(f"x_{n}:Q", **bare), y=altair.Y(f"y_{n}:Q", **bare)
        )
        ring = dots.transform_filter(pointed)
        ring = ring.transform_lookup(f"partner_{n}", altair.LookupData(rows, "image", [f"x_{n}", f"y_{n}"]))
        every = (
            dots.properties(name=f"panel_{n}")
            .mark_circle(strokeWidth=1.4, size=60)
            .encode(
                color=altair.Color("mos:Q", scale=altair.Scale(scheme="viridis"), title=label),
                stroke=altair.condition(f"datum.hard_{n}", altair.value(palette.BLACK), altair.value("transparent")),
                size=altair.condition(pointed, altair.value(260), altair.value(60)),
            )
        )
        every = every.add_params(pointed, altair.selection_interval(bind="scales", name=f"zoom_{n}"))
        panels.append(altair.layer(every, ring.mark_point(size=260, color=palette.VERMILION, strokeWidth=2)))
    large = [_large(rows, pointed, "the image", None)]
    large += [_large(rows, pointed, f"partner, {name}", f"partner_{n}") for n, name in enumerate(names)]
    chart = altair.vconcat(altair.hconcat(*panels), altair.hconcat(*large))
    return Chart(chart.properties(usermeta=dict(embedOptions=dict(renderer="svg"))).to_dict())


def _one_row_an_image(data: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The rows of all spaces side by side: image, mos, and x_N, y_N, hard_N, partner_N of space N."""
    wide = data.pivot(index="image", columns="recipe", values=["x", "y", "hard", "partner"])
    wide.columns = [f"{value}_{names.index(recipe)}" for value, recipe in wide.columns]
    rows = wide.join(data.drop_duplicates("image").set_index("image")["mos"]).reset_index()
    return rows.astype({name: float for name in rows if name[:2] in ("x_", "y_")})


def _large(rows: pd.DataFrame, pointed: Any, title: str, partner: str | None) -> Any:
    """A chart of the picture under the pointer, or of its partner: the image named by that column."""
    base = altair.Chart(rows, title=title, width=200, height=215).transform_filter(pointed)
    if partner:
        base = base.transform_lookup(partner, altair.LookupData(rows, "image", ["shown", "mos"]))
    text = base.mark_text(baseline="top", fontSize=11).encode(
        x=altair.value(100), y=altair.value(203), text=altair.Text("mos:Q", format=".1f")
    )
    picture = base.mark_image(width=200, height=200).encode(x=altair.value(100), y=altair.value(100), url="shown:N")
    return altair.layer(picture, text)
