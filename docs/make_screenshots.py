"""Makes the pictures of TensorBoard under ``docs/screenshots``: ``python docs/make_screenshots.py``.

Trains the broken demo, serves what it logged, and opens the links that it printed in a headless Chromium.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from PIL import Image
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
FOLDER = Path(__file__).parent / "screenshots"
SETTLED = 4000  # ms after which TensorBoard has drawn all
COLOURS = 128  # of a picture; fewer make stripes in TensorBoard's header


def installed() -> str | None:
    """Where a browser is, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=installed(), args=SWITCHES)
        yield chromium
        chromium.close()


@contextmanager
def served(printed: str, folder: str | None = None) -> Iterator[dict[str, str]]:
    """Run the command that a fit in `folder` has printed, on a free port; its links, by the page they open."""
    (typed,) = re.findall(r"^TensorBoard (tensorboard .*)$", printed, re.MULTILINE)
    links = re.findall(r"http://localhost:6006/(\S*#(\w+))", printed)
    program, *options = shlex.split(typed)
    path = Path(sys.executable).with_name(program)
    command = [str(path), *options, "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as server:  # noqa: S603
        lines = iter(server.stderr or ())
        address = next(found.group() for line in lines if (found := re.search(r"http://localhost:\d+/", line)))
        yield {page: address + link for link, page in links}
        server.terminate()


def main() -> None:
    """Make all pictures."""
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lightning_recipe.demo", "--broken"]
        printed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout  # noqa: S603
        with served(printed, folder) as links, browser() as chromium:
            for scheme in ("light", "dark"):
                for page, height in (("text", 800), ("timeseries", 1000)):
                    window = chromium.new_page(viewport={"width": 1280, "height": height}, color_scheme=scheme)
                    window.goto(links[page])
                    window.wait_for_timeout(SETTLED)
                    path = FOLDER / f"{page}_{scheme}.png"
                    window.screenshot(path=path)
                    window.close()
                    picture = Image.open(path).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
                    picture.save(path, optimize=True)


if __name__ == "__main__":
    main()
