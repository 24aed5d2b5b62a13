"""Explorers follow their controls, never show an old figure beside new values, and are one figure without a user."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure
from PIL import Image

from lmcl_core import InputError
from lmcl_core.results import explorers
from lmcl_core.results.explorers import VEGA_LITE, Explorer, PictureChooser, slider, thumbnail, umap_explorer

DATA = pd.DataFrame(
    dict(
        recipe=["without"] * 3 + ["with"] * 3,
        image=["a", "b", "c"] * 2,
        x=[0.0, 1, 2, 5, 6, 7],
        y=[0.0, 1, 2, 8, 9, 10],
        mos=[10.0, 20, 30] * 2,
        hard=[True, False, False, False, False, True],
        partner=["b", "a", "b", "c", "c", "a"],
    )
)
GREY = np.full((40, 50, 3), 128, dtype=np.uint8)


def small(**values) -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.suptitle(str(values))
    return figure


def test_the_figure_follows_the_controls():
    seen = []
    explorer = Explorer(lambda **values: seen.append(values) or small(**values), dict(level=slider("level", 3, 0, 5)))
    explorer.panel()
    first = explorer.picture.value
    explorer.widgets["level"].value = 4
    assert seen == [dict(level=3), dict(level=4)]
    assert Image.open(io.BytesIO(explorer.picture.value)).format == "PNG" and explorer.picture.value != first
    assert explorer.message.value == ""


def test_an_error_replaces_the_figure_and_a_new_figure_replaces_the_error():
    def draw(level):
        assert explorer.picture.value == b"" and explorer.picture.layout.display == "none", "the old figure is gone"
        if level == 4:
            raise InputError("level <4> is out of range: choose another")
        return small(level=level)

    explorer = Explorer(draw, dict(level=slider("level", 3, 0, 5)))
    explorer.panel()
    explorer.widgets["level"].value = 4
    assert explorer.message.value == "<b>level &lt;4&gt; is out of range: choose another</b>"
    assert explorer.picture.value == b"" and explorer.picture.layout.display == "none"
    explorer.widgets["level"].value = 5
    assert explorer.message.value == "" and explorer.picture.value and explorer.picture.layout.display == ""


def test_without_a_user_it_is_the_figure_of_the_first_values_and_builds_no_widget(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(
        explorers.figures, "show", lambda figure, alt, *_, **__: shown.append((figure.get_suptitle(), alt))
    )
    explorer = Explorer(lambda level: small(level=level), dict(level=slider("level", 3, 0, 5)), "a level")
    explorer._ipython_display_()
    assert shown == [("{'level': 3}", "a level")] and explorer.widgets == {}

    def refuse(level):
        raise InputError("no such level")

    Explorer(refuse, dict(level=slider("level", 3, 0, 5)))._ipython_display_()
    assert len(shown) == 1 and capsys.readouterr().out == "no such level\n"


def test_a_user_is_there_where_cells_may_ask_for_input(monkeypatch):
    message = dict(content=dict(allow_stdin=True))
    monkeypatch.setattr(explorers, "get_ipython", lambda: SimpleNamespace(get_parent=lambda: message))
    assert explorers.has_user() is True
    message["content"]["allow_stdin"] = False
    assert explorers.has_user() is False


@pytest.fixture
def chooser():
    """A chooser of two pictures, the names that were drawn, and the widgets: list, upload, path."""
    chooser, drawn = PictureChooser({"grey": GREY, "black": 0 * GREY}, 20), []

    def draw(picture):
        drawn.append(picture)
        return small(shape=chooser.read(picture).shape)

    explorer = Explorer(draw, dict(picture=chooser.control), picture=chooser.dress)
    controls = explorer.panel().children[0].children[0].children
    return chooser, explorer, drawn, controls


def test_an_upload_or_a_path_is_added_and_chosen(chooser, tmp_path):
    chooser, explorer, drawn, (choice, _, path) = chooser
    Image.fromarray(GREY[:30]).save(tmp_path / "mine.png")
    choice.value = "black"
    path.value = str(tmp_path / "mine.png")
    content = memoryview((tmp_path / "mine.png").read_bytes())
    for _ in range(2):  # the second one may be another file of the same name
        chooser._uploaded(dict(new=[dict(name="mine.png", content=content)]))
    assert drawn == ["grey", "black", str(tmp_path / "mine.png"), "mine.png", "mine.png'"] and choice.value == drawn[-1]
    assert chooser.read("mine.png").shape == (20, 33, 3) and explorer.message.value == ""


def test_a_picture_that_cannot_be_read_is_named_and_an_empty_upload_changes_nothing(chooser):
    chooser, explorer, drawn, (choice, _, path) = chooser
    chooser._uploaded(dict(new=[]))
    path.value = "  "
    assert drawn == ["grey"]
    chooser._uploaded(dict(new=[dict(name="empty.png", content=b"")]))
    assert "unreadable image empty.png" in explorer.message.value and explorer.picture.value == b""
    path.value = "no_such.png"
    assert "missing image no_such.png" in explorer.message.value
    choice.value = "black"
    assert explorer.message.value == "" and explorer.picture.value


def test_the_chart_has_one_panel_a_space_and_one_row_an_image():
    one = thumbnail(np.full((500, 300, 3), 128, dtype=np.uint8), side=96)
    assert Image.open(io.BytesIO(base64.b64decode(one.removeprefix("data:image/jpeg;base64,")))).size == (58, 96)
    chart = umap_explorer(DATA, {"a": one, "b": "data:b", "c": "data:c"}, "MOS")
    shown = DisplayFormatter().format(chart)[0]
    assert set(shown) == {VEGA_LITE, "text/plain"} and "vega-lite/v5" in shown[VEGA_LITE]["$schema"]
    panels, large = chart.spec["vconcat"]
    assert len(panels["hconcat"]) == 2 and len(large["hconcat"]) == 3, "the image, and its partner in each space"
    (rows,) = chart.spec["datasets"].values()
    by_name = {row["image"]: row for row in rows}
    assert set(by_name) == {"a", "b", "c"} and by_name["b"]["shown"] == "data:b"
    assert [by_name["c"][key] for key in ("x_0", "y_0", "x_1", "y_1", "mos")] == [2, 2, 7, 10, 30]
    assert [by_name["c"][key] for key in ("hard_0", "hard_1", "partner_0", "partner_1")] == [False, True, "b", "a"]
