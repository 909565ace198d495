"""A captured call of the network, or the whole step, repeated on a copy while some examples are varied."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList

from lightning_recipe.dependencies.backprop import SEED, Part, Rows, layouts
from lightning_recipe.record.tensors import Cloneable, children, mapped, tensors
from lightning_recipe.trial.calming import use_running_statistics, without_dropout
from lightning_recipe.trial.rehearsal import CannotRehearseError
from lightning_recipe.trial.rng import seed_torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_recipe.trial.rehearsal import Rehearsal


@dataclass
class Rerun:
    """A captured call of a network, or the step, repeated on a copy of it while what entered it is varied.

    What is varied are the *leaves*: the floating-point arguments that have rows of examples, and for integers
    (tokens, categories) what the first modules that receive them return: embeddings. Random numbers are drawn the same
    each time; call it with the random state isolated.

    Attributes:
        module: A copy, which this changes: see `calm`.
        name: Its name, for `Event`; ``""`` for the LightningModule.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.
        batch_size: Number of examples B.
        variant: Which of its `layouts` an argument has; the last if it has fewer.
        shared: ``id`` of arguments that are shared by all examples, whatever their shape.
        again: Runs the step on `module`, the only argument being the batch; its outputs are those of the outermost
            modules with parameters that have rows of examples, or of modules inside of them.
        owners: As of `layouts`.
        dtype: To convert floating-point arguments to; see `convert`.

    Example:
        >>> rerun = Rerun(nn.Linear(3, 2), "net", (torch.randn(4, 3),), {}, 4)
        >>> leaves, outputs = rerun.run()
        >>> [leaf.shape for leaf, _ in leaves], [path for path, _ in outputs]
        ([torch.Size([4, 3])], [''])

    """

    module: nn.Module
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch_size: int
    variant: int = 0
    shared: frozenset[int] = frozenset()
    again: Rehearsal | None = None
    owners: Sequence[Tensor] = ()
    dtype: torch.dtype | None = None
    _positions: set[int] = field(default_factory=set)
    _leaves: list[Part] = field(default_factory=list)
    _given: list[Tensor] | None = None
    _indices: list[Tensor] = field(default_factory=list)
    _order: Tensor | None = None
    _takes_gradients: bool = False  # of its own, such as forces

    def __post_init__(self) -> None:
        halves_in = {torch.float16, torch.bfloat16}
        values = [*self.module.parameters(), *(t for _, t in tensors((self.args, self.kwargs)))]
        if any(value.dtype in halves_in for value in values):
            self.convert(torch.float32)
        self._find_positions()

    def convert(self, dtype: torch.dtype) -> None:
        """Go on in another precision."""
        self.dtype = dtype
        self.module._apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)  # noqa: SLF001

    def run(
        self, leaves: list[Tensor] | None = None, *, order: Tensor | None = None, seed: int = 0
    ) -> tuple[list[Part], list[tuple[str, Tensor]]]:
        """Call the module.

        Args:
            leaves: Values instead of the captured ones.
            order: The example that is to stand at each place, in all arguments, shape (B,).
            seed: Of the random numbers drawn.

        Returns:
            The leaves, and the floating-point outputs by path.

        """
        if torch.is_grad_enabled():
            return self._run(leaves, order, seed)
        if not self._takes_gradients:
            try:
                return self._run(leaves, order, seed)
            except RuntimeError as error:
                if "require grad" not in str(error):
                    raise
                self._takes_gradients = True
        with torch.enable_grad():
            inputs, outputs = self._run(leaves, order, seed)
        return [(leaf.detach(), rows) for leaf, rows in inputs], [(path, t.detach()) for path, t in outputs]

    def _run(
        self, leaves: list[Tensor] | None, order: Tensor | None, seed: int
    ) -> tuple[list[Part], list[tuple[str, Tensor]]]:
        self._given, self._order, self._leaves, self._indices = leaves, order, [], []
        childless = [m for m in self.module.modules() if next(m.children(), None) is None]
        handles = [m.register_forward_hook(self._embedded, with_kwargs=True) for m in childless]
        seed_torch(seed)
        try:
            given = mapped({"args": self.args, "kwargs": self.kwargs}, (Tensor, Cloneable), self._argument)
            if self.again is None:
                output = self.module(*given["args"], **given["kwargs"])
            else:
                output = self._answers(self.again, given["args"][0], seed)
        finally:
            for handle in handles:
                handle.remove()
        found = [(path, t) for path, t in tensors(output) if t.numel() and (t.is_floating_point() or t.is_complex())]
        return self._leaves, found

    def _answers(self, again: Rehearsal, batch: Any, seed: int) -> dict[str, Tensor]:
        """Run the step; what the outermost modules with parameters put out, by their names."""
        names = {id(m): n or type(m).__name__ for n, m in self.module.named_modules()}
        running: list[list[tuple[str, Tensor]]] = [[]]  # what modules have put out within each that is being called

        def before(*_: Any) -> None:
            running.append([])

        def after(module: nn.Module, _: Any, output: Any) -> None:
            inside = running.pop()
            if isinstance(module, ParametrizationList):  # it makes weights
                return
            floating = ((names[id(module)], t) for _, t in tensors(output) if t.is_floating_point() and t.numel())
            own = [
                (name, t) for name, t in floating if any(r.dim != _channels(module, t) for r in self.layouts(t.shape))
            ]
            running[-1] += own if own and next(module.parameters(), None) is not None else inside

        handles = [m.register_forward_pre_hook(before) for m in self.module.modules()]
        handles += [m.register_forward_hook(after) for m in self.module.modules()]
        try:
            again.step(batch, seed=seed)
        finally:
            for handle in handles:
                handle.remove()
        return {f"{name} [{i}]": tensor for i, (name, tensor) in enumerate(running[0])}

    def layouts(self, shape: Sequence[int]) -> list[Rows]:
        """Where the examples may lie in a tensor of this shape."""
        return layouts(shape, self.batch_size, self.owners)

    def rows(self, shape: Sequence[int]) -> Rows | None:
        """Where the examples lie in an argument of this shape, if it has any."""
        options = self.layouts(shape)
        return options[min(self.variant, len(options) - 1)] if options else None

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._varied(value)
        duplicate = value.clone()
        if self.owners or isinstance(value, MutableMapping):  # a batch of graphs, a TensorDict
            for name, tensor in children(value):
                if isinstance(tensor, Tensor):
                    duplicate[name] = self._varied(tensor)
        return duplicate

    def _varied(self, tensor: Tensor) -> Tensor:
        belongs = id(tensor) not in self.shared and tensor.layout is torch.strided and not tensor.is_nested
        rows = self.rows(tensor.shape) if belongs else None
        if rows is not None and self._order is not None:
            tensor = rows.reordered(tensor, self._order, self.batch_size)
        if tensor.is_floating_point():
            tensor = tensor.to(self.dtype or tensor.dtype)
        elif not tensor.is_complex():
            return tensor.clone()
        return self._leaf(tensor, rows) if rows is not None and tensor.numel() else tensor.clone()

    @property
    def left_out(self) -> list[tuple[int, ...]]:
        """Shapes of the arguments that have no rows of examples, and are never varied: of nodes, or shared by all."""
        shapes = [tuple(t.shape) for _, t in tensors((self.args, self.kwargs)) if t.numel() and t.ndim]
        return [shape for shape in shapes if self.rows(shape) is None]

    def _leaf(self, tensor: Tensor, rows: Rows) -> Tensor:
        given = tensor if self._given is None else self._given[len(self._leaves)].to(tensor.dtype)
        leaf = given.detach().clone().requires_grad_(torch.is_grad_enabled())
        self._leaves.append((leaf, rows))
        return leaf.clone()  # code that works in place may do so on a clone, not on a leaf

    def _embedded(self, _: nn.Module, args: Any, kwargs: Any, output: Any) -> Tensor | None:
        """Make the output of a module that received nothing but integers a leaf."""
        given = [t for _, t in tensors((args, kwargs))]
        if not given or any(t.is_floating_point() or t.is_complex() for t in given):
            return None
        if not (isinstance(output, Tensor) and output.is_floating_point() and output.numel()):
            return None
        self._indices.append(given[0])
        rows = self.rows(output.shape)
        if rows is None or len(self._indices) - 1 in self._positions:
            return None
        return self._leaf(output, rows)

    def _find_positions(self) -> None:
        """Embeddings of positions belong to no example, even where there are as many positions as examples.

        Nor is it known to which example a row belongs where the module puts them into an order of its own before they
        are embedded, as for packing by length: the same rows, wherever the examples were.
        """
        if all(t.is_floating_point() or t.is_complex() for _, t in tensors((self.args, self.kwargs))):
            return
        order = torch.arange(self.batch_size).roll(1)
        with torch.no_grad():
            self.run()
            before = self._indices
            try:
                self.run(order=order)
            except Exception:  # noqa: BLE001 - such as sorted lengths that no longer are
                return
        pairs = enumerate(zip(before, self._indices, strict=False))
        self._positions = {i for i, (a, b) in pairs if a.shape == b.shape and not self._moves(a, b, order)}

    def _moves(self, before: Tensor, after: Tensor, order: Tensor) -> bool:
        """Whether indices moved with their examples, or changed."""
        rows = self.rows(before.shape)
        if rows is None or torch.equal(before, after):
            return not torch.equal(before, after)
        if torch.equal(rows.reordered(before, order, self.batch_size), after):
            return True
        return not torch.equal(before.unique(dim=rows.dim), after.unique(dim=rows.dim))

    # -- what another order of the examples changes

    def order_matters(self) -> bool | None:
        """Whether outputs depend on which place an example has in the batch; None if the network draws random numbers.

        Statistics over the batch and attention between examples treat all places alike; a wrong view() does not.
        """
        away = self.out_of_order()
        return None if away is None else away > self.tolerance

    def out_of_order(self) -> float | None:
        """How far outputs are from following when examples are permuted, as a share of the largest; None if random.

        Dropout by a function may need eval mode to rest.
        """
        found = self._reordered()
        modes = [(module, module.training) for module in self.module.modules()]
        if found is None:
            try:
                for module, _ in modes:
                    module.training = False
                found = self._reordered()
            finally:
                for module, mode in modes:
                    module.training = mode
        if found is None:
            return None

        def distance(a: Tensor, b: Tensor, rows: Rows) -> float:
            difference = rows.reordered(a, self._shuffle, self.batch_size) - b
            return ((difference.abs().max() / b.abs().max()).nan_to_num(0, 0, 0)).item()

        pairs = [(a, b, options) for a, b in found if (options := self.layouts(a.shape))]
        return max((min(distance(a, b, rows) for rows in options) for a, b, options in pairs), default=0.0)

    def seeds_itself(self) -> bool:
        """Whether the code sets the seed of torch's stream, so that it draws the same numbers whatever the seed was."""
        ends = []
        for seed in (0, 1):
            self.run(seed=seed)
            ends.append(torch.get_rng_state())
        return torch.equal(*ends)

    @property
    def tolerance(self) -> float:
        """Up to which share of the largest two values are taken to be equal."""
        return 1e-5 if self.dtype == torch.float64 else 1e-4

    def be_precise(self) -> None:
        """Go on in double precision, where the network runs in it."""
        before = self.dtype or next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)
        try:
            self.convert(torch.float64)
            self.run()
        except (RuntimeError, TypeError, CannotRehearseError):  # made in single precision inside, or no double there
            self.convert(before)

    def relates(self, output: int) -> bool:
        """Whether an output relates examples to examples, or may: reordered along both dimensions with the examples.

        Args:
            output: Its place among the outputs of `run`.

        """
        shape = self.run()[1][output][1].shape
        sizes = {self.batch_size, self.batch_size - 1, shape[0] - 1, shape[0] - 2}
        if self.again is not None and shape[0] in {self.batch_size**2, self.batch_size * (self.batch_size - 1)}:
            return True  # pairs, of which a module of the step judges each
        options = [rows for rows in self.layouts(shape) if shape[rows.dim] == self.batch_size]
        if len(options) < 2:  # noqa: PLR2004 - both dimensions; without an example itself, the order of others is free
            return len(shape) == 2 and self.batch_size > 4 and (shape[0] == shape[1] or shape[1] in sizes)  # noqa: PLR2004
        found = self._reordered()
        if found is None:
            return True
        before, after = found[output]
        for rows in options[:2]:
            before = rows.reordered(before, self._shuffle, self.batch_size)
        return _close(before, after)

    @property
    def _shuffle(self) -> Tensor:
        return torch.randperm(self.batch_size, generator=torch.Generator().manual_seed(SEED))

    def _reordered(self) -> list[tuple[Tensor, Tensor]] | None:
        """Each output, and what it is for examples in another order; None if the network draws random numbers."""
        if self.owners:  # graphs of different size have no places
            return None
        with torch.no_grad():
            (_, base), (_, other), (_, moved) = self.run(), self.run(seed=1), self.run(order=self._shuffle)
        if any(not _close(a, b) for (_, a), (_, b) in zip(base, other, strict=True)):
            return None
        return [(a, b) for (_, a), (_, b) in zip(base, moved, strict=True)]


def calm(module: nn.Module) -> int:
    """Prepare a copy: parameters need no gradient, norm layers use running statistics, nothing is dropped out.

    Returns:
        Number of BatchNorm layers, whose mixing of the batch is thereby switched off.

    Example:
        >>> calm(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.Dropout()))
        1

    """
    module.requires_grad_(requires_grad=False)
    return use_running_statistics(without_dropout(module))


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-5 * max(1.0, a.abs().max().item()))


def _channels(module: nn.Module, output: Tensor) -> int | None:
    """The dimension of what comes out of a layer that its own weights make, of whatever size."""
    if isinstance(module, _ConvNd | _BatchNorm):
        return min(1, output.ndim - 1)
    return output.ndim - 1 if isinstance(module, nn.Linear) else None
