"""Compiled code, and tensors that stand for others."""

from __future__ import annotations

import torch
from torch import nn
from torch.compiler import is_compiling

_transform = torch._C._functorch.maybe_current_level  # noqa: SLF001 - has no public reader


def was_compiled(module: nn.Module) -> bool:
    """Whether `module` is what ``torch.compile`` returned, or was compiled in place.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> was_compiled(net), was_compiled(torch.compile(net, backend="eager"))
        (False, True)

    """
    return isinstance(module.__dict__.get("_modules", {}).get("_orig_mod"), nn.Module) or (
        getattr(module, "_compiled_call_impl", None) is not None
    )


def is_compiled_network(module: nn.Module) -> bool:
    """Whether `module` was compiled and has parameters; compiled losses have none, and are looked into.

    Example:
        >>> is_compiled_network(torch.compile(nn.MSELoss(), backend="eager"))
        False

    """
    return was_compiled(module) and next(module.parameters(), None) is not None


def is_traced() -> bool:
    """Whether tensors stand for others: in ``torch.compile``, and in ``vmap`` and ``grad`` of ``torch.func``.

    Example:
        >>> is_traced(), torch.vmap(lambda x: x * is_traced())(torch.ones(2))
        (False, tensor([1., 1.]))

    """
    return is_compiling() or _transform() is not None
