"""One notebook in JupyterLab, driven through a browser."""

from __future__ import annotations

import time
from pathlib import Path

CELLS = "const cells = [...panel.content.model.cells].filter(one => one.type === 'code');"
IDLE = f"{CELLS} return cells.every(one => one.executionCount) && panel.sessionContext.session.kernel.status === 'idle'"
COUNTS = f"{CELLS} return cells.map(one => one.executionCount)"
OUTPUTS = f"{CELLS} return cells.flatMap(one => one.outputs.toJSON())"


def wait_for(found, seconds: float, problem=lambda: ""):
    """Call `found` until it returns something true, and return that."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, f"not within {seconds} s: {problem()}"
        time.sleep(0.2)
    return result


class Page:
    """One notebook in JupyterLab."""

    PANEL = "const panel = [...(window.jupyterapp?.shell.widgets('main') ?? [])].find(one => one.context);"

    def __init__(self, driver, address: str, notebook: str, screenshots: Path) -> None:
        self.driver, self.notebook, self.screenshots = driver, notebook, screenshots
        driver.get(f"{address}/lab/workspaces/{notebook}/tree/{notebook}.ipynb?token=secret")
        ready = f"return panel?.context.path === '{notebook}.ipynb'"
        wait_for(lambda: self.script(f"{ready} && panel.sessionContext.session?.kernel?.status === 'idle'"), 180)

    def script(self, code: str, *arguments):
        """The result of JavaScript in which `panel` is the notebook."""
        return self.driver.execute_script(self.PANEL + code, *arguments)

    def run_all(self, seconds: float = 600) -> None:
        """Choose Run All Cells in the menu, and wait until every code cell has run or one has failed."""
        self.click("//div[contains(@class, 'lm-MenuBar-itemLabel') and text()='Run']")
        self.click("//div[contains(@class, 'lm-Menu-itemLabel') and text()='Run All Cells']")
        wait_for(lambda: self.outputs("error") or self.script(IDLE), seconds, lambda: self.script(COUNTS))

    def outputs(self, kind: str) -> list[dict]:
        """Outputs of all cells of an output type, such as "error"."""
        return [one for one in self.script(OUTPUTS) if one["output_type"] == kind]

    def cell(self, identity: str):
        """The element of the cell of an id, scrolled into the window."""
        code = "const cell = panel.content.widgets.find(one => one.model.id === arguments[0]).node;"
        return self.script(f"{code} cell.scrollIntoView({{block: 'end'}}); return cell", identity)

    def click(self, path: str) -> None:
        """Click the visible element of an XPath expression."""
        visible = lambda: [one for one in self.driver.find_elements("xpath", path) if one.is_displayed()]  # noqa: E731
        wait_for(visible, 10, lambda: path)[0].click()

    def point_at(self, element) -> None:
        """Move the pointer to the middle of an element."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).move_to_element(element).perform()

    def screenshot(self, state: str) -> None:
        """Save the window as a PNG file."""
        self.driver.save_screenshot(str(self.screenshots / f"{self.notebook}-{state}.png"))
