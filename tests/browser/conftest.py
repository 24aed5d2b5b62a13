"""A real JupyterLab on this machine, and headless Chromium that drives it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from jupyter_page import Page, wait_for

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
#: The folders of the caller, read before `own_folders` replaces them: `make test` names the runs it has just trained.
CALLERS = {name: os.environ[name] for name in ("LMCL_RUNS", "LMCL_FIGURES", "LMCL_CACHE") if name in os.environ}
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--window-size=1300,1000",
)
#: Every cell is in the page, also below the window; no questions and no news.
SETTINGS = {
    "notebook-extension/tracker": dict(windowingMode="none", autoStartDefaultKernel=True),
    "apputils-extension/notification": dict(checkForUpdates=False, doNotDisturbMode=True, fetchNews="false"),
}


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """Address of a JupyterLab whose root holds copies of the notebooks, without outputs."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    home = tmp_path_factory.mktemp("lab")
    (home / "root").mkdir()
    for path in NOTEBOOKS.glob("*.ipynb"):
        book = json.loads(path.read_text())
        for cell in book["cells"]:
            if cell["cell_type"] == "code":
                cell.update(outputs=[], execution_count=None)
        (home / "root" / path.name).write_text(json.dumps(book))
    for name, values in SETTINGS.items():
        extension, plugin = name.split("/")
        file = home / "settings" / "@jupyterlab" / extension / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    folders = dict(LMCL_RUNS=str(home / "runs"), LMCL_FIGURES=str(home / "figures")) | CALLERS
    names = dict(JUPYTERLAB_SETTINGS_DIR="settings", JUPYTERLAB_WORKSPACES_DIR="workspaces", IPYTHONDIR="ipython")
    names |= dict(JUPYTER_CONFIG_DIR="config", JUPYTER_DATA_DIR="data", JUPYTER_RUNTIME_DIR="runtime")
    own = {name: str(home / folder) for name, folder in names.items()}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    command += [
        f"--ServerApp.root_dir={home / 'root'}",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
    ]
    command += ["--IdentityProvider.token=secret", "--LabApp.news_url=None", "--LabApp.extension_manager=readonly"]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command, env={**os.environ, **folders, **own}, stdout=log, stderr=log, cwd=home)
    try:
        wait_for(lambda: _answers(f"http://127.0.0.1:{port}/api?token=secret"), 60, lambda: (home / "log").read_text())
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture(scope="session")
def browser(lab, tmp_path_factory):
    """A Selenium driver of headless Chromium with an empty profile."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def open_page(browser, lab, tmp_path_factory):
    """A function that opens a notebook. Screenshots go to ``$LMCL_SCREENSHOTS``, by default a temporary folder."""
    folder = Path(os.environ.get("LMCL_SCREENSHOTS") or tmp_path_factory.getbasetemp() / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    pages = []

    def open_notebook(notebook: str) -> Page:
        pages.append(Page(browser, lab, notebook, folder))
        return pages[-1]

    yield open_notebook
    for page in pages:
        page.screenshot("end")
        page.script("return panel.sessionContext.shutdown()")  # frees the memory of its kernel
