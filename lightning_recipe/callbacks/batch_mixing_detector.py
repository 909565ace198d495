"""Recipe, section 2: "use backprop to chart dependencies"."""

from __future__ import annotations

import math
import time
import warnings
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch

from lightning_recipe.callback import Check
from lightning_recipe.callbacks import _edges as edges
from lightning_recipe.callbacks import _mixing_verdict as verdict
from lightning_recipe.dependencies.backprop import UndecidedError
from lightning_recipe.dependencies.examples import are_beside, batch_of
from lightning_recipe.dependencies.judgement import Clean, Mixing, examine
from lightning_recipe.dependencies.places import Placed, judge_places
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.figures.dependencies import dependency_matrix
from lightning_recipe.finding import Finding, Section, in_short
from lightning_recipe.record.step import NetCall
from lightning_recipe.record.tensors import tensors
from lightning_recipe.show import loggers
from lightning_recipe.trial.copies import copied
from lightning_recipe.trial.isolation import eager, isolated, memory_given_back, obstacle
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal
from lightning_recipe.trial.rng import untouched_generators

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning.pytorch import LightningModule

    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

    Look = Callable[..., Clean | Mixing]


class BatchMixingDetector(Check):
    """Judges whether an example's output depends on other examples of the batch, or on its place among them.

    The first training step is run again on a copy (weights as after that step; norm layers on running statistics,
    dropout off), and gradients are sent back from what the outermost modules put out for random halves of the
    examples. Any that arrives at the other half in the batch leaks: 2 * ceil(log2(B)) backward passes for all pairs of
    `B` examples. Tokens and categories are followed from their embeddings on, nodes by the vector ``batch`` of their
    graphs. A hit counts when changing some examples changes the outputs of others, in double precision, too. Then the
    examples are put into another order, which outputs must follow. If the step can't be run again, each call of a
    module in it is judged on its own.

    - a leak that depends on the order, as a view in place of a permutation has it; softmax over the batch, attention or
      recurrence along the batch where there is a sequence: `failed`, with the place in which it begins;
    - copies of one example have different outputs at more than half of the places, as when positions are added along
      the batch: `failed`;
    - all examples enter alike, as in a mean over dimension 0, rows are examples by appearance only, or nodes of one
      graph reach another: `warning`;
    - edges of a batch of graphs that all join nodes of the first ones, since the nodes before each graph were not added
      to them: `failed`, or `warning` where all graphs have as many nodes. The loss must be the same when edges come in
      another order, and another one when they join other nodes: a step may add the offset by itself;
    - an output that depends on no input at all, whatever the weights: `warning`;
    - rows that are nodes, points or time steps, attention between examples (may be meant), a batch of one, NaN:
      `skipped`.

    The batch is the dimension with the DataLoader's batch size, else the size that all tensors of the batch share.
    The mixing of BatchNorm is stated, not alarmed. Resumed runs are `skipped`.

    Args:
        max_examples: Rows and columns of the dependency matrix in TensorBoard, at most.
        max_seconds: A safety net, for which the answer is `skipped`: the number of passes is fixed. A single backward
            pass is never cut short, and a hit may take as long again to confirm and to locate.
        strict: Stop the run when something failed.

    Raises:
        ValueError: If there are fewer than 2 examples or no seconds.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "set the loss to be something trivial like the sum
        of all outputs of example i, run the backward pass all the way to the input, and ensure that you get a non-zero
        gradient only on the i-th input".

    Legitimate:
        - A mean or a norm over the batch that is meant is a `warning`, since all examples enter alike. BatchNorm is
          only stated. Layers named after statistics of the batch, mixing in training mode only, as in MixUp, and
          attention between examples are `skipped`.
        - Code of the step that pairs each example with another, at random or alike: negatives, MixUp, centring, two
          views, relations of each with each. Losses may compare examples as they like: only modules are looked at.
        - Halves and groups of the batch that are treated apart, a value such as a noise level that the step gives to
          each place, a hidden state that is kept for each place, noise.
        - Rows that are no examples, such as the nodes of one graph or the patches of one image: `skipped` or
          `warning`, by what can be told.
        - Edges of one graph that all examples share, and of graphs that the step moves or takes one by one.

        There is no threshold to tune: a dependence is there or not. If yours is meant, leave the check out.

    Cost:
        After the first step, ``2 * ceil(log2(B))`` backward passes of the step on a copy, for `B` examples, a handful
        of forward passes for places, three for edges that all lie in the first graphs, and no more than `max_seconds`;
        a hit may take as long again to confirm and to locate. Later steps are not looked at.

    Pictures:
        - `dependencies`: Which output depends on which input, a row for each of up to `max_examples` examples. Only
          the diagonal should have colour.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = BatchMixingDetector()
        >>> trainer = Trainer(callbacks=[check], barebones=True, max_steps=1)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> check.findings[0].status
        <Status.PASSED: 'passed'>

    """

    section = Section.SKELETON
    sentence = 12
    why = (
        "with a batch that leaks, the network learns from examples that it will not have when it is used; it trains "
        "regardless, only worse"
    )

    explains: ClassVar = {"edges_without_offset": ("Baselines/*", "OverfitOneBatch/cannot_tell_examples_apart")}

    def __init__(self, *, max_examples: int = 16, max_seconds: float = 40.0, strict: bool = False) -> None:
        super().__init__(strict=strict)
        if max_examples < 2 or max_seconds <= 0:  # noqa: PLR2004 - a pair
            msg = f"max_examples of 2 and max_seconds above 0 expected, got {max_examples} and {max_seconds}"
            raise ValueError(msg)
        self.max_examples = max_examples
        self.max_seconds = max_seconds

    def first_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Judge the step; if it can't be told what it does, each distinct call of the network in it."""
        if (sharded := obstacle(run.trainer)) is not None:
            yield self.skipped(sharded)
            return
        if (outcome := edges.without_offset(run, step)) is not None:
            yield self.found(outcome)
            return
        self._announce(run, step)
        deadline = time.monotonic() + self.max_seconds
        look = partial(examine, most=self.max_examples, deadline=deadline, grace=self.max_seconds)
        try:
            yield self._judge_step(run, step, look)
        except UndecidedError as reason:
            yield from self._judge_calls(run, step, look, str(reason))

    def _judge_step(self, run: Run, step: Step, look: Look) -> Finding:
        """Judge what modules put out from what the batch holds, whatever the step computes before and between."""
        with self._reasons(run), rehearsal(run) as again:
            call = NetCall("", again.module, (step.batch,), {}, dict(tensors(step.batch, "batch")))
            batch = batch_of(run, step.batch, call)
            if are_beside((tensor.shape for tensor in step.inputs.values()), batch.size):
                msg = "the step puts the examples beside each other, as the variables of one multivariate series"
                raise UndecidedError(msg)
            found = _even_in_place(partial(look, again.module, call, batch, again=again))
            if isinstance(found, Mixing):
                return self._leaks(run, found)
            if found.dead:  # as of a generator, which is given noise that the step draws
                msg = "what its modules put out does not depend on the batch"
                raise UndecidedError(msg)
            try:
                placed = judge_places(found.rerun, batch)
            except UndecidedError as reason:
                note = f"; places in the batch were not compared: {reason}"
                return self.found(verdict.clean(verdict.described(found), note))
        if isinstance(placed, Placed):
            return self.found(verdict.placed(placed), placed.event.name)
        return self.found(verdict.clean(verdict.described(found), place=placed))

    def _judge_calls(self, run: Run, step: Step, look: Look, reason: str) -> Iterator[Finding]:
        """Judge what can be told without the code of the step, which was not judged for `reason`."""
        calls = {(c.name, tuple(t.shape for _, t in tensors((c.args, c.kwargs)))): c for c in reversed(step.net_calls)}
        hits: list[Finding] = []
        clean: list[str] = []
        undecided = [] if calls else [reason]
        with isolated(), untouched_generators():  # of all calls together: to find them takes a twentieth of a second
            duplicate: LightningModule | None = None
            for call in reversed(calls.values()):
                name = call.name or type(run.module).__name__
                try:
                    with self._reasons(run):
                        duplicate = copied(run.module) if duplicate is None else duplicate
                        module = duplicate.get_submodule(call.name)
                        module = getattr(module, "_orig_mod", module)  # of a compiled one
                        with eager(module):
                            found = _even_in_place(partial(look, module, call, batch_of(run, step.batch, call)))
                    if isinstance(found, Mixing):
                        hits.append(self._leaks(run, found))
                    elif found.dead and len(calls) == 1:
                        hits.append(self.found(verdict.dead(name), name))
                    else:
                        clean.append(f"{name} ({verdict.described(found)})")
                except UndecidedError as error:
                    undecided.append(f"{name}: {error}")
        if clean and not hits:
            undecided.insert(0, f"the step itself: {reason}")
            hits = [self.found(verdict.clean(verdict.few(clean), f"; not judged: {verdict.few(undecided)}"))]
        yield from hits or [self.skipped(verdict.few(undecided))]

    @contextmanager
    def _reasons(self, run: Run) -> Iterator[None]:
        """Everything that can go wrong with a copy is a reason not to judge it."""
        on_gpu = run.module.device.type != "cpu"
        back = memory_given_back(run.module.device) if on_gpu else nullcontext()
        try:
            with back, torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except UndecidedError:
            raise
        except CannotRehearseError as error:
            raise UndecidedError(str(error)) from error
        except TimeoutError as error:
            msg = f"not decided within {self.max_seconds:g} s"
            raise UndecidedError(msg) from error
        except Exception as error:
            msg = f"a copy could not be run on its own: {in_short(error)}"
            raise UndecidedError(msg) from error

    def _announce(self, run: Run, step: Step) -> None:
        """Say what takes the time, if it will be more than a second."""
        passes = 2 * math.log2(max(2, step.batch_size or 0))
        if 3 * passes * step.seconds > 1:  # a backward pass takes about two forward ones
            self.tell(run, "BatchMixingDetector repeats the first step on a copy ...")

    def _leaks(self, run: Run, found: Mixing) -> Finding:
        adversaries = len(run.trainer.optimizers) > 1
        finding = self.found(verdict.leaks(found, adversaries=adversaries), found.event.name)
        self._draw_matrix(run, found)
        return finding

    def _draw_matrix(self, run: Run, found: Mixing) -> None:
        if loggers.is_written(run.trainer):
            title = f"{found.event.name}: {len(found.examples)} of {found.batch.size} examples"
            told = f"outputs depend on inputs of others, {found.strength:.2g}x as much as on their own"
            self.draw(run, "dependencies", pixels(dependency_matrix(found.matrix.numpy(), found.examples, title, told)))


def _even_in_place(look: Callable[[], Clean | Mixing]) -> Clean | Mixing:
    """Inputs need no gradient in the run, so that there networks may write over what is made of them."""
    try:
        return look()
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        return look()
