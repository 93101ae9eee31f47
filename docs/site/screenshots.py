"""The documentation's pictures of the page: `python -m docs.site.screenshots REPORT_FOLDER PICTURE`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

# Of the picture in pixels: what a reader sees of the page first.
WIDTH, HEIGHT = 1200, 1120


def take(report: Path, picture: Path) -> None:
    """Opens ``index.html`` of a report in Chromium, in light colours, and writes its first screen as PNG.

    Raises:
        FileNotFoundError: there is no Chromium on this machine, or no page in the folder.
    """
    page = report / "index.html"
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None or not page.is_file():
        raise FileNotFoundError(f"{page} needs to be there, and Chromium to be installed")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        size = {"width": WIDTH, "height": HEIGHT}
        tab = opened.new_page(viewport=size, color_scheme="light")
        tab.goto(page.resolve().as_uri())
        tab.screenshot(path=picture)
        opened.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]))
