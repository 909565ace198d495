"""What a person sees who types the command that a run ends with: TensorBoard in a real browser."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import lightning.pytorch as L
import pytest
from conftest import QUIET
from lightning.pytorch.loggers import TensorBoardLogger
from playwright.sync_api import expect, sync_playwright

from lightning_recipe import recipe
from lightning_recipe.demo import DigitsNet, loaders

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
PATIENCE = 30_000  # ms


def installed():
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="module")
def browser():
    """Chromium; continuous integration installs it, elsewhere its absence is a reason to skip."""
    if installed() is None and os.environ.get("CI") and shutil.which("apt-get"):
        as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        for words in (["update"], ["install", "-y", "chromium"]):
            subprocess.run([*as_root, "apt-get", "-qq", *words], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    if (path := installed()) is None:
        assert not os.environ.get("CI"), "no browser, and none could be installed"
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed: what TensorBoard shows was NOT looked at")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What a run on real data prints."""
    folder, out = tmp_path_factory.mktemp("run"), io.StringIO()
    L.seed_everything(0, verbose=False)
    logger = TensorBoardLogger(folder, name="digits")
    with warnings.catch_warnings(), contextlib.redirect_stdout(out):
        warnings.simplefilter("ignore")
        trainer = L.Trainer(max_epochs=3, accelerator="cpu", callbacks=recipe(), logger=logger, **QUIET)
        trainer.fit(DigitsNet(), *loaders())
    return out.getvalue()


@pytest.fixture(scope="module")
def address(printed):
    """Where the printed command, on another port, serves the run."""
    (command,) = re.findall(r"^TensorBoard (tensorboard .*)$", printed, re.MULTILINE)
    program, *options = shlex.split(command)
    path = Path(sys.executable).with_name(program)
    with subprocess.Popen([path, *options, "--port", "0"], stderr=subprocess.PIPE, text=True) as server:  # noqa: S603
        yield next(found.group() for line in server.stderr if (found := re.search(r"http://localhost:\d+/", line)))
        server.terminate()


@pytest.fixture
def visit(browser, printed, address):
    """Open one of the printed links."""
    pages = []

    def opened(view):
        (link,) = re.findall(rf"http://localhost:6006/(\S*#{view})", printed)
        page = browser.new_page(viewport={"width": 1280, "height": 1600})
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        pages.append(page)
        page.goto(address + link)
        return page

    yield opened
    for page in pages:
        page.close()


def test_the_report_comes_first_and_all_is_found_in_the_order_of_the_recipe(visit):
    page = visit("text")
    first = page.locator("tf-text-loader").first
    expect(first).to_contain_text("0 report")
    expect(first).to_contain_text("5 passed")
    expect(first.locator("tbody tr").first).to_contain_text("InitLossCheck")
    headings = page.locator("tf-category-paginated-view .heading")
    expect(headings).to_have_count(6)
    names = [text.strip().split("\n")[0] for text in headings.all_inner_texts()]
    assert names == ["0 report", *(callback.tag("").rstrip("/") for callback in recipe())]


def card(page, tag):
    """A card of the time series by its tag, once it is drawn."""
    found = page.locator("card-view").filter(has=page.get_by_title(tag, exact=True))
    expect(found).to_have_count(1)
    found.scroll_into_view_if_needed()
    return found


@pytest.mark.parametrize(
    "tag", ["2.08 OverfitOneBatch/loss", "2.10 VisualizeInputs/image train", "2.10 VisualizeInputs/image val"]
)
def test_pictures_are_on_the_page_unscaled(visit, tag):
    picture = card(visit("timeseries"), tag).locator("img")
    expect(picture).to_be_visible()
    picture.evaluate("image => image.decode()")
    assert picture.evaluate("image => image.naturalWidth") == 350


def test_predictions_can_be_followed_over_time(visit):
    found = card(visit("timeseries"), "2.11 PredictionDynamicsLogger/predictions")
    picture = found.locator("img")
    expect(found).to_contain_text("Step 66")  # the last
    last = picture.get_attribute("src")
    found.locator("input[type=range]").press("Home")
    expect(found).to_contain_text("Step 0")
    assert picture.get_attribute("src") != last


def test_curves_are_few_and_have_units(visit):
    page = visit("timeseries")
    for name in ("jitter (share per step)", "flips (share per look)", "right (share)"):
        expect(card(page, f"2.11 PredictionDynamicsLogger/{name}").locator("scalar-card")).to_be_visible()
    expect(page.locator("scalar-card")).to_have_count(3)
