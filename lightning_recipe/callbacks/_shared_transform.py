"""An attribute of one data set that two subsets share, set for one of them: read from the program's own code."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRANSFORMS = re.compile(r"transform|aug|jitter|crop|flip|noise|mix|train|mode|phase|eval", re.IGNORECASE)
_VALIDATION = re.compile(r"val|dev|test|eval|hold", re.IGNORECASE)
_SPLITS = {"random_split", "Subset"}
_FOREIGN = ("torch", "lightning", "pytorch_lightning", "builtins")


class Assigned(NamedTuple):
    """A line that sets an attribute of a subset's data set.

    Attributes:
        name: Of the attribute.
        subset: What the code calls the subset, or the data set after it was split.
        value: The code of what is set.
        line: As written.

    """

    name: str
    subset: str
    value: str
    line: str


def trees(*objects: Any) -> list[ast.Module]:
    """The parsed files of the objects' classes and of the script, without classes that are none of theirs."""
    classes = [c for one in objects for c in type(one).__mro__ if not c.__module__.startswith(_FOREIGN)]
    names = {c.__name__ for c in classes}
    found = []
    modules = {name: sys.modules.get(name) for name in ("__main__", *(c.__module__ for c in classes))}
    for module in filter(None, modules.values()):
        own = [c for c in classes if c.__module__ == module.__name__]
        try:
            code = [inspect.getsource(module)]
        except (OSError, TypeError):  # a notebook
            code = [text for c in own if (text := _source(c))]
        for text in code:
            body = [node for node in _parsed(text).body if not isinstance(node, ast.ClassDef) or node.name in names]
            found.append(ast.Module(body, []))
    return found


@functools.lru_cache(maxsize=8)  # several checks ask for the same files, and each fit of a process does
def _parsed(text: str) -> ast.Module:
    return ast.parse(textwrap.dedent(text))


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""


def assigned(tree: ast.AST) -> list[Assigned]:
    """The lines that set an attribute like a transform through a subset, or of a data set that was split before.

    Example:
        >>> assigned(ast.parse("val_set.dataset.transform = None"))
        [Assigned(name='transform', subset='val_set', value='None', line='val_set.dataset.transform = None')]

    """
    aliases: dict[str, str] = {}
    found = []
    for node in sorted(ast.walk(tree), key=lambda node: getattr(node, "lineno", 0)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in _SPLITS and node.args:
            whole = ast.unparse(node.args[0])
            aliases[whole] = whole
        if not isinstance(node, ast.Assign | ast.Call):
            continue
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            subset = _through(node.value)
            aliases.pop(node.targets[0].id, None)
            if subset:
                aliases[node.targets[0].id] = subset
        for owner, name, value in _settings(node):
            subset = _through(owner) or aliases.get(ast.unparse(owner), "")
            if subset and _TRANSFORMS.search(name):
                found.append(Assigned(name, subset, value, ast.unparse(node)))
    return found


def _settings(node: ast.Assign | ast.Call) -> Iterator[tuple[ast.expr, str, str]]:
    """Whose attribute is set, its name, and to what."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Attribute):
                yield target.value, target.attr, ast.unparse(node.value)
    elif isinstance(node.func, ast.Name) and node.func.id == "setattr" and isinstance(node.args[1], ast.Constant):
        yield node.args[0], str(node.args[1].value), ast.unparse(node.args[2])
    elif isinstance(node.func, ast.Attribute) and re.match(r"set_|enable|disable|eval$|train$", node.func.attr):
        yield node.func.value, node.func.attr, ", ".join(map(ast.unparse, node.args))


def _through(node: ast.expr) -> str:
    """The subset whose data set an expression is."""
    return ast.unparse(node.value) if isinstance(node, ast.Attribute) and node.attr == "dataset" else ""


def constructed(tree: ast.AST, source: Any, name: str) -> str:
    """The code of what the data set's constructor is given for an attribute; empty if it is not."""
    try:
        place = list(inspect.signature(type(source)).parameters).index(name)
    except (ValueError, TypeError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == type(source).__name__:
            given = [k.value for k in node.keywords if k.arg == name] or node.args[place : place + 1]
            if given and ast.unparse(given[0]) not in {"None", "False"}:
                return ast.unparse(given[0])
    return ""


def verdict(found: list[Assigned], source: Any, given: dict[str, str]) -> Outcome | None:
    """What to say of a data set that the subsets of training and validation share.

    Args:
        found: The lines that set its attributes.
        source: The data set.
        given: By attribute, what its constructor was given.

    Returns:
        None if nothing was set for one subset only, or the same for both.

    Example:
        >>> class Images:
        ...     transform = None
        >>> line = Assigned("transform", "self.val_set", "None", "self.val_set.dataset.transform = None")
        >>> verdict([line], Images(), {"transform": "crop"}).status
        <Status.WARNING: 'warning'>

    """
    for last in reversed(found):
        before = given.get(last.name, "")
        values = {one.value for one in found if one.name == last.name} | ({before} if before else set())
        subsets = {one.subset for one in found if one.name == last.name}
        if not hasattr(source, last.name) or (len(values) == 1 and (before or len(subsets) > 1)):
            continue
        certain = len(values) > 1 and any(_VALIDATION.search(subset) for subset in subsets)
        return Outcome(
            Status.WARNING if certain else Status.ADVICE,
            "shared_transform",
            f"`{last.line}` holds for training and validation: both are subsets of one {type(source).__name__}"
            + (f", whose `{last.name}` was {before}" if before else ""),
            "give each subset a data set of its own: construct it twice, or copy.copy it, with the same indices",
            {"lines": len(found)},
        )
    return None
