"""Common mistakes: the step at which everything became NaN, and where it began."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lightning_recipe.callback import Check
from lightning_recipe.callbacks._arriving import Arriving
from lightning_recipe.callbacks._non_finite import TOO_LARGE, cause
from lightning_recipe.callbacks._non_finite_again import Traced, learned, not_finite, traced
from lightning_recipe.callbacks._recent import Recent
from lightning_recipe.finding import Section, Status, listed
from lightning_recipe.record.copies import snapshot
from lightning_recipe.record.step import Need
from lightning_recipe.record.tensors import tensors
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule

    from lightning_recipe.finding import Finding
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

KEPT = 2**25
"""Elements of the weights up to which a copy of them is kept, in the memory of the CPU: 128 MiB of float32."""
RECENT = 8
"""Batches at hand, at most: on the CPU those whose gradients one step adds up, and the one before; on an accelerator
the host knows of a step once it is done there, and is ahead by a step or two, of tiny networks by some."""
RECENT_BYTES = 2**27
"""Of an accelerator's memory that they may take together, 128 MiB: a batch of 200 photographs, 2 % of 8 GiB."""
GROWN = 2.0
"""Times the first loss, from which on the last one before shows that training diverged."""
IN_A_ROW = 10
"""Losses in a row that are not finite before they are told where weights stay finite: a GradScaler passes over some."""


class FirstNonFinite(Check):
    """Finds the step at which the loss or a weight became NaN or infinite, and the module and line in which it began.

    The loss of each step is looked at, and two weights: on the CPU at once, on CUDA once copies of them have come,
    which nobody waits for, on other accelerators now and then. Weights are kept at looks, while they are finite. When
    the loss or a weight is not, the batch is run again on a copy with the weights kept last: `failed`, with the first
    function whose output or gradient isn't finite while what goes in is, and its usual cause. If that stays finite, a
    function is named that comes next to where it is infinite, or the weights have diverged since if the last loss was
    twice the first; else, and where the batch is not at hand any more, the step alone. The batch is written to the
    run's folder.

    Args:
        keep_examples: Whether the batch may be written, as ``first_non_finite.safetensors``, or ``.npz`` where
            safetensors is not installed.
        strict: Stop the run when something failed.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "neural net training fails silently". PyTorch's
        documentation, "Autograd mechanics": gradients of non-differentiable functions.

    Legitimate:
        - Steps that a GradScaler, or the module itself, passes over: weights stay finite.
        - NaN in metrics, in masked targets, and in what reaches no weight; masks of -infinity.

    Cost:
        Reading the loss of each step, some 25 microseconds on the CPU, where little of it is in the processor's cache;
        sending them from an accelerator takes the host some 50, the device is not waited for. At each look a copy of
        the weights. Batches are kept alive, not copied: on the CPU those of a step, 7 at most, and the one before; on
        an accelerator the last 8, as far as they take 128 MiB of its memory together.

    Example:
        >>> FirstNonFinite(keep_examples=False).keep_examples
        False

    """

    section = Section.MISTAKES
    sentence = 12
    why = "one number that is not finite makes all weights NaN at the next step, and nothing is learnt any more"
    needs = Need(0)
    explains: ClassVar = dict.fromkeys(
        ("inputs", "operation", "gradient", "diverged", "origin_unknown", "weights"),
        (
            *("*/not_finite", "PredictionDynamicsLogger/*", "OverfitOneBatch/*", "ActivationMonitor/*"),
            *("UpdateRatioMonitor/*", "GradientFlowCheck/no_gradient", "InputIndependenceCheck/*", "LossClipCheck/*"),
            "FirstNonFinite/origin_unknown",  # on the other ranks, which get such gradients from the one that knows
        ),
    )

    def __init__(self, *, keep_examples: bool = True, strict: bool = False) -> None:
        super().__init__(strict=strict)
        self.keep_examples = keep_examples

    # -- at each step

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Keep the weights that training begins with."""
        self._begun = run.batches_begun
        self._began = self._begun.ready - 1
        self._weights: dict[str, Tensor] | None = None
        self._pending: list[Finding] = []
        self._odd: tuple[int, Any] | None = None  # the latest step whose loss was not finite, and its batch
        self._row, self._first, self._last = 0, math.nan, math.nan  # losses that were finite
        self._at_start = not_finite(run.module)  # some are filled by the first step
        learning = {name: p for name, p in learned(run.module).items() if p.is_floating_point()}
        self._on_cpu = all(p.device.type == "cpu" for p in learning.values())
        sound = [p for n, p in learning.items() if n not in self._at_start and not is_traceable_wrapper_subclass(p)]
        # one of the first, to which all gradients go back, and one of those that each step changes, unlike embeddings
        chosen = [*sound[:1], *[p for p in sound[1:] if p.ndim == 1][:1]]
        self._sentinels = [p.detach()[(0,) * p.ndim].reshape(1) for p in chosen]
        self._arriving: Arriving | None = None
        self._span = run.trainer.accumulate_grad_batches + 1  # batches back from which its gradients may be
        self._recent = Recent(min(RECENT, self._span)) if self._on_cpu else Recent(RECENT, RECENT_BYTES)
        self._keep(run.module)
        yield from ()

    def is_fine(self, loss: float | None, batch: Any) -> bool:
        """On the CPU: whether a loss is finite; it knows of weights that are not one step later. Else look at two."""
        if self._pending or not self._on_cpu:
            return False
        if loss is None:
            if not all(math.isfinite(sentinel.item()) for sentinel in self._sentinels):
                return False
        elif math.isfinite(loss):
            self._last = loss
        else:
            return False
        self._row = 0
        self._recent.add(self._begun.ready - 1, batch)
        return True

    def every_loss(self, run: Run, loss: Tensor | None, batch: Any) -> bool:
        """Look at what was not fine, or not known; whether it is time to tell."""
        if self._pending:  # several ranks wait with it for the next look
            return False
        step = self._begun.ready - 1
        if not self._on_cpu:
            return self._later(run, step, loss, batch)
        return self._judge(run, step, batch, loss_is_finite=loss is None or not loss.is_cpu)

    def _later(self, run: Run, step: int, loss: Tensor | None, batch: Any) -> bool:
        """Send what it is about on its way to the host, and look at what has come; if nothing comes, now and then."""
        self._recent.add(step, batch)
        first = self._sentinels[:1] if loss is None else [loss.detach().reshape(1)]
        numbers = [*first, *self._sentinels]
        if not numbers:
            return False
        self._arriving = self._arriving or Arriving(numbers)
        self._arriving.put(step, numbers, has_loss=loss is not None)
        number = step + 1 - self._began
        return self._look(run, wait=not self._arriving.comes and number & (number - 1) == 0)

    def _look(self, run: Run, *, wait: bool = True) -> bool:
        """Look at the numbers that have come from an accelerator."""
        for step, (value, *weights), has_loss in self._arriving.arrived(wait=wait) if self._arriving else ():
            fine = math.isfinite(value) or not has_loss
            if fine and all(map(math.isfinite, weights)):
                self._row, self._last = 0, value if has_loss else self._last
            elif self._judge(run, step, self._recent.of(step), loss_is_finite=fine):
                return True
        return False

    @property
    def _has_grown(self) -> bool:
        """Whether the loss was far above where it began; or nothing is known of it."""
        return not self._last < self._first + (GROWN - 1) * abs(self._first)

    def _judge(self, run: Run, step: int, batch: Any, *, loss_is_finite: bool) -> bool:
        """Whether weights, too, are not finite; if they are, somebody passes over such steps, or hasn't stepped yet."""
        if bad := self._bad(run):
            self._pending = [self._of_weights(run, step, batch, bad, loss_is_finite=loss_is_finite)]
            return True
        self._row += 1
        self._odd = step, snapshot(batch)
        if self._row == IN_A_ROW:
            said, fix = (
                f"the loss was NaN or infinite {IN_A_ROW} times in a row until step {step}, weights are finite",
                "",
            )
            trace, missing = self._run_again(run, batch, cleaned=False)
            self._write(run, batch)
            if trace is not None and trace.origin is not None:
                usual, fix = cause(trace.origin)
                missing = f"it begins with {trace.origin}: {usual}"
            fix = fix or "see which term of the loss it is; with 16-mixed precision such steps are passed over"
            self._pending = [self.warning(f"{said}; {missing}", code="loss_only", fix=fix, at=step)]
        return self._row == IN_A_ROW

    # -- at looks

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:  # noqa: ARG002
        """Tell what was found; keep the weights while they are finite."""
        if self.done:
            return
        if not self._pending and not self._on_cpu:
            self._look(run)
        self._first = self._last if math.isnan(self._first) else self._first
        if not self._pending and (bad := self._bad(run)):
            self._pending = [self._of_latest(run, bad)]
        found, self._pending = self._pending, []
        yield from found
        self.done = any(finding.status is Status.FAILED for finding in found)
        if self.done:
            self._let_go()
        elif not found:
            self._keep(run.module)

    def end(self, run: Run) -> Iterator[Finding]:
        """There is no silence."""
        if not self._on_cpu and not run.interrupted:
            self._look(run)
        if not self._pending and not run.interrupted and (bad := self._bad(run)):
            self._pending = [self._of_latest(run, bad)]
        yield from self._pending
        if not self._pending and not self.findings:
            yield self.passed(f"losses and weights stayed finite for {run.step} steps")
        self._let_go()

    def _let_go(self) -> None:
        self._weights = self._odd = self._arriving = None
        self._recent.clear()

    def _bad(self, run: Run) -> list[str]:
        return [name for name in not_finite(run.module) if name not in self._at_start]

    def _keep(self, module: LightningModule) -> None:
        state = {name: t for name, t in module.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
        floating = {name: t for name, t in state.items() if not is_lazy(t) and t.is_floating_point()}
        if sum(tensor.numel() for tensor in floating.values()) <= KEPT:
            self._weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in floating.items()}

    # -- where it began

    def _of_latest(self, run: Run, bad: list[str]) -> Finding:
        step = self._begun.ready - 1
        return self._of_weights(run, step, self._recent.of(step), bad)

    def _of_weights(self, run: Run, step: int, batch: Any, bad: list[str], *, loss_is_finite: bool = True) -> Finding:
        """Weights are not finite: by this step, or by one whose gradients were added up with its own."""
        if self._odd is not None and self._odd[0] >= step - run.trainer.accumulate_grad_batches:
            (step, batch), loss_is_finite = self._odd, False
        return self._traced(run, step, batch, bad, loss_is_finite=loss_is_finite)

    def _traced(self, run: Run, step: int, batch: Any, bad: list[str], *, loss_is_finite: bool) -> Finding:
        numbers: dict[str, Any] = {"at": step, "parameters": len(bad)}
        if self._at_start:
            said = _said(step, bad, loss_is_finite=loss_is_finite)
            return self.failed(
                f"{said}: before training began this was so in {listed(self._at_start)}",
                code="weights",
                subject=self._at_start[0],
                fix="see how it is initialised, or what was loaded",
                **numbers,
            )
        entered = [name for name, t in tensors(batch, "batch") if t.is_floating_point() and not t.isfinite().all()]
        trace, missing = self._run_again(run, batch, cleaned=bool(entered))
        first = None if trace is None else trace.origin
        by_itself = first is not None or (trace is not None and trace.about_to is not None)
        came_before = not loss_is_finite and first is not None and first.backward  # such a loss needs a step before it
        if not entered and (came_before or not by_itself):
            for before, earlier in self._recent.backwards():  # its gradients may have come to a few weights only
                may_be = step - self._span <= before < step
                found = self._run_again(run, earlier, cleaned=False)[0] if may_be else None
                if found is not None and found.origin is not None and found.origin.backward:
                    numbers["at"], step, batch, trace, loss_is_finite = before, before, earlier, found, True
                    break
        self._write(run, batch)
        said = _said(step, bad, loss_is_finite=loss_is_finite)
        if entered and (trace is None or trace.by_inputs):
            return self.failed(
                f"{said}: {listed(entered)} of the batch holds NaN or infinities",
                code="inputs",
                fix="leave such examples out, or fill in what is missing, before it is counted",
                **numbers,
            )
        if trace is None:
            return self.failed(
                f"{said}; where it began is not known: {missing}",
                code="origin_unknown",
                fix="Trainer(detect_anomaly=True) for a run that begins shortly before, from a checkpoint",
                **numbers,
            )
        origin, begins = trace.origin, "it begins with"
        if trace.about_to is not None:
            origin, given = trace.about_to
            begins = f"by the weights kept last {given}, and most likely it begins with"
        elif origin is None and not self._has_grown:
            return self.failed(
                f"{said}; where it began is not known: by the weights kept last the same batch has a loss of "
                f"{trace.loss:.4g} and finite gradients, and the losses before didn't grow",
                code="origin_unknown",
                fix="Trainer(detect_anomaly=True) for a run that begins shortly before, from a checkpoint",
                **numbers,
            )
        if origin is None or (usual := cause(origin))[0] == TOO_LARGE:
            of = f"a loss of {trace.loss:.4g}" if origin is None else f"the first overflow in {origin}"
            return self.failed(
                f"{said}: the weights have diverged; by those kept last the same batch has {of}",
                code="diverged",
                subject="" if origin is None else origin.module,
                fix="a lower learning rate, a warm-up, or Trainer(gradient_clip_val=1.0)",
                **numbers,
            )
        return self.failed(
            f"{said}: {begins} {origin}: {usual[0]}",
            code="gradient" if origin.backward else "operation",
            subject=origin.module,
            fix=usual[1],
            **numbers,
        )

    def _run_again(self, run: Run, batch: Any, *, cleaned: bool) -> tuple[Traced | None, str]:
        """What running the batch again shows, or why it can't be."""
        if batch is None:
            return None, "the batch is not at hand any more"
        if self._weights is None:
            return None, f"with more than {KEPT:,} weights none were kept"
        try:
            with rehearsal(run) as again:
                return traced(again, batch, self._weights, cleaned=cleaned), ""
        except CannotRehearseError as error:
            return None, str(error)

    def _write(self, run: Run, batch: Any) -> None:
        if self.keep_examples and batch is not None:
            self.store(run, "first_non_finite", dict(tensors(batch)))


def _said(step: int, bad: list[str], *, loss_is_finite: bool) -> str:
    what = "gradients are" if loss_is_finite else "the loss is"
    return f"{what} NaN or infinite at step {step}, and with it {len(bad)} parameters"
