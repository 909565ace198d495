"""The rules of the house, kept by a test."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import lightning_recipe

PACKAGE = Path(lightning_recipe.__file__).parent
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
CALLBACKS = {name: path for name, path in FILES.items() if re.fullmatch(r"callbacks/[a-z]\w*\.py", name)}
"""Pages; files beside them whose names begin with an underscore hold pure decisions."""
DOORS = {  # a foreign package, and who may import it
    "matplotlib": r"nobody",  # whose import takes a tenth of a second; its font is read
    "PIL": r"figures/canvas\.py",
    "rich": r"show/terminal\.py",
    "tqdm": r"show/terminal\.py",
    "sklearn": r"demo\.py",
    "torch.utils.tensorboard": r"show/loggers\.py",
    "tensorboard": r"show/loggers\.py",
    "torch.overrides": r"record/.*",
}


LAYERS = (  # each may import what stands above it, and from its own room
    ("finding.py", "losses/table.py", "ranks.py"),  # they know nobody
    ("record/",),
    ("losses/", "schedule.py"),
    ("run.py",),
    ("trial/",),
    ("dependencies/",),
    ("figures/",),
    ("aside.py", "ledger.py", "looks.py", "overheard.py"),
    ("show/",),
    ("reporter.py",),
    ("watch.py",),
    ("callback.py",),
    ("callbacks/",),
    ("recipe.py",),
    ("__init__.py",),
    ("demo.py",),
)


def layer(name):
    """The first layer in which a file, by its path in the package, stands."""
    return next(i for i, rooms in enumerate(LAYERS) if name.startswith(rooms))


def imports(path):
    """Names of the modules that a file imports, those for type checking only left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", FILES)
def test_doors(name):
    for module in imports(FILES[name]):
        for foreign, allowed in DOORS.items():
            if module == foreign or module.startswith(f"{foreign}."):
                assert re.fullmatch(allowed, name), f"{name} imports {module}"


@pytest.mark.parametrize("name", FILES)
def test_arrows(name):
    for module in imports(FILES[name]):
        inside = module.removeprefix("lightning_recipe.").replace(".", "/")
        target = next((f for f in (f"{inside}.py", f"{inside}/__init__.py") if f in FILES), None)
        if module.startswith("lightning_recipe.") and target:
            same = name.partition("/")[0] == target.partition("/")[0]
            assert same or layer(target) < layer(name), f"{name} imports {module}"


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_do_not_import_each_other(name):
    own = re.compile(r"lightning_recipe\.callbacks\.[^_]")
    assert not [m for m in imports(CALLBACKS[name]) if own.match(m)], "a page imports no page, only decisions beside it"


@pytest.mark.parametrize("name", [n for n in FILES if not n.startswith(("callbacks/", "__init__", "recipe", "demo"))])
def test_machinery_knows_no_check(name):
    assert not [m for m in imports(FILES[name]) if m.startswith("lightning_recipe.callbacks")]


def behind(name):
    """Names of the modules that a page imports, and those that the decisions beside it do."""
    found, waiting = set(), [name]
    while waiting:
        new = set(imports(FILES[waiting.pop()])) - found
        found |= new
        inside = (module.removeprefix("lightning_recipe.").replace(".", "/") + ".py" for module in new)
        waiting += [path for path in inside if path.startswith("callbacks/") and path in FILES]
    return found


@pytest.mark.parametrize("name", CALLBACKS)
def test_whoever_draws_examples_can_be_told_not_to(name):
    draws = behind(name) & {f"lightning_recipe.figures.{room}" for room in ("examples", "inputs", "dynamics")}
    module = importlib.import_module(f"lightning_recipe.callbacks.{CALLBACKS[name].stem}")
    (check,) = (c for c in vars(module).values() if inspect.isclass(c) and c in map(type, lightning_recipe.recipe()))
    arguments = inspect.signature(check).parameters
    assert not draws or "keep_examples" in arguments
    assert "keep_examples" not in arguments or arguments["keep_examples"].default is True


@pytest.mark.parametrize("name", CALLBACKS)
def test_one_class_per_file_named_after_it(name):
    module = importlib.import_module(f"lightning_recipe.callbacks.{CALLBACKS[name].stem}")
    own = [
        c for c in vars(module).values()
        if inspect.isclass(c) and c.__module__ == module.__name__ and issubclass(c, lightning_recipe.RecipeCallback)
    ]  # fmt: skip
    assert [re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", c.__name__).lower() for c in own] == [
        CALLBACKS[name].stem
    ]
    assert own[0].__name__ in lightning_recipe.__all__
    assert own[0] in map(type, lightning_recipe.recipe())


def test_recipe_is_in_the_order_of_its_public_names():
    names = [type(callback).__name__ for callback in lightning_recipe.recipe()]
    assert names == [name for name in lightning_recipe.__all__ if name in names]


def test_no_file_says_nothing():
    assert not [n for n in FILES if Path(n).stem in {"utils", "helpers", "common", "base", "core", "misc", "manager"}]
