"""A step run again on a copy, as often as a check likes: from the same state, and in the same random streams.

For questions that one look can't answer: what the loss is if a module answers otherwise, if the batch is another one,
or if other random numbers are drawn. Only the step itself is run, on a trainer that writes and says nothing; weights
stay, since backward is held back and optimisers do nothing.
"""

from __future__ import annotations

import copy
import functools
import operator
import random
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_recipe.finding import in_short
from lightning_recipe.record.copies import cloned
from lightning_recipe.record.observers import Observers
from lightning_recipe.record.step import Need, Step
from lightning_recipe.record.tensors import COPIED, holds, mapped
from lightning_recipe.trial import stand_ins
from lightning_recipe.trial.calming import with_local_statistics
from lightning_recipe.trial.copies import copied_with, without_steps
from lightning_recipe.trial.inner_trainer import LEFT_OUT, adopt, inner_trainer, quiet
from lightning_recipe.trial.isolation import eager, isolated, memory_given_back, obstacle, untouched
from lightning_recipe.trial.replay import put_back
from lightning_recipe.trial.rng import held_by, named, restore, seed_torch, skip, state, untouched_generators
from lightning_recipe.trial.stand_ins import Heard, Logged

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch.optim import Optimizer

    from lightning_recipe.run import Run

NOTHING = Need(0)
APART = 1009
"""Numbers from where a generator of the user's goes on with one seed to where it does with the next."""
WEIGHTS = 2**24
"""Weights that are kept for what a step by hand does to them, at most: 64 MB."""
Answer = Tensor | Callable[[Any], Any]
"""What a module puts out instead: a tensor, or what is made of its own output."""


class CannotRehearseError(Exception):
    """The step can't be run again on a copy; the message says why.

    Example:
        >>> raise CannotRehearseError("the module can't be copied")
        Traceback (most recent call last):
        lightning_recipe.trial.rehearsal.CannotRehearseError: the module can't be copied

    """


class Rehearsal:
    """The copy; see :func:`rehearsal`.

    Attributes:
        module: The copy, in the mode that the module was in; a check may change it, see ``trial/calming.py``.
        optimizers: Copies that work on it.
        logged: What the latest step logged, in order.
        heard: What it was about to do to gradients, in order.
        losses: What it called backward on, in order.
        of: Which of these make its loss, of one that calls backward several times.
        index: The number that a batch is said to have in its epoch.
        puts_back: Whether weights that a step by hand changes are put back; not in a fit, of whose steps that is part.

    """

    def __init__(  # noqa: PLR0913 - those of one function below
        self,
        module: LightningModule,
        trainer: Trainer,
        optimizers: list[Optimizer],
        heard: list[Heard],
        generators: list[Any],
        *,
        several_loaders: bool = False,
    ) -> None:
        self.module = module
        self.optimizers, self.heard = optimizers, heard
        self.losses: list[Tensor] = []
        self.of: tuple[int, ...] = (0,)
        self.index = 0
        self.puts_back = True
        self._trainer, self._several_loaders = trainer, several_loaders
        self._generators = [(generator, state(generator)) for generator in (*generators, *held_by(module))]
        self.logged: list[Logged] = []
        self._climbs = False
        module.__dict__ |= {
            "log": functools.partial(stand_ins.log, self.logged),
            "log_dict": functools.partial(stand_ins.log_dict, self.logged),
        }

    def step(  # noqa: PLR0913 - what a step may be asked
        self,
        batch: Any,
        *,
        needs: Need = NOTHING,
        answers: Mapping[str, Answer] | None = None,
        method: str = "training_step",
        seed: int = 0,
        given: Callable[[Any], None] | None = None,
    ) -> Step:
        """Run the step. State that it changes, such as running statistics, is put back afterwards.

        Args:
            batch: As the step receives it; it is given a copy, which stays in the graph of what requires a gradient.
            needs: What is to be known, besides the loss.
            answers: By the names of modules, what they put out instead of what they compute, at each call.
            method: Such as ``"validation_step"``.
            seed: Of all random streams. The same seed draws the same numbers, another one others, from generators of
                the user's, too, which begin where they were.
            given: Is called with the copy of the batch that the step is about to be given.

        Returns:
            What was recorded, and the loss with its graph: what the step returned, or what backward was called on, see
            `of`; None if there is none.

        Raises:
            CannotRehearseError: If the step raises.

        """
        if holds(batch, Iterator):
            msg = "the batch holds an iterator, which one more step would use up"
            raise CannotRehearseError(msg)
        trained = [(parameter, parameter.requires_grad) for parameter in self.module.parameters()]
        try:
            return self._step(batch, needs, answers or {}, method, seed, given)
        except CannotRehearseError:
            if self._climbs or not self.losses:
                raise
        for parameter, before in trained:  # which it may have been about to put back
            parameter.requires_grad_(before)
        self._climbs = True  # it may have missed gradients
        try:
            return self._step(batch, needs, answers or {}, method, seed, given)
        except CannotRehearseError:
            self._climbs = False
            raise

    def _step(  # noqa: PLR0913, PLR0917 - those of `step`
        self,
        batch: Any,
        needs: Need,
        answers: Mapping[str, Answer],
        method: str,
        seed: int,
        given: Callable[[Any], None] | None,
    ) -> Step:
        module, observers = self.module, Observers(self.module, needs) if needs else None
        for kept in (self.logged, self.heard, self.losses):
            kept.clear()
        with ExitStack() as stack:
            stack.enter_context(_weights(module, put_back=self.puts_back))
            stack.enter_context(put_back(*module.modules()))
            _renew_buffers(module)
            stack.enter_context(self._trainer.precision_plugin.forward_context())
            stack.enter_context(eager(module))
            stack.enter_context(stand_ins.without_backward(module, self.losses, self.heard, climbs=self._climbs))
            for name, answer in answers.items():
                handle = module.get_submodule(name).register_forward_hook(_answering(answer))
                stack.callback(handle.remove)
            step = getattr(module, method)
            args = [
                mapped(batch, COPIED, _own),
                *[self.index] * is_param_in_hook_signature(step, "batch_idx", min_args=2),
            ]
            args += [0] * (method != "training_step" and self._several_loaders)  # the loader's index
            if observers is not None and Need.BATCH in needs:
                observers.follow(args[0])
            if observers is not None and Need.PARAMETERS in needs:
                observers.follow(dict(module.named_parameters()))
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - the stream that steps draw from
            seed_torch(seed)
            for generator, before in self._generators:
                restore(generator, before)
                skip(generator, APART * seed)
            if given is not None:
                given(args[0])
            try:
                with torch.set_grad_enabled(mode=True), observers or ExitStack():
                    output = step(*args)
            except Exception as error:
                msg = f"{method} raises when it is run again on a copy: {in_short(error)}"
                raise CannotRehearseError(msg) from error
        returned = output.get("loss") if isinstance(output, Mapping) else output
        if self.losses and not (module.automatic_optimization and isinstance(returned, Tensor)):
            returned = functools.reduce(operator.add, [self.losses[number] for number in self.of])
        seen = Step(batch)
        if observers is not None:
            seen = observers.conclude(batch, output, training=method == "training_step")
            observers.measure(seen)
        return replace(seen, loss=returned if isinstance(returned, Tensor) else None)

    @torch.no_grad()
    def move_weights(self, names: Container[str] | None = None) -> None:
        """Have the copy compute with other weights: what a step does then, too, is not for what was learnt so far.

        Args:
            names: Of those that are to be others; by default all.

        """
        for name, parameter in self.module.named_parameters():
            if parameter.is_floating_point() and (names is None or name in names):
                parameter.add_(torch.randn_like(parameter))


@contextmanager
def rehearsal(run: Run) -> Iterator[Rehearsal]:
    """Copy the module, and run its steps on the copy. The module, its trainer and random streams are as before.

    Raises:
        CannotRehearseError: If the module can't be copied or run alone.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> from lightning_recipe import Check, Section
        >>> class Zeros(Check):
        ...     section, why = Section.SKELETON, "an example"
        ...     def first_step(self, run, step):
        ...         with rehearsal(run) as again:
        ...             zeros = again.step(step.batch, answers={"layer": torch.zeros_like})
        ...         yield self.passed("the loss of zeros", loss=zeros.loss)
        >>> check = Zeros()
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     Trainer(barebones=True, max_steps=1, callbacks=[check]).fit(BoringModel())
        >>> check.findings[0].evidence
        {'loss': 1.0}

    """
    trainer, pl_module = run.trainer, run.module
    if reason := obstacle(trainer):
        raise CannotRehearseError(reason)
    with ExitStack() as stack:
        if trainer.strategy.root_device.type != "cpu":
            stack.enter_context(memory_given_back(trainer.strategy.root_device))
        generators = named()
        for guard in (isolated(), untouched_generators(generators), untouched(pl_module), quiet()):
            stack.enter_context(guard)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        configs = trainer.lr_scheduler_configs
        try:
            module, optimizers, schedulers = copied_with(pl_module, trainer.optimizers, [c.scheduler for c in configs])
        except Exception as error:
            msg = f"the module can't be copied: {in_short(error)}"
            raise CannotRehearseError(msg) from error
        without_steps(schedulers)
        inner = inner_trainer(trainer, folder)
        adopt(with_local_statistics(module), optimizers)
        heard: list[Heard] = []
        _takes_over(inner, trainer, module, optimizers, heard)
        inner.strategy.lr_scheduler_configs = [
            replace(config, scheduler=scheduler) for config, scheduler in zip(configs, schedulers, strict=True)
        ]
        try:
            several = len(trainer.num_val_batches) > 1
            yield Rehearsal(module, inner, optimizers, heard, generators, several_loaders=several)
        finally:
            _let_go(inner, module)


def _takes_over(
    inner: Trainer, outer: Trainer, module: LightningModule, optimizers: list[Optimizer], heard: list[Heard]
) -> None:
    """Have the inner trainer stand where the outer one does, as far as a step can see."""
    inner.strategy.connect(module)
    module.trainer = inner
    inner.datamodule = outer.datamodule  # type: ignore[attr-defined]
    inner.state.fn, inner.state.stage = outer.state.fn, outer.state.stage
    ours, theirs = inner.fit_loop, outer.fit_loop
    ours.epoch_progress = copy.deepcopy(theirs.epoch_progress)
    ours.max_batches, ours._combined_loader = theirs.max_batches, theirs._combined_loader  # noqa: SLF001
    ours.epoch_loop.batch_progress = copy.deepcopy(theirs.epoch_loop.batch_progress)
    ours.epoch_loop._batches_that_stepped = theirs.epoch_loop._batches_that_stepped  # noqa: SLF001
    for loop in ("automatic_optimization", "manual_optimization"):
        name = "optim_progress" if loop.startswith("auto") else "optim_step_progress"
        progress = copy.deepcopy(getattr(getattr(theirs.epoch_loop, loop), name))
        setattr(getattr(ours.epoch_loop, loop), name, progress)
    inner.strategy.optimizers = optimizers
    for wrapped_or_not in (inner.strategy._lightning_optimizers, optimizers):  # noqa: SLF001
        for i, optimizer in enumerate(wrapped_or_not):
            step, zero_grad = Heard("step", i), Heard("zero_grad", i)
            vars(optimizer).update(
                step=functools.partial(stand_ins.step, heard, step),
                zero_grad=functools.partial(stand_ins.zero_grad, heard, zero_grad),
            )


def _let_go(inner: Trainer, module: LightningModule) -> None:
    """Cut the cycles through the copy, so that it is freed at once: to look for cycles takes longer than most steps."""
    inner.datamodule = None  # type: ignore[attr-defined]
    inner.strategy._lightning_module = inner.strategy._model = None  # noqa: SLF001
    inner.strategy.optimizers, inner.strategy.lr_scheduler_configs = [], []
    inner.fit_loop._combined_loader = None  # noqa: SLF001 - the user's
    module._trainer = None  # noqa: SLF001
    for name in (*LEFT_OUT, "log", "log_dict"):
        module.__dict__.pop(name, None)


def _own(value: Any) -> Any:
    """A copy that a step may write to."""
    return value.clone() if isinstance(value, Tensor) and value.requires_grad else cloned(value)


@contextmanager
def _weights(module: LightningModule, *, put_back: bool) -> Iterator[None]:
    """Let a step by hand do to weights what it does, such as decay, and its graph stay one to go back through.

    Autograd knows of changes by a count of versions, and refuses to go back through what has changed.
    """
    weights = tuple(p for p in module.parameters() if p.layout is torch.strided and not is_lazy(p))
    if module.automatic_optimization or sum(p.numel() for p in weights) > WEIGHTS:
        yield
        return
    before = [p.detach().clone() for p in weights] if put_back else []
    with torch.autograd.grad_mode._unsafe_preserve_version_counter(weights):  # noqa: SLF001 - values are those, or near
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(weights, before, strict=put_back):
                    if not torch.equal(weight, value):
                        weight.copy_(value)


def _renew_buffers(module: LightningModule) -> None:
    """Have the step write to clones of the buffers, so that the graph of an earlier step stays intact."""
    clones: dict[int, Tensor] = {}
    for part in module.modules():
        for name, buffer in part._buffers.items():  # noqa: SLF001 - assignment would look at names and devices
            if buffer is not None:
                part._buffers[name] = clones.setdefault(id(buffer), buffer.clone())  # noqa: SLF001


def _answering(answer: Answer) -> Callable[..., Any]:
    return lambda _, __, output: answer if isinstance(answer, Tensor) else answer(output)
