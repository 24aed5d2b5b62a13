"""Every notebook in a real JupyterLab: Run All Cells ends without an error, and the explorers follow their controls."""

from __future__ import annotations

from pathlib import Path

import pytest
from jupyter_page import wait_for
from PIL import Image

pytestmark = [pytest.mark.browser, pytest.mark.slow]
RIGHT, ENTER = "\ue014", "\ue007"  # keys of WebDriver
NOTEBOOKS = sorted(path.stem for path in (Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", [name for name in NOTEBOOKS if not name.startswith("08")])
def test_every_cell_runs(open_page, notebook):
    page = open_page(notebook)
    page.run_all()
    assert page.outputs("error") == []
    assert page.outputs("stream")  # every notebook prints something


class Explorer:
    """An explorer in a cell's output: its picture, its message and its controls."""

    def __init__(self, page, cell: str) -> None:
        self.cell = page.cell(cell)

    def find(self, selector: str):
        return self.cell.find_element("css selector", selector)

    def picture(self) -> str:
        """Source of the picture; empty if none is shown."""
        image = self.find("img.widget-image")
        return image.get_attribute("src") if image.is_displayed() else ""

    def message(self) -> str:
        """Messages in place of the picture."""
        return self.find(".widget-html").text

    def after(self, act, shows_picture: bool = True) -> str:
        """Do something, wait until the explorer has answered, and return its picture or its message."""
        before = self.picture() or self.message()
        act()
        read = self.picture if shows_picture else self.message
        wait_for(lambda: read() not in ("", before, "computing …"), 180, lambda: self.picture() or self.message())
        return read()


def test_the_explorers_follow_their_controls(open_page, tmp_path):
    page = open_page("08_explore")
    page.run_all()
    assert page.outputs("error") == []
    another_seed_moves_the_crops(page)
    a_level_changes_the_picture_and_a_bad_file_replaces_it_by_a_message(page, tmp_path)
    buttons_walk_through_the_pairs(page)
    pointing_at_a_dot_shows_its_image_and_its_partners(page)


def another_seed_moves_the_crops(page):
    crops = Explorer(page, "08-05")
    assert crops.picture()
    crops.after(lambda: crops.find(".noUi-handle").send_keys(RIGHT))
    page.screenshot("crops")


def a_level_changes_the_picture_and_a_bad_file_replaces_it_by_a_message(page, folder):
    levels = Explorer(page, "08-07")
    levels.after(lambda: levels.find(".noUi-handle").send_keys(RIGHT))
    path = levels.find("input[placeholder]")
    said = levels.after(lambda: path.send_keys("no_such.png", ENTER), shows_picture=False)
    assert said.startswith("missing image no_such.png") and levels.picture() == ""
    (folder / "empty.png").write_bytes(b"")
    page.script("HTMLInputElement.prototype.click = function() { document.body.append(this) }")  # no dialogue opens
    levels.find("button.widget-upload").click()
    upload = page.driver.find_element("css selector", "body > input[type=file]")
    said = levels.after(lambda: upload.send_keys(str(folder / "empty.png")), shows_picture=False)
    assert said.startswith("unreadable image empty.png") and levels.picture() == ""
    page.screenshot("message")
    Image.new("RGB", (300, 260), "teal").save(folder / "mine.png")
    levels.after(lambda: upload.send_keys(str(folder / "mine.png")))
    assert levels.message() == ""


def buttons_walk_through_the_pairs(page):
    pairs = Explorer(page, "08-09")
    for button, number in (("next", "2"), ("previous", "1")):
        pairs.after(lambda: pairs.cell.find_element("xpath", f".//button[contains(., '{button}')]").click())  # noqa: B023
        assert pairs.find(".widget-readout").text == number
    page.screenshot("pairs")


def pointing_at_a_dot_shows_its_image_and_its_partners(page):
    cell = page.cell("08-11")

    def shown() -> list[str]:
        return [one.get_attribute("aria-label") for one in cell.find_elements("css selector", "svg image")]

    before = shown()
    assert len(before) == 3 and all(source.startswith("shown: data:image/jpeg") for source in before)
    dots = cell.find_elements("css selector", "svg path[aria-roledescription='circle']")
    assert len(dots) == 2 * 60
    page.point_at(dots[30])
    wait_for(lambda: shown()[0] != before[0], 10, lambda: "the image under the pointer is not shown")
    after = shown()
    page.point_at(cell.find_element("css selector", "svg image"))
    assert len(after) == 3 and shown() == after, "it stays when the pointer leaves the dot"
    page.screenshot("umap")
