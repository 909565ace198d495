"""What the README says is true."""

import re
from pathlib import Path

import pytest

import lightning_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def callback_table():
    rows = ["| callback | the recipe's words |", "|---|---|"]
    for callback in lightning_recipe.recipe():
        module = __import__(type(callback).__module__, fromlist=["_"])
        sentence = module.__doc__.splitlines()[0].split(": ", 1)[1].rstrip(".")
        rows.append(f"| `{type(callback).__name__}` | {sentence} |")
    return "\n".join(rows)


def test_the_table_of_callbacks_is_the_code():
    between = re.search(r"<!-- callbacks: begin -->\n(.*)\n<!-- callbacks: end -->", README, re.DOTALL)
    assert between.group(1) == callback_table(), f"put this into the README:\n{callback_table()}"


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_commands_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_continuous_integration_runs_the_same_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert ".ci/run" in (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")


def test_the_example_runs(fit):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert re.findall(r"import (\w+)$", code, re.MULTILINE) == ["Trainer", "recipe"]
    from patients import Healthy  # noqa: PLC0415

    exec(  # noqa: S102 - it is our own
        code.replace("Trainer(", "Trainer(fast_dev_run=True, accelerator='cpu', "),
        {"model": Healthy(), "train_dataloaders": None, "val_dataloaders": None},
    )
