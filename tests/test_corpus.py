"""The right cause, counted: each bug of a corpus is found under a code that names its cause, and no healthy program is.

A corpus is a package of small training programs: ``healthy/*.py`` look odd and are right, those in its other folders
have one bug each. Each has ``build(buggy)``, which returns a model with its loaders, its number of steps and the
Trainer's settings; of a bug, ``build(False)`` is the healthy twin. It takes minutes: ``make corpus CORPUS=folder``.
"""

import importlib
import os
import sys
import tomllib
from pathlib import Path

import lightning.pytorch as L
import pytest

import lightning_recipe
from lightning_recipe import OverfitOneBatch, Status, recipe

if "RECIPE_CORPUS" not in os.environ:
    pytest.skip("RECIPE_CORPUS names no folder with a corpus", allow_module_level=True)

CORPUS = Path(os.environ["RECIPE_CORPUS"]).resolve()
PROGRAMS = sorted(CORPUS.glob("*/[!_]*.py"))
HEALTHY = [path for path in PROGRAMS if path.parent.name == "healthy"]
BUGS = [path for path in PROGRAMS if path.parent.name != "healthy"]
CAUSES = tomllib.loads((Path(__file__).parent / "causes.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def table(request):
    """Rows of program, codes expected, verdict, other alarms; printed at the end."""
    rows = []
    yield rows
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        for row in [("program", "expected", "", "who else alarmed"), *rows]:
            sys.stdout.write("\n{:34} {:62} {:12} {}".format(*row))
        sys.stdout.write("\n")


@pytest.fixture
def found(fit):
    """Alarms and advice on a program, by code; a trial has time enough on a busy machine too."""
    sys.path.append(str(CORPUS.parent))

    def run(path, *, buggy):
        L.seed_everything(0, verbose=False)
        case = importlib.import_module(f"{CORPUS.name}.{path.parent.name}.{path.stem}").build(buggy)
        callbacks = recipe(OverfitOneBatch(max_seconds=120))
        settings = {"max_steps": case.min_steps, "max_epochs": -1, **case.trainer_kwargs}
        fit(case.model, callbacks, train=case.train_dataloaders, val=case.val_dataloaders, **settings)
        told = [f for c in callbacks for f in c.findings if f.is_alarm or f.status is Status.ADVICE]
        return {f.code: f for f in told}

    yield run
    sys.path.remove(str(CORPUS.parent))


def alarms(told):
    return [code for code, finding in told.items() if finding.is_alarm]


@pytest.mark.parametrize("path", BUGS, ids=lambda path: path.stem)
def test_a_bug_is_found_under_the_name_of_its_cause(found, table, path):
    assert path.stem in CAUSES, "tell in causes.toml what names its cause"
    codes, also = CAUSES[path.stem]["codes"], CAUSES[path.stem].get("also", [])
    existing = [code for code in codes if hasattr(lightning_recipe, code.partition("/")[0])]
    told, twin = found(path, buggy=True), found(path, buggy=False)
    is_named = any(code in codes for code in told)
    verdict = "found" if is_named else "not found" if existing else "no check yet"
    others = [code if code in also else f"{code} (not listed)" for code in alarms(told) if code not in codes]
    table.append((path.stem, " or ".join(existing or codes), verdict, ", ".join(others)))
    if twin_alarms := alarms(twin):
        table.append(("  its twin", "nothing", "accused", ", ".join(twin_alarms)))
    assert not twin_alarms, [twin[code] for code in twin_alarms]
    assert is_named or not existing, told
    if not existing:
        pytest.skip(f"none of {', '.join(codes)} exists yet")


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.stem)
def test_a_healthy_program_is_not_accused(found, table, path):
    accusers = alarms(told := found(path, buggy=False))
    table.append((path.stem, "nothing", "accused" if accusers else "quiet", ", ".join(accusers)))
    assert not accusers, told
