"""Whether the examples of a batch mix in one captured call of the network: where, how strongly, in what manner."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_recipe.dependencies.backprop import Dependencies, Part, UndecidedError, layouts
from lightning_recipe.dependencies.examples import Batch, why_no_rows, why_not_examples
from lightning_recipe.dependencies.operations import attention_over_batch, batch_norm_in_function, softmax_over_batch
from lightning_recipe.dependencies.rerun import Rerun, calm
from lightning_recipe.dependencies.traces import Event, first_mixed
from lightning_recipe.record.tensors import tensors
from lightning_recipe.trial.calming import use_running_statistics, without_dropout
from lightning_recipe.trial.shared_code import shares_code

if TYPE_CHECKING:
    from lightning_recipe.record.step import NetCall
    from lightning_recipe.trial.rehearsal import Rehearsal


@dataclass(frozen=True)
class Clean:
    """No examples mix.

    Attributes:
        batch: The rows.
        dims: The dimensions of the inputs taken as the batch.
        norms: BatchNorm layers, which ran on their running statistics.
        dead: Whether no input reaches the output, whatever the weights.
        left_out: Shapes of the inputs that have no rows of examples, and were not varied.
        rows_each: Rows for each example at most; whether those mix was not asked.
        outputs: The modules of a step whose outputs were judged, by name.
        rerun: The call, to be asked more.

    """

    batch: Batch
    dims: tuple[int, ...]
    norms: int
    dead: bool
    left_out: tuple[tuple[int, ...], ...]
    rows_each: int
    outputs: tuple[str, ...]
    rerun: Rerun


@dataclass(frozen=True)
class Mixing:
    """Examples mix.

    Attributes:
        batch: The rows.
        dims: The dimensions of the inputs taken as the batch.
        event: Where it begins.
        receivers: How many examples' inputs reach the outputs of others.
        matrix: Entry (i, j): how strongly output i depends on input j, shape (n, n), for `examples`.
        examples: Some examples, two that depend on each other among them.
        order_matters: Whether an example's place in the batch matters; None if that can't be told.
        softmax: Whether a softmax was taken over the batch.
        attention: Whether examples attend to each other, and whether at several positions apart.
        batch_norm: Whether the batch was normalised by a function, not by a layer.

    """

    batch: Batch
    dims: tuple[int, ...]
    event: Event
    receivers: int
    matrix: Tensor
    examples: list[int]
    order_matters: bool | None
    softmax: bool
    attention: tuple[bool, bool]
    batch_norm: bool

    @property
    def strength(self) -> float:
        """The strongest dependence on another example, as a multiple of the strongest on an example's own input."""
        own = self.matrix.diagonal().max().item()
        others = self.matrix.masked_fill(torch.eye(len(self.matrix), dtype=torch.bool), 0).max().item()
        return others / own if own else math.inf

    @property
    def density(self) -> float:
        """Share of the pairs of `examples` that depend on each other, 0 to 1."""
        n = len(self.matrix)
        return ((self.matrix > 0).sum().item() - (self.matrix.diagonal() > 0).sum().item()) / (n * n - n)


def examine(  # noqa: PLR0913 - two say how long it may take
    module: nn.Module,
    call: NetCall,
    batch: Batch,
    *,
    again: Rehearsal | None = None,
    most: int = 16,
    deadline: float = math.inf,
    grace: float = math.inf,
) -> Clean | Mixing:
    """Repeat a call on a copy of its module, or a step on a copy, and judge whether examples mix.

    Args:
        module: The copy, which this changes. Run it with the random state isolated.
        call: The call.
        batch: What is known of its rows.
        again: Runs the step, whose only argument is the batch.
        most: Rows and columns of the matrix.
        deadline: Value of ``time.monotonic()`` at which to give up; seconds.
        grace: Seconds to confirm and to locate what was found, from when it was found.

    Raises:
        TimeoutError: If the deadline has passed.
        UndecidedError: If it can't be told; says why.

    """
    if again is None and shares_code(module):
        msg = "it holds a function, such as a hook, that a copy would share with the original"
        raise UndecidedError(msg)
    norms = calm(module) if again is None else use_running_statistics(without_dropout(module))
    doubtful = _doubtful(call, batch)
    arguments = [t for _, t in tensors((call.args, call.kwargs))]
    variants = max((len(layouts(t.shape, batch.size, batch.owners)) for t in arguments), default=0)
    options = [(variant, frozenset[int]()) for variant in range(variants)] + ([(0, doubtful)] if doubtful else [])
    mixing: list[tuple[Rerun, Dependencies]] = []
    reasons: list[UndecidedError] = []
    for variant, shared in options:
        rerun = Rerun(module, call.name, call.args, call.kwargs, batch.size, variant, shared, again, batch.owners)
        try:
            chart, dead = _look(rerun, deadline)
        except UndecidedError as reason:
            reasons += [] if shared else [reason]
            continue
        if chart is None:
            leaves, outputs = rerun.run()
            each = max(len(rows.owner) for _, rows in leaves) // batch.size
            names = tuple(dict.fromkeys(path.rpartition(" [")[0] for path, _ in outputs)) if again else ()
            return Clean(batch, _dims(leaves), norms, dead, tuple(rerun.left_out), each, names, rerun)
        mixing.append((rerun, chart))
    if reasons or not mixing:
        raise reasons[0] if reasons else UndecidedError(why_no_rows(call.args, call.kwargs, batch.size))
    rerun, chart = mixing[-1 if doubtful else 0]
    if doubtful and rerun.shared != doubtful:
        msg = f"another dimension of an input has the size of the batch, {batch.size}; try another batch size"
        raise UndecidedError(msg)
    doubt = why_not_examples(module, call, batch, _dims(chart.inputs)) or _why_meant(rerun, call, batch, deadline)
    if doubt:
        raise UndecidedError(doubt)
    found = _describe(rerun, chart, batch, most, grace)
    if again is not None and (doubt := _why_meant_by_step(rerun, chart, found)):
        raise UndecidedError(doubt)
    return found


def _why_meant_by_step(rerun: Rerun, chart: Dependencies, found: Mixing) -> str:
    """Why a step may be right to mix examples where a network is not; empty if nothing speaks for it."""
    if found.event.in_step and not (found.order_matters or found.softmax):
        why = "random numbers are drawn" if found.order_matters is None else "all examples enter alike"
        return f"examples are mixed {found.event.where}, but {why}, which may be meant"
    leaves, outputs = rerun.run(seed=1)
    other = Dependencies([(dict(outputs)[chart.name], chart.outputs[0][1])], leaves, rerun.batch_size)
    other.deadline = chart.deadline
    if not torch.equal(other.matrix(found.examples) > 0, found.matrix > 0):
        return f"examples are mixed at random {found.event.where}, as MixUp does"
    return ""


def _partners_only(rerun: Rerun, chart: Dependencies) -> bool:
    """Whether each row takes at most one other example in, as negatives and pairs do: MixUp, roll, flip, sort."""
    ((_, rows),) = chart.outputs
    victim = int(chart.spread()[1].argmax())
    source = torch.arange(rerun.batch_size) == chart.source(victim)
    each = len(rows.owner) // rerun.batch_size
    return int((chart.reached(source) > 0)[~source].sum()) <= each


def _doubtful(call: NetCall, batch: Batch) -> frozenset[int]:
    """The ``id`` of arguments with several dimensions of the size of the batch that are not from the batch: masks."""
    return frozenset(
        id(t)
        for _, t in tensors((call.args, call.kwargs))
        if t.is_floating_point() and sum(size == batch.size for size in t.shape) > 1 and not batch.owns(t)
    )


def _look(rerun: Rerun, deadline: float) -> tuple[Dependencies | None, bool]:
    """The dependencies if anything mixes, and whether the output is dead.

    An output layer that starts at zero is not: where no gradient arrives, all weights of the copy are changed.

    Raises:
        UndecidedError: If the output depends on the inputs, but not by gradient.

    """
    chart, reaches = _mixing_chart(rerun, deadline)
    if reaches:
        return chart, False
    dead = _is_constant(rerun)
    with torch.no_grad():
        for parameter in rerun.module.parameters():
            if parameter.is_floating_point():
                parameter.add_(0.1 * torch.randn_like(parameter))
    chart, reaches = _mixing_chart(rerun, deadline)
    if reaches:
        return chart, False
    if not (dead and _is_constant(rerun)):
        msg = "no gradient flows from its output to its inputs"
        raise UndecidedError(msg)
    if rerun.left_out:
        msg = (
            f"its output depends on none of the inputs with a row for each of {rerun.batch_size} examples; "
            f"{rerun.left_out[0]} has none, as nodes and points have not"
        )
        raise UndecidedError(msg)
    return None, True


def _why_meant(rerun: Rerun, call: NetCall, batch: Batch, deadline: float) -> str:
    """Why the network may be right although examples mix; empty if nothing speaks for it."""
    if not batch.examples and (other := _clean_otherwise(rerun.module, call, batch.size, deadline)):
        return f"rows depend on each other along the dimension of {batch.size}, not along that of {other}: time first?"
    if _in_training_only(rerun, deadline):
        return "it mixes in training mode only, as a norm layer or MixUp does"
    return ""


def _dims(leaves: list[Part]) -> tuple[int, ...]:
    return tuple(sorted({rows.dim for _, rows in leaves}))


def _mixing_chart(rerun: Rerun, deadline: float) -> tuple[Dependencies | None, bool]:
    """The dependencies of an output that mixes, in whatever layout; and whether any input reaches any output.

    Raises:
        UndecidedError: If there are no rows of examples, or the only outputs that mix are relations between examples.

    """
    leaves, outputs = rerun.run()
    size = rerun.batch_size
    if not leaves:
        raise UndecidedError(why_no_rows(rerun.args, rerun.kwargs, size))
    parts = [(i, t, options) for i, (_, t) in enumerate(outputs) if (options := rerun.layouts(t.shape))]
    if not parts:
        shapes = ", ".join(dict.fromkeys(str(tuple(t.shape)) for _, t in outputs)) or "no numbers"
        msg = f"no output has rows for each of the {size} that enter, it returns {shapes}"
        raise UndecidedError(msg)
    likely = [(t, options[min(rerun.variant, len(options) - 1)]) for _, t, options in parts]
    own, leaks = Dependencies(likely, leaves, size, deadline=deadline).spread()
    if not leaks.any():
        return None, bool(own.any())
    reason = ""
    for i, tensor, options in parts:
        charts = [Dependencies([(tensor, r)], leaves, size, name=outputs[i][0], deadline=deadline) for r in options]
        if all(chart.spread()[1].any() for chart in charts):
            chart = charts[min(rerun.variant, len(charts) - 1)]
            if rerun.relates(i):
                reason = f"an output relates the {size} examples to each other, as similarities do"
            elif rerun.again is not None and _partners_only(rerun, chart):
                reason = "the step pairs each example with another, as negatives and MixUp do"
            else:
                return chart, True
    if reason:
        raise UndecidedError(reason)
    return None, True


def _is_constant(rerun: Rerun) -> bool:
    """Whether the output stays the same, to the bit, for other inputs."""
    with torch.no_grad():
        leaves, base = rerun.run()
        others = [leaf + torch.randn_like(leaf) for leaf, _ in leaves]
        runs = [rerun.run(others)[1]]
        if not rerun.owners:
            runs.append(rerun.run(order=torch.arange(rerun.batch_size).roll(1))[1])
    return all(torch.equal(a, b) for run in runs for (_, a), (_, b) in zip(base, run, strict=True))


def _in_training_only(rerun: Rerun, deadline: float) -> bool:
    """Whether nothing mixes in eval mode, where the output still depends on the inputs."""
    modes = [(module, module.training) for module in rerun.module.modules()]
    try:
        for module, _ in modes:
            if not isinstance(module, nn.RNNBase):  # cuDNN has no backward for them in eval mode
                module.training = False
        chart, reaches = _mixing_chart(rerun, deadline)
    except (UndecidedError, RuntimeError):
        return False
    else:
        return chart is None and reaches
    finally:
        for module, mode in modes:
            module.training = mode


def _clean_otherwise(module: nn.Module, call: NetCall, size: int, deadline: float) -> int:
    """Another size, along whose dimension nothing mixes; 0 if there is none."""
    for other in {s for _, t in tensors((call.args, call.kwargs)) for s in t.shape if s > 1} - {size}:
        try:
            chart, _ = _mixing_chart(Rerun(module, call.name, call.args, call.kwargs, other), deadline)
        except UndecidedError:
            continue
        if chart is None:
            return other
    return 0


def _describe(rerun: Rerun, chart: Dependencies, batch: Batch, most: int, grace: float) -> Mixing:
    """Everything about a chart that mixes, once changes of the inputs have confirmed it.

    Raises:
        UndecidedError: If they do not, or it takes too long.

    """
    chart.deadline = time.monotonic() + grace
    try:
        leaks = chart.spread()[1]
        victim = int(leaks.argmax())
        pair = (chart.source(victim), victim)
        rest = [i for i in range(batch.size) if i not in pair]
        examples = sorted([*pair, *rest[: most - 2]])
        matrix = chart.matrix(examples)
        outputs = [tensor for tensor, _ in chart.outputs]
        softmax, attention = softmax_over_batch(outputs, batch.size), attention_over_batch(outputs, batch.size)
        batch_norm = batch_norm_in_function(outputs, batch.size)
        rerun.be_precise()
        order_matters = rerun.order_matters()
        event = first_mixed(rerun, chart.inputs, deadline=chart.deadline)
    except TimeoutError as error:
        msg = f"gradients reach other examples, but {grace:g} s were too short to confirm it"
        raise UndecidedError(msg) from error
    if event is None:
        msg = "gradients reach other examples, yet changing those changes nothing: no more than rounding"
        raise UndecidedError(msg)
    receivers = int((leaks > 0).sum())
    return Mixing(
        batch, _dims(chart.inputs), event, receivers, matrix, examples, order_matters, softmax, attention, batch_norm
    )  # fmt: skip
