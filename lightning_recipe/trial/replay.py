"""A captured call of the network, run again on the real module: in eval mode, without side effects.

For a look at the predictions no copy of the module is needed, only that everything which a forward may touch is put
back: modes, buffers, plain attributes, random streams. Hooks of the LightningModule are not called.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_recipe.finding import in_short
from lightning_recipe.record.copies import cloned
from lightning_recipe.record.modules import switches
from lightning_recipe.record.outputs import returned
from lightning_recipe.record.tensors import COPIED, mapped, tensors
from lightning_recipe.trial.first_examples import first_of
from lightning_recipe.trial.isolation import eager, isolated, mute, obstacle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning.pytorch import LightningModule, Trainer

    from lightning_recipe.record.step import NetCall, Step

REMEMBERED = 2**20
"""Elements up to which a tensor that is a plain attribute is copied, to be put back; buffers always are."""
WATCHED = 2**26
"""Parameters up to which the first replay keeps a copy, to see that the forward writes to none of them."""


class CannotReplayError(Exception):
    """The network can't be run again on its own; the message says why.

    Example:
        >>> raise CannotReplayError("no call of a module with parameters was seen")
        Traceback (most recent call last):
        lightning_recipe.trial.replay.CannotReplayError: no call of a module with parameters was seen

    """


class _Link(NamedTuple):
    """Stands in the arguments of a call for what an earlier call returned."""

    call: int
    path: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Replay:
    """Calls of one step, each on arguments from outside the network or on what an earlier one returned.

    Attributes:
        calls: By their position in the step, in order; what the last one returns is the prediction.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.record.probe import Probe
        >>> module = BoringModel()
        >>> probe = Probe.attach(module, "training_step")
        >>> _ = module.training_step(torch.ones(4, 32), 0)
        >>> step = probe.result()
        >>> outputs = Replay.of(step, step.net_calls[-1]).run(Trainer(barebones=True), module)
        >>> torch.equal(outputs[""], step.net_calls[-1].output)
        True

    """

    calls: dict[int, NetCall]

    @classmethod
    def of(cls, step: Step, call: NetCall) -> Replay:
        """What has to run to have the output of `call` again.

        Raises:
            CannotReplayError: If an argument of `call` was computed from an earlier call by code outside of modules, or
                the step has turned a switch for the call only.

        """
        waiting = [next(i for i, other in enumerate(step.net_calls) if other is call)]
        calls: dict[int, NetCall] = {}
        while waiting:
            i = waiting.pop()
            _refuse_switched(step.net_calls[i])
            calls[i] = _linked(step.net_calls[i], step.net_calls[:i])
            links: list[_Link] = []
            mapped((calls[i].args, calls[i].kwargs), _Link, links.append)
            waiting.extend({link.call for link in links} - calls.keys())
        return cls(dict(sorted(calls.items())))

    def first(self, examples: int, of: int) -> Replay:
        """The same on the first `examples` only, of every argument that has `of` in dimension 0."""

        def cut(tensor: Tensor) -> Tensor:
            few = first_of(tensor, examples, of)
            return tensor if few is tensor else few.clone()  # so that the rest can be freed

        return Replay({i: replace(call, **_mapped(call, Tensor, cut)) for i, call in self.calls.items()})

    def run(self, trainer: Trainer, pl_module: LightningModule, *, watch_parameters: bool = False) -> dict[str, Tensor]:
        """Run the calls.

        Args:
            trainer: Its precision plugin applies.
            pl_module: The module that the calls were seen in; afterwards it is as before.
            watch_parameters: Make sure that the forward writes to no parameter; for the first time.

        Returns:
            The tensors in what the last call returned, by path; ``""`` for a plain tensor. See ``outputs.returned``.

        Raises:
            CannotReplayError: If the forward raises, changes parameters, or its parameters are sharded.

        """
        if reason := obstacle(trainer):  # it might wait for the other processes for ever
            raise CannotReplayError(reason)
        modules = [call.module for call in self.calls.values()]
        with ExitStack() as stack:
            stack.enter_context(undisturbed(pl_module, *modules))
            if watch_parameters:
                stack.enter_context(_same_parameters(modules))
            stack.enter_context(trainer.precision_plugin.forward_context())
            outputs: dict[int, dict[str, Tensor]] = {}
            for i, call in self.calls.items():
                outputs[i] = _run(call, outputs)
        return outputs[max(outputs)]


@contextmanager
def undisturbed(pl_module: LightningModule, *others: nn.Module) -> Iterator[None]:
    """Everything in eval mode, without gradients or compilation; afterwards all of it is as before.

    Put back: modes, buffers, attributes (tensors among them up to `REMEMBERED` elements), random streams.
    ``self.log`` does nothing meanwhile.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> module = BoringModel()
        >>> with undisturbed(module):
        ...     module.training, torch.is_grad_enabled()
        (False, False)
        >>> module.training
        True

    """
    modules = list({id(m): m for root in (pl_module, *others) for m in root.modules()}.values())
    with isolated(), torch.no_grad(), eager(pl_module), put_back(*modules):
        for module in modules:
            module.training = False  # not eval(), which users override
        mute(pl_module)
        yield


@contextmanager
def put_back(*modules: nn.Module) -> Iterator[None]:
    """Afterwards modes, buffers and attributes of `modules` are as before; what is inside of them is not looked at.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with put_back(norm):
        ...     _ = norm(torch.ones(3, 2))
        >>> norm.num_batches_tracked.item()
        0

    """
    modes = [(module, module.training) for module in modules]
    attributes = [_remembered(module) for module in modules]
    values = {id(t): (t, cloned(t)) for module in modules for t in _state(module)}
    try:
        yield
    finally:
        for containers in attributes:
            for container, content in containers:
                _put_back(container, content)
        for module, mode in modes:
            if module.training != mode:
                module.training = mode
        with torch.no_grad():
            for tensor, before in values.values():
                if not torch.equal(tensor, before):
                    tensor.copy_(before)


def _remembered(module: nn.Module) -> list[tuple[Any, Any]]:
    """The containers of a module's attributes, its ``__dict__`` first, and their content."""
    own = module.__dict__
    containers = [own, *(value for value in own.values() if type(value) in {dict, OrderedDict, list, set})]
    return [(container, container.copy()) for container in containers]


def _put_back(container: Any, content: Any) -> None:
    if not (container or content):  # as most are: a module has a dozen dictionaries of hooks
        return
    same = container == content if isinstance(container, set) else _identities(container) == _identities(content)
    if not same:
        container.clear()
        (container.extend if isinstance(container, list) else container.update)(content)


def _identities(container: Any) -> list[Any]:
    if isinstance(container, dict):
        return [*container, *map(id, container.values())]
    return [*map(id, container)]


def _state(module: nn.Module) -> Iterator[Tensor]:
    """The tensors that a forward may write to: buffers, and plain attributes of moderate size."""
    for tensor in module.buffers(recurse=False):
        if tensor.layout is torch.strided:
            yield tensor
    for value in module.__dict__.values():
        small = isinstance(value, Tensor) and value.layout is torch.strided and value.numel() <= REMEMBERED
        if small and not isinstance(value, nn.Parameter):
            yield value


@contextmanager
def _same_parameters(modules: list[nn.Module]) -> Iterator[None]:
    parameters = {id(p): p for module in modules for p in module.parameters() if p.layout is torch.strided}
    if sum(p.numel() for p in parameters.values()) > WATCHED:
        parameters = {}
    before = [(p, p.detach().clone()) for p in parameters.values()]
    try:
        yield
    finally:
        changed = [(p, value) for p, value in before if not torch.equal(p, value)]
        for parameter, value in changed:
            parameter.data.copy_(value)
        if any(not value.isnan().any() for _, value in changed):
            msg = "its forward changes parameters, so that one more would change the training"
            raise CannotReplayError(msg)


def _mapped(call: NetCall, kinds: type | tuple[type, ...], function: Callable[[Any], Any]) -> dict[str, Any]:
    """The arguments of `call` with `function` applied to everything of some kinds."""
    arguments: dict[str, Any] = mapped({"args": call.args, "kwargs": call.kwargs}, kinds, function)
    return arguments


def _run(call: NetCall, outputs: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
    def resolve(link: _Link) -> Tensor:
        found = outputs[link.call][link.path]
        return found if found.ndim == len(link.shape) else found.reshape(-1, *link.shape[1:])

    def given(value: Any) -> Any:
        return cloned(resolve(value) if isinstance(value, _Link) else value)  # a forward may write to it

    def forward() -> dict[str, Tensor]:
        arguments = _mapped(call, (_Link, *COPIED), given)
        return returned(call.module(*arguments["args"], **arguments["kwargs"]))

    try:
        try:
            return forward()
        except RuntimeError as error:
            if "require grad" not in str(error):
                raise
        with _gradients(call.module):  # the network itself takes gradients, such as forces
            return {path: tensor.detach() for path, tensor in forward().items()}
    except Exception as error:
        msg = f"running {_name(call)} in eval mode raised {in_short(error)}"
        raise CannotReplayError(msg) from error


@contextmanager
def _gradients(module: nn.Module) -> Iterator[None]:
    """With gradients, of which none stays at a parameter."""
    before = [(parameter, parameter.grad) for parameter in module.parameters()]
    try:
        for parameter, _ in before:
            parameter.grad = None
        with torch.enable_grad():
            yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient


def _name(call: NetCall) -> str:
    return call.name or type(call.module).__name__


def _linked(call: NetCall, earlier: list[NetCall]) -> NetCall:
    """`call` with a link for each argument that an earlier call returned.

    Raises:
        CannotReplayError: If there is an argument that no earlier call returned.

    """
    outside = {id(tensor) for tensor in call.inputs.values()}
    linked: set[int] = set()

    def link(tensor: Tensor) -> Tensor | _Link:
        if id(tensor) in outside:
            return tensor
        linked.add(id(tensor))
        for i in reversed(range(len(earlier))):
            for path, output in tensors(earlier[i].output):
                if _same(output, tensor):
                    return _Link(i, path, tuple(tensor.shape))
        names = ", ".join(dict.fromkeys(map(_name, earlier)))
        msg = (
            f"the step calls {names}, then computes the input of {_name(call)} by code outside of modules, "
            "which can't be run again on its own"
        )
        raise CannotReplayError(msg)

    arguments = _mapped(call, Tensor, link)
    if not linked | outside >= {id(tensor) for _, tensor in tensors((call.args, call.kwargs))}:
        msg = f"what an earlier call returned enters {_name(call)} inside an object, where it can't be replaced"
        raise CannotReplayError(msg)
    return replace(call, **arguments, inputs={}, output=None)  # no more memory than is needed


def _refuse_switched(call: NetCall) -> None:
    now = switches(call.module)
    for name, value in call.switches.items():
        if now.get(name, value) != value:
            where = f"{call.name}.{name}" if call.name else name
            msg = f"the step sets {where} to {value!r} for its call only, without which other predictions come out"
            raise CannotReplayError(msg)


def _same(output: Tensor, argument: Tensor) -> bool:
    """Whether `argument` has the values of `output`, of which the probe may have kept the first examples only."""
    if output.dtype != argument.dtype or not output.ndim or not argument.ndim or not output.numel():
        return False
    if output.shape[1:] == argument.shape[1:]:
        return len(output) <= len(argument) and torch.equal(output, argument[: len(output)])
    return output.numel() == argument.numel() and torch.equal(output.flatten(), argument.flatten())
