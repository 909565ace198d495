"""The line of the user's code that called a function of torch."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

Kind = TypeVar("Kind")
_TORCH = str(Path(torch.__file__).parent) + os.sep
_RECORD = str(Path(__file__).parent) + os.sep
_LIGHTNING = ("lightning.pytorch.core.", "pytorch_lightning.core.")
_WRAPPER = str(Path(__file__).with_name("probe.py"))


def caller() -> tuple[str, tuple[Any, ...]]:
    """File and line of the innermost code that is not torch's, and the calls that led there from the step.

    Example:
        >>> where, stack = caller()
        >>> where.endswith(":1")
        True

    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - inspect.stack() reads source files
    where, stack = "", []
    while frame is not None and frame.f_code.co_filename != _WRAPPER:
        if not frame.f_code.co_filename.startswith((_TORCH, _RECORD)):
            where = where or _place(frame)
            stack.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return where or "compiled code", tuple(stack)


def line() -> str:
    """File and line of the innermost code that is not torch's; without the calls that led there, which take longer.

    Example:
        >>> line().endswith(":1")
        True

    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    while frame is not None and frame.f_code.co_filename.startswith((_TORCH, _RECORD)):
        frame = frame.f_back
    return _place(frame) if frame is not None else ""


def by_lightning() -> bool:
    """Whether a method of Lightning's own module called, as ``self.log`` does, with nothing but torch in between.

    Example:
        >>> by_lightning()
        False

    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    while frame is not None and frame.f_code.co_filename.startswith((_TORCH, _RECORD)):
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__", "").startswith(_LIGHTNING)


def running(*functions: Callable[..., Any]) -> bool:
    """Whether one of these functions of torch called, with nothing but torch in between.

    Example:
        >>> running(torch.nn.utils.clip_grad_norm_)
        False

    """
    codes = {inspect.unwrap(function).__code__ for function in functions}
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    while frame is not None and frame.f_code.co_filename.startswith((_TORCH, _RECORD)):
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


def method_of(kind: type[Kind]) -> Kind | None:
    """The object of class `kind` in one of whose methods a function of torch was called, if it was.

    Example:
        >>> method_of(torch.nn.Module) is None
        True

    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, kind):
            return found
        frame = frame.f_back if frame.f_code.co_filename.startswith((_TORCH, _RECORD)) else None
    return None


def place(file: str, line: int) -> str:
    """``file.py:3``; in a notebook, whose cells are files with a number for a name, ``In[2], line 3``.

    Example:
        >>> place("models/net.py", 3)
        'net.py:3'

    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    named = getattr(getattr(shell, "compile", None), "format_code_name", lambda _: None)(file)  # from IPython 8 on
    return f"{named[1]}, line {line}" if named else f"{os.path.basename(file)}:{line}"  # noqa: PTH119 - 20 times faster than Path


def _place(frame: FrameType) -> str:
    return place(frame.f_code.co_filename, frame.f_lineno)
