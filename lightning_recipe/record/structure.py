"""Tensors inside nested arguments and batches: tuples, dicts, dataclasses, graphs, objects."""

from __future__ import annotations

import copy
import inspect
from abc import ABC
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

MAX_ELEMENTS = 2**20
"""Elements kept of a prediction and its target (whole examples from the front), so that memory stays bounded."""
MAX_DEPTH = 6  # containers within containers; cyclic objects end here


class Cloneable(ABC):  # noqa: B024 - told by its method alone, and remembered for each class, unlike of a protocol
    """Tensors, and containers of tensors that copy themselves: PyTorch Geometric's batches, TensorDicts.

    Example:
        >>> isinstance(torch.ones(1), Cloneable), isinstance([1], Cloneable)
        (True, False)

    """

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return callable(getattr(other, "clone", None))


COPIED = (Tensor, Cloneable, np.ndarray)
"""What has values that code may change in place."""


def tensors(structure: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in `structure` with the path to it.

    Args:
        structure: Anything. Tuples, lists, mappings, dataclasses, objects with ``to_dict`` (graphs) and
            plain objects with attributes are entered; all else holds no tensors. Nested tensors, whose examples have
            shapes of their own, are left out.
        path: What the paths start with.
        depth: How deep `structure` itself lies.

    Yields:
        Pairs of path and tensor, in the order of the containers.

    Example:
        >>> batch = {"image": torch.zeros(2, 3), "meta": ["a", (torch.ones(2),)]}
        >>> [path for path, _ in tensors(batch, "batch")]
        ['batch.image', 'batch.meta[1][0]']

    """
    if isinstance(structure, Tensor):
        if not structure.is_nested:
            yield path, structure
    elif depth < MAX_DEPTH:
        for key, value in children(structure):
            step = f"[{key}]" if isinstance(key, int) else f".{key}" if path else str(key)
            yield from tensors(value, path + step, depth + 1)


def children(structure: Any) -> list[tuple[Any, Any]]:
    """What lies directly in `structure`, under its name or index: items, entries, fields, attributes.

    Example:
        >>> children({"x": 1}), children(["a"]), children("text")
        ([('x', 1)], [(0, 'a')], [])

    """
    if structure is None or isinstance(structure, str | bytes | int | float | type | nn.Module):
        return []
    if isinstance(structure, Mapping):
        return list(structure.items())
    if isinstance(structure, (list, tuple)):
        return list(zip(getattr(structure, "_fields", range(len(structure))), structure, strict=True))
    if is_dataclass(structure):
        return [(f.name, getattr(structure, f.name, None)) for f in fields(structure)]
    if callable(getattr(structure, "to_dict", None)) and hasattr(structure, "clone"):
        return list(structure.to_dict().items())
    return _attributes(structure)


def _attributes(structure: Any) -> list[tuple[str, Any]]:
    slots = [getattr(kind, "__slots__", ()) for kind in type(structure).__mro__]
    names = [name for group in slots for name in ([group] if isinstance(group, str) else group)]
    names = [name for name in names if name not in {"__dict__", "__weakref__"} and hasattr(structure, name)]
    return [*getattr(structure, "__dict__", {}).items(), *((name, getattr(structure, name)) for name in names)]


def mapped(structure: Any, kinds: type | tuple[type, ...], function: Callable[[Any], Any]) -> Any:
    """A copy of `structure` in which `function` was applied to everything of some kinds.

    Lightning's ``apply_to_collection``, which leaves objects as they are, as well as frozen dataclasses and fields that
    ``__init__`` does not take. Here they are copied, as far as `tensors` enters them.

    Args:
        structure: Anything. What holds nothing of these kinds is kept by reference, as is what can't be copied.
        kinds: Types.
        function: From a value to what takes its place.

    Example:
        >>> class Pair:
        ...     def __init__(self, x, y):
        ...         self.x, self.y = x, y
        >>> pair = Pair(torch.ones(2), "label")
        >>> twice = mapped([pair], Tensor, lambda x: 2 * x)
        >>> twice[0].x, twice[0].y, pair.x
        (tensor([2., 2.]), 'label', tensor([1., 1.]))

    """
    return _mapped(structure, kinds if isinstance(kinds, tuple) else (kinds,), function, {})


def _mapped(structure: Any, kinds: tuple[type, ...], function: Callable[[Any], Any], done: dict[int, Any]) -> Any:
    def apply(value: Any) -> Any:
        if isinstance(value, kinds):
            return function(value)
        if id(value) not in done:
            try:
                done[id(value)] = duplicate = copy.copy(value)
                # another mapping keeps its items in an attribute, which a shallow copy shares
                own = isinstance(value, Mapping) and not isinstance(value, dict)
                inside = _attributes(value) if own else children(value)
                for name, child in inside:
                    changed = _mapped(child, kinds, function, done)
                    if isinstance(value, dict):
                        duplicate[name] = changed
                    else:
                        object.__setattr__(duplicate, name, changed)  # frozen or not
            except (TypeError, AttributeError):  # it holds an open file, or is made by a constructor only
                done[id(value)] = value
        return done[id(value)]

    objects = {type(found) for found in _objects(structure, kinds)}
    return apply_to_collection(structure, (*kinds, *objects), apply, allow_frozen=True)


def _objects(structure: Any, kinds: tuple[type, ...], depth: int = 0) -> Iterator[Any]:
    """The objects nearest to the root in which something of `kinds` lies, except graphs that copy themselves.

    Dataclasses are objects, and so is any mapping of a class of its own, whose constructor may ask for something else.
    """
    own = isinstance(structure, MutableMapping) and type(structure) not in {dict, OrderedDict, defaultdict}
    if isinstance(structure, kinds) or (isinstance(structure, Cloneable) and not own) or depth > MAX_DEPTH:
        return
    inside = [value for _, value in children(structure)]
    if isinstance(structure, Mapping | list | tuple) and not own:
        for value in inside:
            yield from _objects(value, kinds, depth + 1)
    elif own or any(_holds(value, kinds, depth + 1) for value in inside):
        yield structure


def holds(structure: Any, kind: type) -> bool:
    """Whether something of a kind lies in `structure`, as far as `tensors` enters it.

    Example:
        >>> holds({"x": [iter("ab")]}, Iterator)
        True

    """
    return _holds(structure, (kind,), 0)


def _holds(structure: Any, kinds: tuple[type, ...], depth: int) -> bool:
    if isinstance(structure, kinds):
        return True
    return depth < MAX_DEPTH and any(_holds(value, kinds, depth + 1) for _, value in children(structure))


def snapshot(structure: Any) -> Any:
    """A copy whose tensors are detached clones, and arrays copies, so that nothing done later changes it.

    Example:
        >>> batch = [torch.zeros(2), "label"]
        >>> kept = snapshot(batch)
        >>> _ = batch[0].add_(1)
        >>> kept
        [tensor([0., 0.]), 'label']

    """
    return mapped(structure, COPIED, cloned)


def cloned(value: Any) -> Any:
    """A copy of a tensor, detached, of an array, or of a container that copies itself.

    Example:
        >>> cloned(torch.ones(1, requires_grad=True) * 2)
        tensor([2.])

    """
    if not isinstance(value, Tensor):
        return value.copy() if isinstance(value, np.ndarray) else value.clone()
    with torch.inference_mode(mode=False):  # a tensor cloned in inference mode could never take part in autograd
        try:
            return value.detach().clone()
        except Exception:  # noqa: BLE001 - of a class of its own, which lacks what the operation before did not hand on
            return value.detach().as_subclass(Tensor).clone()


def leading_size(structure: Any) -> int | None:
    """The size that most tensors have in dimension 0: as a rule, the number of examples.

    Example:
        >>> leading_size({"x": torch.zeros(8, 3), "y": torch.zeros(8), "scale": torch.tensor(1.0)})
        8
        >>> leading_size("no tensors") is None
        True

    """
    sizes = Counter(tensor.shape[0] for _, tensor in tensors(structure) if tensor.ndim)
    return sizes.most_common(1)[0][0] if sizes else None


def switches(module: nn.Module) -> dict[str, bool | str]:
    """Public attributes of `module` and of those inside that are true, false or a text, but for the mode, by path.

    Example:
        >>> layer = nn.Sequential(nn.GELU())
        >>> {name: value for name, value in switches(layer).items() if "approximate" in name}
        {'0.approximate': 'none'}

    """
    return {
        f"{path}.{name}" if path else name: value
        for path, inside in module.named_modules()
        for name, value in vars(inside).items()
        if isinstance(value, bool | str) and name != "training" and not name.startswith("_")
    }


def by_parameter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of `module` under the names of forward's parameters.

    Example:
        >>> list(by_parameter(nn.Linear(2, 1), (torch.ones(2),), {}))
        ['input']

    """
    try:
        forward = getattr(module, "_orig_mod", module).forward
        bound = inspect.signature(forward).bind(*args, **kwargs)
    except (TypeError, ValueError, AttributeError):
        return {**{f"arg{i}": value for i, value in enumerate(args)}, **kwargs}
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named


def cut(tensor: Tensor, keep: int | None = None) -> Tensor:
    """A detached clone of the first `keep` examples, by default of as many as `MAX_ELEMENTS` allow.

    Example:
        >>> cut(torch.zeros(4, 2**19)).shape
        torch.Size([2, 524288])

    """
    if keep is None and tensor.ndim and tensor.numel() > MAX_ELEMENTS:
        keep = max(1, MAX_ELEMENTS * tensor.shape[0] // tensor.numel())
    kept: Tensor = snapshot(tensor if keep is None else first_rows(tensor, keep))
    return kept


def first_rows(tensor: Tensor, count: int) -> Tensor:
    """The first `count` rows, also of sparse tensors, which can't be sliced.

    Example:
        >>> first_rows(torch.eye(4).to_sparse(), 2).shape
        torch.Size([2, 4])

    """
    if not str(tensor.layout).startswith("torch.sparse"):
        return tensor[:count]
    first: Tensor = tensor.to_sparse_coo().narrow_copy(0, 0, min(count, len(tensor)))
    return first if tensor.layout is torch.sparse_coo else first.to_sparse(layout=tensor.layout)


def cut_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a loss, those with a value per example cut to the same examples."""
    prediction = arguments.get("input")
    if not (isinstance(prediction, Tensor) and prediction.ndim and prediction.numel() > MAX_ELEMENTS):
        return {name: cut(value) if isinstance(value, Tensor) else value for name, value in arguments.items()}
    keep = max(1, MAX_ELEMENTS * prediction.shape[0] // prediction.numel())
    kept = {}
    for name, value in arguments.items():
        per_example = (
            isinstance(value, Tensor)
            and value.ndim > 0
            and value.shape[0] == prediction.shape[0]
            and (name in {"input", "target", "var"} or value.ndim == prediction.ndim)
        )
        kept[name] = cut(value, keep if per_example else None) if isinstance(value, Tensor) else value
    return kept


def storage(tensor: Tensor) -> int:
    """Where the values lie: the same for views of one tensor."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse and wrapped tensors have none
        return id(tensor)
