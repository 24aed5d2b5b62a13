"""The data that a figure shows, and the files that it writes."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from lmcl_core.results import figures, palette

HISTORY = "epoch loss quality inter intra mutual_score mutual_saliency test_srcc test_plcc"
RNG = np.random.default_rng(0)
SCORES = pd.DataFrame(dict(split=np.repeat([0, 1], 20), mos=RNG.uniform(0, 100, 40), pred=RNG.uniform(0, 100, 40)))


def test_the_alternative_text_is_in_the_file_and_in_the_output_of_a_notebook(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *objects, **options: shown.append((objects, options)))
    saved = figures.save(figures.mos_histogram(SCORES, "MOS"), SCORES, tmp_path, "name", "A caption.", "a note")
    assert [text.get_text() for text in saved.figure.texts] == ["a note"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["name.csv", "name.pdf", "name.png"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "name.csv"), SCORES, rtol=1e-5)
    assert Image.open(tmp_path / "name.png").info["Description"] == "A caption. A note."
    saved._ipython_display_()
    ((bundle,), options), ((caption,), _) = shown
    assert options["metadata"]["image/png"] == dict(alt="A caption. A note.", width=round(96 * 3.3)) and options["raw"]
    assert set(bundle) == {"image/png", "text/plain"} and caption.data == "*name:* A caption."


@pytest.mark.slow
def test_a_figure_has_the_size_of_a_column_and_no_smaller_type_than_9_points(tmp_path):
    data = SCORES.assign(distortion=np.tile([f"type {n}" for n in range(20)], 2))
    for number, figure in enumerate((figures.mos_histogram(SCORES, "MOS"), figures.scores_against_mos(data, "MOS"))):
        figures.save(figure, SCORES, tmp_path, "name", "A caption.", "a note that is longer than the line " * 3)
        assert Image.open(tmp_path / "name.png").width == round(200 * (3.3, 6.9)[number])
        assert min(text.get_fontsize() for text in figure.findobj(Text)) >= 9


@pytest.mark.slow
def test_saving_a_figure_twice_gives_identical_files(tmp_path):
    for name in ("a", "b"):
        figures.save(figures.scores_against_mos(SCORES, "MOS"), SCORES, tmp_path, name, "A caption.")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_distortions_give_colours_markers_and_the_legend():
    figure = figures.scores_against_mos(SCORES.assign(distortion=np.tile(["blur", "noise"], 20)), "MOS")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["blur", "noise"]
    blur, noise = figure.axes[1].collections
    drawn = SCORES[SCORES["split"] == 1].iloc[::2]
    np.testing.assert_allclose(np.asarray(blur.get_offsets()), drawn[["pred", "mos"]].to_numpy())
    assert not np.array_equal(blur.get_facecolor(), noise.get_facecolor())
    assert len(blur.get_paths()[0].vertices) != len(noise.get_paths()[0].vertices)


def test_groups_differ_without_colour():
    styles = palette.group_styles(map(str, range(25)))
    assert len({tuple(style.values()) for style in styles.values()}) == 25
    for one, other in ((palette.WITH, palette.WITHOUT), (palette.OURS, palette.PAPER), (palette.PAPER, palette.OTHERS)):
        assert one["color"] != other["color"] and one["marker"] != other["marker"]


def test_only_the_salient_crop_has_a_thick_frame():
    boxes = torch.tensor([[[0, 0, 8, 8], [4, 4, 8, 8], [2, 2, 8, 8]]])
    figure = figures.crops_and_saliency(
        [np.zeros((16, 16, 3), np.uint8)], torch.full((1, 2, 2), 0.25), boxes, torch.tensor([[0.5, 1.5, 1.5]])
    )
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "1", "2"]
    assert figure.axes[0].get_title().split() == ["0:", "0.50", "1:", "1.50", "2:", "1.50"]
    assert figure.axes[1].images[1].get_array().max() == 1  # the density of a uniform map
    widths = [patch.get_linewidth() for patch in figure.axes[0].patches]
    assert widths.index(max(widths)) == 1 and len(widths) == 3


def test_a_drawing_function_returns_a_figure_with_data():
    for figure in [
        figures.mos_by_level(pd.DataFrame(dict(distortion=["a", "a"], level=[1, 2], mos=[2.0, 1.0])), "MOS"),
        figures.image_grid([np.zeros((4, 6, 3), np.uint8)] * 3, ["x", "y", "z"], columns=2),
        figures.training_curves(pd.DataFrame({name: [1.0, 0.5] for name in HISTORY.split()})),
    ]:
        assert isinstance(figure, Figure) and any(axes.has_data() for axes in figure.axes)
