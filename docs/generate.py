"""Writes everything that depends on the list of callbacks, from their classes.

``make generate`` writes the texts, and makes the pictures of callbacks that have none;
``make generate PICTURES="BiasCheck 'Init*'"`` makes the pictures of these callbacks again.
"""

from __future__ import annotations

import re
import sys
from fnmatch import fnmatchcase
from inspect import cleandoc, getdoc, getmodule, isclass
from pathlib import Path

import make_pictures

import lightning_recipe
from lightning_recipe import Check, RecipeCallback
from lightning_recipe.recipe import DEFAULT

ROOT = Path(__file__).parent.parent
EXPORTED = [vars(lightning_recipe)[name] for name in lightning_recipe.__all__]
CALLBACKS: list[type[RecipeCallback]] = [
    thing
    for thing in EXPORTED
    if isclass(thing) and issubclass(thing, RecipeCallback) and thing not in {RecipeCallback, Check}
]
"""In the order of the recipe; some that need an argument are not in ``recipe()``."""
TUNED = {  # in the example for LightningCLI
    "InitLossCheck": "warn_ratio: 3.0 # tuned: logits are scaled on purpose",
    "BatchMixingDetector": "strict: true # stops the run",
}
NO_CARD = {  # pictures that are none of TensorBoard's
    "InitLossCheck": {
        "loss": "Training loss over 66 steps. With the output layer too large it starts at about 50, and needs tens of "
        "steps to come down to ln 10, where the other curve starts: that looks like progress, and is only the way back "
        "to a uniform guess"
    }
}
PAGE = """\
# {name}

## What it checks

{summary}

In the recipe: {words} ({section}).

## Why

{why}

## How it decides

::: lightning_recipe.{name}

## What a hit looks like

{program}

```text
--8<-- "docs/pictures/{file}.txt"
```
{pictures}
## When a hit is fine

{legitimate}

To leave it out: `recipe(skip=["{name}"])`; see [silence and tune](../findings.md#silence-and-tune).

## Cost

{cost} [What was measured](../costs.md).
"""


def file_name(check: type[RecipeCallback]) -> str:
    """Of its page: the name of the file that it is in."""
    return check.__module__.rpartition(".")[-1]


def words(check: type[RecipeCallback]) -> str:
    """The recipe's, from the first line of its file."""
    first = (getdoc(getmodule(check)) or "").partition("\n")[0]
    return first.partition(": ")[2].rstrip(".")


def section(check: type[RecipeCallback], title: str) -> str:
    """One of the sections of a docstring; empty if it has no such section."""
    found = re.search(rf"^{title}:\n((?:\n|    .*\n?)+)", getdoc(check) or "", re.MULTILINE)
    return cleandoc(f"\n{found.group(1)}") if found else ""


def why(check: type[RecipeCallback]) -> str:
    """What its source quotes from the recipe, and its own reason."""
    quotes = re.findall(r'"([^"]+)"', section(check, "Source").partition("Karpathy")[2])
    quoted = "\n>\n".join(f"> {' '.join(quote.split())}" for quote in quotes)
    reason = f"{check.why[0].upper()}{check.why[1:]}."
    return f"The recipe:\n\n{quoted}\n\n{reason}" if quoted else reason


def cards(check: type[RecipeCallback]) -> dict[str, str]:
    """What each picture shows, by the end of its file's name, with wildcards: the list in the section ``Pictures:``."""
    listed = re.findall(r"^- `(.+?)`: (.+?)\.?$(?=\n-|\Z)", section(check, "Pictures"), re.MULTILINE | re.DOTALL)
    return {re.sub(r"<\w+>", "*", name).replace(" ", "_"): " ".join(text.split()) for name, text in listed}


def pictures(check: type[RecipeCallback]) -> str:
    """Those that are there, each with what it shows."""
    lines = [
        f"![{shows}](../pictures/{path.name}){{ width=330 }}"
        for name, shows in {**cards(check), **NO_CARD.get(check.__name__, {})}.items()
        for path in sorted((ROOT / "docs" / "pictures").glob(f"{file_name(check)}_{name}.png"))
    ]
    return "\n".join(["", *lines, ""]) if lines else ""


def page(check: type[RecipeCallback]) -> str:
    """Its page.

    Raises:
        LookupError: If the docstring lacks a section.

    """
    if missing := [title for title in ("Source", "Legitimate", "Cost") if not section(check, title)]:
        msg = f"the docstring of {check.__name__} has no section {missing[0]}:"
        raise LookupError(msg)
    return PAGE.format(
        name=check.__name__,
        summary=(getdoc(check) or "").partition("\n")[0],
        section=check.section.value,
        words=words(check),
        why=why(check),
        program=make_pictures.program_for(check).__doc__ or "A program with one mistake:",
        file=file_name(check),
        pictures=pictures(check),
        legitimate=section(check, "Legitimate"),
        cost=section(check, "Cost"),
    )


def between_marks(path: str, lines: list[str]) -> str:
    """A file with `lines` between its marks, which are comments."""
    text = (ROOT / path).read_text(encoding="utf-8")
    before, begin, _, end, after = re.split(r"(.*callbacks: (?:begin|end).*\n)", text)
    return "".join([before, begin, *(f"{line}\n" for line in lines), end, after])


def readme(path: str, heading: str) -> str:
    """A README with the table of callbacks, in the order of TensorBoard."""
    rows = [
        f"| [{check().tag('').rstrip('/')}](docs/callbacks/{file_name(check)}.md) | {words(check)} |"
        for check in CALLBACKS
    ]
    return between_marks(path, [heading, "|---|---|", *rows])


def texts() -> dict[str, str]:
    """Everything but the pictures, by its path."""
    kinds = {check: "judges" if issubclass(check, Check) else "shows" for check in CALLBACKS}
    names = {check.__name__: f"callbacks/{file_name(check)}.md" for check in CALLBACKS}
    index = [f"| [{c.__name__}]({names[c.__name__]}) | {words(c)} | {kind} |" for c, kind in kinds.items()]
    example = "docs/examples/lightning_cli.yaml"
    head, callbacks, _ = (ROOT / example).read_text(encoding="utf-8").partition("  callbacks:\n")
    for name in (check.__name__ for check in DEFAULT):
        callbacks += f"    - class_path: lightning_recipe.{name}\n"
        callbacks += f"      init_args:\n        {TUNED[name]}\n" if name in TUNED else ""
    return {
        "README.md": readme("README.md", "| in TensorBoard | the recipe's words |"),
        "README.ko.md": readme("README.ko.md", "| TensorBoard에서 | recipe의 문장 |"),
        "zensical.toml": between_marks("zensical.toml", [f'    {{ "{n}" = "{path}" }},' for n, path in names.items()]),
        "docs/index.md": between_marks(
            "docs/index.md", ["| callback | the recipe's words | kind |", "|---|---|---|", *index]
        ),
        "docs/findings.md": between_marks(
            "docs/findings.md", ["", *(f"- [{name}]({path}#when-a-hit-is-fine)" for name, path in names.items()), ""]
        ),
        example: head + callbacks,
        **{f"docs/callbacks/{file_name(check)}.md": page(check) for check in CALLBACKS},
    }


def main(again: list[str]) -> None:
    """Make the pictures that are missing or asked for, write all texts, and remove pages of callbacks that went."""
    folder = ROOT / "docs" / "pictures"
    for check in CALLBACKS:
        is_missing = not (folder / f"{file_name(check)}.txt").exists()
        if is_missing or any(fnmatchcase(check.__name__, name) for name in again):
            make_pictures.make(check, folder)
    written = texts()
    for path, text in written.items():
        (ROOT / path).write_text(text, encoding="utf-8")
    for path in (ROOT / "docs" / "callbacks").glob("*.md"):
        if path.relative_to(ROOT).as_posix() not in written:
            path.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
