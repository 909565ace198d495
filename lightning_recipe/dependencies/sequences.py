"""Sequences that pass through a step of the network: where they enter, what is made of them, and where time lies."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from lightning_recipe.record.tensors import mapped, storage, tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Layout(NamedTuple):
    """Where the sequences and their positions lie in a tensor.

    Attributes:
        shape: To give to the tensor first.
        order: Of its dimensions then: sequences, positions, features.

    Example:
        >>> Layout((3, 2, 4), (1, 0, 2)).of(torch.zeros(6, 4)).shape
        torch.Size([2, 3, 4])

    """

    shape: tuple[int, ...]
    order: tuple[int, ...]

    def of(self, tensor: Tensor) -> Tensor:
        """The tensor as (sequences, positions, features); a view of one that is contiguous."""
        return tensor.reshape(self.shape).permute(self.order)


def layouts(shape: tuple[int, ...], sequences: int, positions: int) -> list[Layout]:
    """Where a number of sequences with a number of positions may lie in a tensor, the likeliest first.

    Example:
        >>> layouts((2, 3, 5), 2, 3), layouts((2, 5, 3), 2, 3)
        ([Layout(shape=(2, 3, 5), order=(0, 1, 2))], [Layout(shape=(2, 5, 3), order=(0, 2, 1))])
        >>> [layout.shape for layout in layouts((6, 5), 2, 3)]
        [(2, 3, 5), (3, 2, 5)]
        >>> layouts((2, 4, 5), 2, 3)
        []

    """
    size = sequences * positions
    if len(shape) <= 2 and shape and shape[0] == size:  # noqa: PLR2004 - flattened
        rest = tuple(shape[1:]) or (1,)
        return [Layout((sequences, positions, *rest), (0, 1, 2)), Layout((positions, sequences, *rest), (1, 0, 2))]
    if len(shape) == 2:  # noqa: PLR2004 - a number for each position
        shape = (*shape, 1)
    if len(shape) != 3:  # noqa: PLR2004
        return []
    places = [(i, j) for i, j in permutations(range(3), 2) if (shape[i], shape[j]) == (sequences, positions)]
    return [Layout(tuple(shape), (i, j, 3 - i - j)) for i, j in places]


@dataclass(frozen=True)
class Entered:
    """A tensor that entered the network from outside.

    Attributes:
        given: As it entered: integers of shape (d0, d1), or numbers of shape (d0, d1) or (d0, d1, d2).
        leaf: What gradients are followed to: the same, or the embeddings of the integers, of shape (d0, d1, features).

    """

    given: Tensor
    leaf: Tensor


@dataclass(frozen=True)
class Passed:
    """A tensor that entered or left a module.

    Attributes:
        name: That of the module in which it was computed.
        where: What computed it, in words.
        module: The module in which it was computed.
        leaves: Whether it left the module.
        learnt: Whether a module with parameters had run before.
        value: The tensor.

    """

    name: str
    where: str
    module: nn.Module
    leaves: bool
    learnt: bool
    value: Tensor


@dataclass
class Passage:
    """What passed through the modules of a network in a step, in order.

    Attributes:
        entered: What came from outside.
        passed: What entered and left modules.
        carried: Names of recurrent modules whose first call in the step was given a state from a step before: one that
            a module kept, other for each sequence, and without a gradient.
        loss: What the step came to, with its graph; for whoever runs it to set.

    Example:
        >>> passage, net = Passage(), nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
        >>> with passage.through(net):
        ...     _ = net(torch.tensor([[0, 1, 2], [2, 3, 4]]))
        >>> [entered.leaf.shape for entered in passage.entered], [p.where for p in passage.passed if p.leaves]
        ([torch.Size([2, 3, 4])], ['in 0 (Embedding)', 'in 1 (Linear)', 'in Sequential, after 1'])

    """

    entered: list[Entered] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)
    loss: Tensor | None = None

    @contextmanager
    def through(self, root: nn.Module, changed: Mapping[int, Tensor] | None = None) -> Iterator[None]:
        """Watch the modules of `root`, a copy.

        Args:
            root: What enters it is made a leaf.
            changed: By their place in `entered`, values of leaves instead of those that entered.

        """
        self._root, self._changed = root, changed or {}
        self._names = {id(m): name.replace("_orig_mod.", "") or type(m).__name__ for name, m in root.named_modules()}
        self._learning = {id(m) for m in root.modules() if next(m.parameters(), None) is not None}
        self._calls: list[tuple[nn.Module, str]] = []  # being run: the module, and the last it called
        self._called: set[int] = set()
        self._kept: dict[int, Tensor] = {}
        self._learnt = False
        weights = {id(m) for whole in root.modules() if isinstance(whole, ParametrizationList) for m in whole.modules()}
        with ExitStack() as stack:
            for module in root.modules():
                if id(module) in weights:  # which it makes of others, and nothing passes through
                    continue
                stack.callback(module.register_forward_pre_hook(self._before, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(self._after, with_kwargs=True).remove)
            yield

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if not self._called:  # the step has computed nothing yet
            self._kept = kept_by(self._root)
        if isinstance(module, nn.RNNBase | nn.RNNCellBase) and id(module) not in self._called:
            self._receive_state(module, next((t for _, t in tensors((args[1:], kwargs.get("hx")))), None))
        self._called.add(id(module))
        given = [tensor for _, tensor in tensors((args, kwargs))]
        outside = id(module) in self._learning and not any(tensor.requires_grad for tensor in given)
        if outside and any(map(_may_be_sequences, given)) and torch.is_grad_enabled():
            args, kwargs = mapped((args, kwargs), Tensor, self._enter)
        elif self._calls:
            parent, previous = self._calls[-1]
            between = f"between {previous} and" if previous else "before"
            where = f"in {self._names[id(parent)]}, {between} {self._names[id(module)]}"
            self._note(where, parent, (args, kwargs), leaves=False)
        self._calls.append((module, ""))
        return args, kwargs

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        _, last = self._calls.pop()
        name = self._names[id(module)]
        if last == "" and id(module) in self._learning:
            output = self._embedded(module, (args, kwargs), output)
            self._learnt = True
        self._note(f"in {name}, after {last}" if last else f"in {name} ({type(module).__name__})", module, output)
        if self._calls:
            self._calls[-1] = (self._calls[-1][0], name)
        return output

    def _receive_state(self, module: nn.Module, state: Tensor | None) -> None:
        """Take note of a state from a step before, which is not the same for all sequences."""
        if state is not None and storage(state) in self._kept and state.ndim > 1 and not state.requires_grad:
            self.carried += [self._names[id(module)]] * bool((state != state[..., :1, :]).any())

    def _note(self, where: str, module: nn.Module, content: Any, *, leaves: bool = True) -> None:
        for _, tensor in tensors(mapped(content, PackedSequence, _padded)):
            if tensor.requires_grad and tensor.is_floating_point():
                passed = Passed(self._names[id(module)], where, module, leaves, self._learnt, tensor)
                self.passed.append(passed)

    def _enter(self, tensor: Tensor) -> Tensor:
        """Numbers that may be sequences become a leaf."""
        return self._leaf(tensor, tensor) if _may_be_sequences(tensor) else tensor

    def _embedded(self, module: nn.Module, given: Any, output: Any) -> Any:
        """What a module made of integers becomes a leaf."""
        tokens = [tensor for _, tensor in tensors(given)]
        if not (tokens and isinstance(output, Tensor) and output.is_floating_point() and torch.is_grad_enabled()):
            return output
        whole = not any(tensor.is_floating_point() for tensor in tokens) and not isinstance(module, nn.RNNBase)
        sequence = tokens[0].ndim == 2 and output.ndim == 3 and output.shape[:2] == tokens[0].shape  # noqa: PLR2004
        return self._leaf(tokens[0], output) if whole and sequence else output

    def _leaf(self, given: Tensor, value: Tensor) -> Tensor:
        value = self._changed.get(len(self.entered), value)
        leaf = value.detach().clone().requires_grad_()
        self.entered.append(Entered(given, leaf))
        return leaf.clone()  # code that works in place may do so on a clone


def _padded(rows: PackedSequence) -> Tensor:
    return pad_packed_sequence(rows, batch_first=True)[0]


def _may_be_sequences(numbers: Tensor) -> bool:
    strided = numbers.is_floating_point() and numbers.layout is torch.strided
    # one channel may come before the steps
    return strided and numbers.ndim in {2, 3} and len(numbers) > 1 and max(numbers.shape[1:]) > 1


def kept_by(root: nn.Module) -> dict[int, Tensor]:
    """The tensors, other than parameters, that modules keep as attributes or in lists, by where they are stored.

    Example:
        >>> root = nn.Linear(2, 1)
        >>> root.state = torch.zeros(3)
        >>> [tensor.shape for tensor in kept_by(root).values()]
        [torch.Size([3])]

    """
    values = [value for module in root.modules() for value in (*vars(module).values(), *module.buffers(recurse=False))]
    held = [value for value in values if isinstance(value, Tensor | tuple | list)]
    return {storage(tensor): tensor for value in held for _, tensor in tensors(value)}


def may_hold_sequences(batch: Any) -> bool:
    """Whether some tensor of a batch has the shape of sequences: two dimensions or three.

    Example:
        >>> may_hold_sequences([torch.zeros(8, 3, 32, 32), torch.zeros(8).long()])
        False

    """
    return any(tensor.ndim in {2, 3} and max(tensor.shape[:2]) > 1 for _, tensor in tensors(batch))
