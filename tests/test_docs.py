"""The site builds without a warning, and says what the code says."""

import html
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from inspect import getdoc, signature
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import generate
import make_pictures
import patients
import pytest

import lightning_recipe

ROOT = Path(__file__).parent.parent
SOURCES = ("zensical.toml", "docs", "lightning_recipe", "benchmarks/README.md", "CONTRIBUTING.md")
CALLBACKS = {type(callback).__name__: type(callback) for callback in lightning_recipe.recipe()}
HEADINGS = ["What it checks", "Why", "How it decides", "What a hit looks like", "When a hit is fine", "Cost"]
HOST = "https://site.invalid/"


class Page(HTMLParser):
    """What a browser would see and fetch."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.fetched, self.pictures, self.words = set(), [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs.get("id"), attrs.get("name")}
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        if tag == "link" and attrs.get("rel") not in {"canonical", "next", "prev"}:
            self.fetched.append(attrs["href"])
        if "src" in attrs:
            self.fetched.append(attrs["src"])
        if tag == "img":
            self.pictures.append(attrs)

    def handle_data(self, data):
        self.words.extend(data.split())


def snake_case(name):
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The site, built in a copy of what it is made from, warnings being errors."""
    folder = tmp_path_factory.mktemp("docs")
    for source in SOURCES:
        (folder / source).parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, folder / source)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture(scope="session")
def pages(site):
    found = {path.relative_to(site).as_posix().removesuffix("index.html"): path for path in site.rglob("*.html")}
    return {address: Page(path) for address, path in found.items() if address != "404.html"}


def test_the_command_is_strict():
    assert "zensical build --clean --strict" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_what_is_generated_is_not_stale():
    texts = generate.texts()
    stale = [path for path, text in texts.items() if (ROOT / path).read_text(encoding="utf-8") != text]
    assert not stale, "run make generate"
    assert {path for path in texts if path.startswith("docs/callbacks/")} == {
        path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/callbacks/*")
    }


def test_every_source_is_a_page_and_in_the_menu(pages):
    sources = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert set(pages) == {"" if source == "index" else f"{source}/" for source in sources}
    assert {HOST + address for address in pages} <= {urljoin(HOST, link) for link in pages[""].links}


def test_no_link_is_dead(site, pages):
    for address, page in pages.items():
        for link in page.links + page.fetched:
            target, anchor = urldefrag(urljoin(HOST + address, link))
            if not target.startswith(HOST):
                continue
            path = unquote(urlsplit(target).path).lstrip("/")
            if path in pages:
                assert not anchor or anchor in pages[path].ids, f"{address or 'index'}: {link}"
            else:
                assert (site / path).is_file(), f"{address or 'index'}: {link}"


def test_nothing_is_fetched_from_elsewhere(site, pages):
    for page in pages.values():
        assert not [link for link in page.fetched if urlsplit(link).netloc]
    for path in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\W*(https?:)?//", path.read_text(encoding="utf-8")), path


def test_every_picture_is_shown_and_described(site, pages):
    shown = {urljoin(HOST + a, picture["src"]) for a, page in pages.items() for picture in page.pictures}
    assert shown == {HOST + path.relative_to(site).as_posix() for path in site.glob("pictures/*.png")}
    assert all(len(picture["alt"]) > 20 for page in pages.values() for picture in page.pictures)


def test_pictures_are_small():
    sizes = {path.name: path.stat().st_size for path in ROOT.glob("docs/pictures/*.png")}
    assert max(sizes.values()) < 15_000, sizes


@pytest.mark.parametrize("name", CALLBACKS)
def test_each_callback_has_its_page(pages, name):
    source = (ROOT / f"docs/callbacks/{snake_case(name)}.md").read_text(encoding="utf-8")
    assert re.findall(r"^# (.*)$", source, re.MULTILINE) == [name]
    assert re.findall(r"^## (.*)$", source, re.MULTILINE) == HEADINGS
    assert all(re.findall(r"^## .*\n\n(\S)", source, re.MULTILINE))
    assert f"callbacks/{snake_case(name)}/" in pages[""].links
    shown = {Path(picture["src"]).name for picture in pages[f"callbacks/{snake_case(name)}/"].pictures}
    assert shown == {path.name for path in ROOT.glob(f"docs/pictures/{snake_case(name)}_*.png")}


def letters(text):
    return re.sub(r"\W+", "", text)


@pytest.mark.parametrize("name", CALLBACKS)
def test_its_page_says_what_the_docstring_says(pages, name):
    shown = letters("".join(pages[f"callbacks/{snake_case(name)}/"].words))
    documented = getdoc(CALLBACKS[name])
    assert letters(documented[: documented.index("\nArgs:\n")]) in shown
    for title in ("Source", "Legitimate", "Cost"):
        text = re.search(rf"^{title}:\n(.*?)(?=^\w+:$)", documented, re.MULTILINE | re.DOTALL).group(1)
        assert letters(text) in shown


@pytest.mark.parametrize("name", CALLBACKS)
def test_its_page_lists_thresholds_with_their_defaults(site, name):
    page = (site / f"callbacks/{snake_case(name)}/index.html").read_text(encoding="utf-8")
    table = re.search(r"Parameters:.*?</table>", page, re.DOTALL).group()
    rows = [
        html.unescape(re.sub(r"<[^>]*>", " ", row)).split()
        for row in re.findall(r"<tr class.*?</tr>", table, re.DOTALL)
    ]
    parameters = signature(CALLBACKS[name]).parameters.values()
    assert [(row[0], row[-1]) for row in rows] == [(p.name, str(p.default)) for p in parameters]
    assert all(len(row) > 4 for row in rows)  # name, type, some words, default


@pytest.mark.parametrize("name", CALLBACKS)
def test_its_page_quotes_the_recipe_and_the_reason(name):
    source = (ROOT / f"docs/callbacks/{snake_case(name)}.md").read_text(encoding="utf-8")
    why = re.search(r"^## Why\n\n(.*?)^## ", source, re.MULTILINE | re.DOTALL).group(1)
    lines = why.splitlines()
    quoted = "\n".join(line.removeprefix(">").strip() for line in lines if line.startswith(">"))
    documented = " ".join(CALLBACKS[name].__doc__.split())
    quotes = [" ".join(quote.split()) for quote in quoted.split("\n\n")]
    assert quotes[0]
    assert all(quote in documented for quote in quotes)
    reason = " ".join(" ".join(line for line in lines if not line.startswith(">")).split())
    assert CALLBACKS[name].why[1:] in reason


def test_the_index_lists_all_callbacks():
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    rows = []
    for name, callback in CALLBACKS.items():
        words = sys.modules[callback.__module__].__doc__.split(": ", 1)[1].rstrip(".")
        kind = "judges" if issubclass(callback, lightning_recipe.Check) else "shows"
        rows.append(f"| [{name}](callbacks/{snake_case(name)}.md) | {words} | {kind} |")
    assert "\n".join(rows) in index


def test_the_reference_has_every_public_name(pages):
    documented = set().union(*(page.ids for page in pages.values()))
    for name in lightning_recipe.__all__:
        path = "lightning_recipe.recipe.recipe" if name == "recipe" else f"lightning_recipe.{name}"
        assert path in documented


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/examples/*.*")), ids=lambda path: path.name)
def test_examples_are_shown_whole(pages, path):
    page = pages["continuous_integration/"]
    assert letters(path.read_text(encoding="utf-8")) in letters("".join(page.words))
    assert f"../examples/{path.name}" in page.links


def test_the_page_on_findings_names_all_statuses():
    findings = (ROOT / "docs/findings.md").read_text(encoding="utf-8")
    table = re.search(r"## Statuses\n(.*?)\n## ", findings, re.DOTALL).group(1)
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(lightning_recipe.Status)


@pytest.mark.parametrize("name", CALLBACKS)
def test_the_pages_show_what_the_callbacks_find(name):
    callback, program = make_pictures.unhurried(CALLBACKS[name]), make_pictures.program_for(CALLBACKS[name])
    events = make_pictures.run(callback, program)
    shown = (ROOT / f"docs/pictures/{snake_case(name)}.txt").read_text(encoding="utf-8")
    finding = callback.findings[0]
    assert shown.split()[:2] == make_pictures.text(callback).split()[:2] == [finding.status, f"{name}:"]
    assert finding.code == program.code
    cards = {path.stem for path in ROOT.glob(f"docs/pictures/{snake_case(name)}_*.png")}
    cards -= {f"{snake_case(name)}_{picture}" for picture in generate.NO_CARD.get(name, ())}
    assert cards == {make_pictures.file_name(callback, tag) for tag in events.Tags()["images"]}


CONTRIBUTING = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def contributed(monkeypatch):
    """The names that the example of CONTRIBUTING defines: its page, patient and tests."""
    page, patient, tests = CONTRIBUTING
    names = {"__name__": "repeated_batch_check"}
    exec(page, names)  # noqa: S102 - our own
    monkeypatch.setattr(lightning_recipe, "RepeatedBatchCheck", names["RepeatedBatchCheck"], raising=False)
    exec(patient, names)  # noqa: S102
    monkeypatch.setattr(patients, "OneBatchAgain", names["OneBatchAgain"], raising=False)
    exec(tests, names)  # noqa: S102
    return names


@pytest.mark.parametrize("name", re.findall(r"^def (test_\w+)", CONTRIBUTING[-1], re.MULTILINE))
def test_the_check_in_contributing(contributed, fit, name):
    contributed[name](fit)


def test_the_check_in_contributing_has_all_that_its_page_needs(contributed):
    check = contributed["RepeatedBatchCheck"]
    assert make_pictures.program_for(check) is contributed["OneBatchAgain"]
    assert all(generate.section(check, title) for title in ("Source", "Legitimate", "Cost"))
    assert {code.partition("/")[0] for codes in check.explains.values() for code in codes} <= set(CALLBACKS)
