"""What the README says is true."""

import re
from pathlib import Path

import pytest
from patients import Healthy

import lightning_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def between_the_marks(text):
    return re.search(r"<!-- callbacks: begin -->\n(.*)\n<!-- callbacks: end -->", text, re.DOTALL).group(1)


def test_the_table_lists_all_callbacks_in_the_order_of_tensorboard():
    names = re.findall(r"^\| \[(.*?)\]", between_the_marks(README), re.MULTILINE)
    tags = [callback.tag("").rstrip("/") for callback in lightning_recipe.recipe()]
    assert [name for name in names if name in tags] == tags == sorted(tags)


def structure(text):
    """What two languages have in common: levels of headings, code, tables, lists, pictures and links, in order."""
    fences = re.findall(r"```.*?```", text, re.DOTALL)
    prose = re.sub(r"```.*?```", "```", text, flags=re.DOTALL)
    marks = re.findall(r"^(#+ |```|\| ?[^\s|]|- |!\[)", prose, re.MULTILINE)
    marks = ["|" if mark.startswith("|") else mark.strip() for mark in marks]
    links = [link for link in re.findall(r"\]\(([^)]+)\)", prose) if not link.startswith("README")]
    code = [re.sub(r" +#.*", "", fence) for fence in fences]  # comments are translated
    return marks, sorted(links), code


def test_the_korean_readme_is_in_step():
    korean = (ROOT / "README.ko.md").read_text(encoding="utf-8")
    for ours, theirs in zip(structure(README), structure(korean), strict=True):
        assert ours == theirs
    assert between_the_marks(korean).splitlines()[1:] == between_the_marks(README).splitlines()[1:]
    assert len(re.findall(r"[가-힣]", korean)) > 1000, "most of it is Korean"


@pytest.mark.parametrize("name", ["README.md", "README.ko.md"])
def test_what_it_links_to_exists(name):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not link.startswith("https://") and not (ROOT / link).exists()] == []


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_commands_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_continuous_integration_runs_the_same_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert ".ci/run" in (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")


def test_the_examples_run(fit):
    first, second = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert re.findall(r"import (\w+)$", first, re.MULTILINE) == ["Trainer", "recipe"]
    assert len(first.splitlines()) <= 6
    names = {"model": Healthy(), "train_dataloaders": None, "val_dataloaders": None}
    for code in (first, second):
        exec(code.replace("Trainer(", "Trainer(fast_dev_run=True, accelerator='cpu', "), names)  # noqa: S102 - our own
