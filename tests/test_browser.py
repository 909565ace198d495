"""What a person sees who types the command that a run ends with: TensorBoard in a real browser."""

import contextlib
import io
import os
import shutil
import subprocess
import warnings

import lightning.pytorch as L
import make_screenshots
import pytest
import torch
from conftest import QUIET
from lightning.pytorch.loggers import TensorBoardLogger
from playwright.sync_api import expect

from lightning_recipe import recipe
from lightning_recipe.demo import DigitsNet, loaders
from lightning_recipe.figures.canvas import HEIGHT, SIZE, WIDTH

PATIENCE = 30_000  # ms


@pytest.fixture(scope="module")
def browser():
    """Chromium; continuous integration installs it, elsewhere its absence is a reason to skip."""
    if make_screenshots.installed() is None and os.environ.get("CI") and shutil.which("apt-get"):
        as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        for words in (["update"], ["install", "-y", "chromium"]):
            subprocess.run([*as_root, "apt-get", "-qq", *words], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    if make_screenshots.installed() is None:
        assert not os.environ.get("CI"), "no browser, and none could be installed"
        pytest.skip("no Chromium is installed: what TensorBoard shows was NOT looked at")
    with make_screenshots.browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What a run on real data prints."""
    folder, out = tmp_path_factory.mktemp("run"), io.StringIO()
    torch.set_num_threads(1)
    L.seed_everything(0, verbose=False)
    callbacks = recipe()
    logger = TensorBoardLogger(folder, name="digits")
    with warnings.catch_warnings(), contextlib.redirect_stdout(out):
        warnings.simplefilter("ignore")
        trainer = L.Trainer(max_epochs=3, accelerator="cpu", callbacks=callbacks, logger=logger, **QUIET)
        trainer.fit(DigitsNet(), *loaders())
    return out.getvalue()


@pytest.fixture(scope="module")
def links(printed):
    with make_screenshots.served(printed) as links:
        yield links


@pytest.fixture
def visit(browser, links):
    """Open one of the printed links."""
    pages = []
    expect.set_options(timeout=PATIENCE)

    def opened(name):
        page = browser.new_page(viewport={"width": 1280, "height": 2600})
        page.set_default_timeout(PATIENCE)
        pages.append(page)
        page.goto(links[name])
        return page

    yield opened
    for page in pages:
        page.close()


def test_the_report_comes_first_and_all_is_found_in_the_order_of_the_recipe(visit):
    page = visit("text")
    first = page.locator("tf-text-loader").first
    expect(first).to_contain_text("0 report")
    expect(first).to_contain_text("passed")
    expect(first).not_to_contain_text("warning")
    expect(first).to_contain_text("InitLossCheck")
    headings = page.locator("tf-category-paginated-view .heading")
    expect(headings).to_have_count(1 + len(recipe()))
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
def test_pictures_can_be_read_on_the_page(visit, tag):
    picture = card(visit("timeseries"), tag).locator("img")
    expect(picture).to_be_visible()
    picture.evaluate("image => image.decode()")
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [WIDTH, HEIGHT]
    shown = picture.bounding_box()
    assert picture.evaluate("image => getComputedStyle(image).objectFit") == "contain", "nothing is cut"
    assert SIZE * min(shown["width"] / WIDTH, shown["height"] / HEIGHT) >= 9, "letters"


def test_predictions_can_be_followed_over_time(visit):
    page = visit("timeseries")
    page.get_by_role("button", name="Next page").first.click()  # twelve cards on each
    found = card(page, "2.11 PredictionDynamicsLogger/predictions")
    picture = found.locator("img")
    expect(found).to_contain_text("Step 66")  # the last
    last = picture.get_attribute("src")
    found.locator("input[type=range]").press("Home")
    expect(found).to_contain_text("Step 1")
    assert picture.get_attribute("src") != last


def test_curves_are_few_and_have_units(visit):
    page = visit("timeseries")
    for name in ("jitter (share per step)", "flips (share per look)"):
        expect(card(page, f"2.11 PredictionDynamicsLogger/{name}").locator("scalar-card")).to_be_visible()
    expect(page.locator("scalar-card")).to_have_count(2)
    page.get_by_role("button", name="Next page").first.click()  # twelve cards on each
    expect(card(page, "2.11 PredictionDynamicsLogger/right (share)").locator("scalar-card")).to_be_visible()
    expect(page.locator("scalar-card")).to_have_count(4)  # and how far weights move: median, first and last layer
