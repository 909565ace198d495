"""Recipe, section 2: "overfit one batch"."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lightning_recipe.callback import Check
from lightning_recipe.callbacks._overfit_verdict import (
    HALF,
    Trial,
    has_many_targets,
    has_no_gradient,
    has_only_known_terms,
    is_constant,
    is_linear,
    is_noisy,
    knows_examples,
    symptoms,
    wrong_kind,
)
from lightning_recipe.figures import experiments
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.finding import Section, in_short
from lightning_recipe.record.structure import holds, leading_size
from lightning_recipe.run import Run
from lightning_recipe.show import loggers, terminal
from lightning_recipe.trial.copies import is_out_of_memory, memory_given_back, obstacle
from lightning_recipe.trial.first_examples import first_examples
from lightning_recipe.trial.short_fit import LONGER, Budget, peak_learning_rates, short_fit

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from matplotlib.figure import Figure

    from lightning_recipe.finding import Finding
    from lightning_recipe.losses.floor import Floor
    from lightning_recipe.trial.short_fit import Fit

ADAM = (3e-4, 1e-3)
"""Learning rates of the second arm. "Adam is safe ... with a learning rate of 3e-4" (the recipe, section 3)."""


class OverfitOneBatch(Check):
    """Judges whether the module can memorise a few examples, on a copy, before the first step of the run.

    A copy of the module is fitted on repeats of the first examples of the first batch, with the user's own optimiser
    and peak learning rate; dropout, weight decay and schedules are off. If that does not reach the lowest loss that
    the targets allow, Adam tries, with 3e-4 and then 1e-3. The run is bit-identical with and without.

    - reached by the user's optimiser: `passed`;
    - no parameter ever gets a gradient: `failed`; `warning` where the floor isn't known;
    - by Adam only: `failed`, an optimiser problem; `warning` where the user's optimiser was getting there, or warms
      up for long;
    - falling when the steps were over: `passed` if less than a quarter of the way was left. With less than half of it,
      the fit goes on for up to three times the steps, and passes if at its pace as many again would do. Else `warning`,
      with the rate, or `skipped` if it was the seconds that were over;
    - stuck: `failed`, with what is known about why; `warning` where there are several targets for each example,
      which not every good model can tell apart.

    The way from what knows the targets only (the best constant prediction) to the floor is what counts. `skipped` are
    resumed runs, sharded parameters, modules that can't be copied, several optimisers (adversarial training), steps
    that draw random numbers or have other terms in the loss, and do not get there: their floor isn't known.

    Args:
        max_examples: Examples of the first batch to memorise.
        max_steps: Steps for each optimiser and learning rate; up to three times as many for a fit that has half of the
            way behind it, and is still falling.
        max_seconds: Seconds for everything, half of them for the user's optimiser unless it goes on. One step always
            runs.
        tolerance: Share of the way that may be left, 0 to 1: 0.02 is a cross entropy of 0.05 over ten classes,
            or an R2 of 0.98.
        strict: Stop the run when it failed.

    Raises:
        ValueError: If a number is not positive, or `tolerance` not between 0 and 1.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "overfit a single batch of only a few examples
        (e.g. as little as two) ... verify that we can reach the lowest achievable loss".

    Legitimate:
        - A model that is small on purpose can't tell many examples apart. Ask for fewer:
          ``OverfitOneBatch(max_examples=2)``. A single linear layer is `skipped`.
        - A rate that is low on purpose, to fine-tune: give it longer, ``OverfitOneBatch(max_steps=3000)``.
        - Targets that contradict each other: equal inputs with different labels are accounted for, nearly equal ones
          are not. Allow for them with `tolerance`.

    Cost:
        At most `max_seconds`, once, before the first step; less as soon as the loss is there. A second copy of the
        module and of its optimiser's state is in memory for as long. The trial's steps are the module's own: a step
        that writes files writes them in the trial, too, and one that counts in a global variable, a class attribute or
        the data module counts the trial's steps. Leave the check out of such runs.

    Pictures:
        - `loss`: The loss over the steps on one batch, a curve for each optimiser that tried; the dashed line is the
          lowest possible loss, which a curve should reach.
        - `labels and predictions`: What the better optimiser made of each example: predictions and labels side by
          side, which should be the same.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = OverfitOneBatch(max_seconds=60)
        >>> trainer = Trainer(callbacks=[check], barebones=True, max_steps=1)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> check.findings[0].status
        <Status.PASSED: 'passed'>

    """

    section = Section.SKELETON
    sentence = 8
    why = (
        "a model that can't memorise a few examples won't learn from many: overfit a single batch, and verify that it "
        "reaches the lowest achievable loss"
    )

    def __init__(
        self,
        *,
        max_examples: int = 8,
        max_steps: int = 600,
        max_seconds: float = 8.0,
        tolerance: float = 0.02,
        strict: bool = False,
    ) -> None:
        super().__init__(strict=strict)
        if min(max_examples, max_steps, max_seconds) <= 0 or not 0 < tolerance < 1:
            msg = (
                f"positive max_examples, max_steps and max_seconds, and a tolerance between 0 and 1 expected, got "
                f"{max_examples}, {max_steps}, {max_seconds} and {tolerance}"
            )
            raise ValueError(msg)
        self.max_examples = max_examples
        self.max_steps = max_steps
        self.max_seconds = max_seconds
        self.tolerance = tolerance

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Try to memorise the first batch, and judge."""
        trainer, batch = run.trainer, run.batch
        if run.resumed:
            if not self.findings:
                at = f"the run resumes at step {trainer.global_step}"
                yield self.skipped(f"{at}; what it starts from has been trained")
            return
        if reason := obstacle(trainer) or _no_single_objective(trainer):
            yield self.skipped(reason)
            return
        if holds(batch, Iterator):
            yield self.skipped("the batch holds an iterator, which a trial would use up")
            return
        with memory_given_back(trainer.strategy.root_device):  # of the copy, to which a trial's steps refer
            yield from self._examine(run, trainer, run.module, batch)

    def _examine(self, run: Run, trainer: Trainer, pl_module: LightningModule, batch: Any) -> Iterator[Finding]:
        try:
            trial = self.attempt(trainer, pl_module, batch)
        except Exception as error:
            if is_out_of_memory(error):
                yield self.skipped("not enough memory for a second copy of the module and its optimiser's state")
            elif isinstance(error, RuntimeError | TypeError | AttributeError | ValueError | KeyError | IndexError):
                yield self.skipped(f"a copy of the module could not be trained: {in_short(error)}")
            else:
                raise
            return
        losses = trial.fits[0].losses
        if not losses or not math.isfinite(losses[0]):
            yield self.skipped(f"there is no loss to begin with: {losses[0]:g}" if losses else "no step was run")
            return
        yield self.judge(trial, pl_module)
        if loggers.is_written(trainer):
            for name, figure in pictures(trial).items():
                self.draw(run, name, pixels(figure))

    def attempt(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> Trial:
        """Fit by as many optimisers as are needed; on the whole batch if its first examples alone raise."""
        deadline = time.monotonic() + self.max_seconds
        few = first_examples(batch, self.max_examples)
        with terminal.progress(trainer, "OverfitOneBatch", LONGER * self.max_steps * (1 + len(ADAM))) as advance:

            def fit(examples: Any, trial: Trial, seconds: float, adam: float | None = None) -> Trial:
                budget = Budget(self.max_steps, seconds, max(seconds, deadline - time.monotonic()))
                asked = {"over": trial.is_over, "goes_on": trial.goes_on}
                done = short_fit(trainer, pl_module, examples, budget, adam=adam, advance=advance, **asked)
                trial.fits.append(done)
                return trial

            try:
                trial = fit(few, Trial(self.tolerance), self.max_seconds / 2)
            except Exception as error:
                if few is batch or is_out_of_memory(error):
                    raise
                few = batch  # the module's code relies on the size of its batches
                trial = fit(few, Trial(self.tolerance), self.max_seconds / 2)
            trial.examples = Run(trainer).examples_in(batch) if few is batch else leading_size(few)
            for number, lr in enumerate(ADAM):
                if trial.is_settled() or (trial.is_falling(trial.fits[0]) and time.monotonic() > deadline):
                    break
                fit(few, trial, max(0.0, deadline - time.monotonic()) / (len(ADAM) - number), lr)
        peaks = itertools.chain.from_iterable(peak_learning_rates(trainer))
        now = [float(group.get("lr") or 0) for optimizer in trainer.optimizers for group in optimizer.param_groups]
        trial.warms_up = any(lr < 0.5 * peak for lr, peak in zip(now, peaks, strict=True))
        return trial

    def judge(self, trial: Trial, pl_module: LightningModule) -> Finding:
        """The decision, see the class."""
        own, best = trial.fits[0], trial.fits[-1]
        floors = trial.floors(own.first)
        size = trial.examples or (own.first.batch_size if own.first is not None else None)
        on = _on(size)
        went = f"{on} the loss went {_path(own)} with {own.optimizer}"
        evidence = {"start": own.losses[0], "measured": own.losses[-1], "steps": len(own.losses)}
        evidence |= {"examples": size} if size else {}
        if len(floors) == 1:
            evidence |= {"floor": floors[0].value}
        kind = wrong_kind(trial)
        if trial.is_reached(own) and not kind:
            return self.passed(f"{went}: {_there(own, floors)}", **evidence)
        certain = self._certain(trial, pl_module, on, went, kind, evidence)
        if certain is not None:
            return certain
        if unknown := _unknown(trial):
            return self.skipped(f"{went}, {unknown}")
        evidence |= {"left": trial.distances(own)[-1]}
        if best is not own:
            evidence |= {"measured_with_adam": best.losses[-1], "steps_with_adam": len(best.losses)}
        nearest = min(trial.fits, key=lambda fit: trial.distances(fit)[-1])
        ahead = trial.is_nearly_there(nearest) and trial.distances(nearest)[-1] < HALF * trial.distances(own)[-1]
        if trial.is_reached(best) or ahead:
            return self._optimiser(trial, nearest, on, evidence)
        if is_linear(pl_module):
            trained = ", ".join(symptoms(own, pl_module))
            return self.skipped(f"{went}; training one layer at most need not be able to memorise them; {trained}")
        if not knows_examples(own) and not trial.is_falling(nearest):
            return self.skipped(
                f"{went}, and no further than {nearest.losses[-1]:.4g} with any optimiser; inputs can't be told by "
                "example, so that there may be equal ones with different targets"
            )
        if any(trial.is_falling(fit) for fit in trial.fits):
            return self._falling(trial, pl_module, on, evidence)
        others = " and ".join(f"to {fit.losses[-1]:.4g} with {fit.optimizer}" for fit in trial.fits[1:])
        verdict = self.warning if has_many_targets(own) else self.failed
        return verdict(
            f"{went}, {others}, where it is stuck; the lowest that is possible is {_floor(floors)}; "
            + ", ".join(symptoms(nearest, pl_module)),
            fix=_weights_fix(nearest)
            or "the model is too small, its inputs do not tell the examples apart, part of it gets no gradient, inputs "
            "or targets are far from a standard deviation of 1, or the loss does not compare what it should: look at "
            "the labels and predictions of OverfitOneBatch",
            **evidence,
        )

    def _certain(  # noqa: PLR0913, PLR0917 - what judge knows by then
        self, trial: Trial, pl_module: LightningModule, on: str, went: str, kind: str, evidence: dict[str, float]
    ) -> Finding | None:
        """Mistakes that no optimiser could make good."""
        own = trial.fits[0]
        floors = trial.floors(own.first)
        if floors and has_no_gradient(own):
            return self.failed(
                f"{on} no parameter gets any gradient while {_names(own)} is at {_values(own)}, above its floor of "
                f"{_floor(floors)}; the loss stays at {own.losses[-1]:.4g}",
                fix=_gradient_fix(pl_module),
                **evidence,
            )
        if not floors and has_no_gradient(own) and own.losses[-1] != 0:
            return self.warning(
                f"{went}: no parameter gets any gradient from it", fix=_gradient_fix(pl_module), **evidence
            )
        if kind:
            so = "which means nothing" if trial.is_reached(own) else f"and can't reach {_floor(floors)}"
            return self.failed(
                f"{went}, {so}: {kind}",
                fix=_kind_fix(kind),
                **evidence,
            )
        if floors and knows_examples(own) and all(map(is_constant, trial.fits)):
            return self.failed(
                f"{went}, and no optimiser can tell the examples apart: {', '.join(symptoms(own, pl_module))}",
                fix="look for inputs that are equal or overwritten, dead activations, and reductions over all inputs",
                **evidence,
            )
        return None

    def _falling(self, trial: Trial, pl_module: LightningModule, on: str, evidence: dict[str, float]) -> Finding:
        """No fit is there yet, and more steps may help."""
        own = trial.fits[0]
        fit = min(filter(trial.is_falling, trial.fits), key=lambda fit: trial.distances(fit)[-1])
        message = (
            f"{on} the loss went {_path(fit)} with {fit.optimizer}, and was still falling, by {_rate(fit):.3g} in 100 "
            f"steps, when the {'time was' if fit.out_of_time else 'steps were'} over; the lowest that is possible is "
            f"{_floor(trial.floors(own.first))}"
        )
        if trial.is_nearly_there(own):
            return self.passed(message, **evidence)
        if fit.out_of_time:  # a fact about the machine
            return self.skipped(f"{message}; more max_seconds will tell")
        return self.warning(
            f"{message}; {', '.join(symptoms(fit, pl_module))}",
            fix=_weights_fix(fit)
            or "give it more max_steps; if that does not help: scale inputs and targets to a standard "
            "deviation of 1, raise the learning rate, enlarge the model",
            **evidence,
        )

    def _optimiser(self, trial: Trial, best: Fit, on: str, evidence: dict[str, float]) -> Finding:
        """The model can memorise the batch with this loss: Adam has shown it."""
        own = trial.fits[0]
        left = trial.distances(own)
        reaches = "reaches the lowest possible loss" if trial.is_reached(best) else "nears the lowest possible loss"
        message = (
            f"{on} {best.optimizer} {reaches}, {_path(best)}, so the model can memorise them. "
            f"Your {own.optimizer} went {_path(own)}"
        )
        rate = f", still falling by {_rate(own):.3g} in 100 steps"
        if own.lr_overridden:
            return self.passed(f"{message}, with learning rates that the module's own code sets", **evidence)
        if trial.is_falling(own) and left[-1] < HALF * left[0]:
            return self.passed(message + rate, **evidence)
        if trial.is_falling(own):
            return self.warning(message + rate, fix="a larger learning rate, or Adam to begin with", **evidence)
        if fix := _weights_fix(own):
            pass
        elif left[-1] > 0.9 * left[0] and max(left) < 1.1 * left[0]:
            fix = "the loss hardly moves: raise the learning rate"
        else:
            fix = "the loss jumps or stalls: lower the learning rate; where you optimise by hand, call zero_grad()"
        verdict = self.warning if trial.warms_up else self.failed
        return verdict(message, fix=f"{fix}; Adam with 3e-4 is safe to begin with", **evidence)


def _no_single_objective(trainer: Trainer) -> str | None:
    """Why no loss of the run has to reach a floor, or None."""
    if len(trainer.optimizers) > 1:
        return f"losses of {len(trainer.optimizers)} optimisers may work against each other, and then reach no floor"
    if not trainer.optimizers or not any(group["params"] for group in trainer.optimizers[0].param_groups):
        return "there is no optimiser"
    if any(group.get("maximize") for group in trainer.optimizers[0].param_groups):
        return "the optimiser maximises"
    return None


def _there(own: Fit, floors: list[Floor]) -> str:
    if not floors:
        return "it reaches nearly nothing of what it was"
    if has_only_known_terms(own):
        return f"it reaches the lowest loss that is possible, {_floor(floors)}"
    # negative terms, or weights that are learnt
    return f"its {_names(own)} to {_values(own)}, where the lowest that is possible is {_floor(floors)}"


def _unknown(trial: Trial) -> str:
    """Why it is not known what the loss should have reached, or nothing."""
    own = trial.fits[0]
    floors = trial.floors(own.first)
    if not floors:
        if names := _names(own):
            return f"and the lowest value of {names} is not known{_why_not(own)}"
        return "and its lowest value is not known: it uses no loss of torch.nn.functional"
    if is_noisy(own):
        return (
            f"its {_names(own)} to {_values(own)} without reaching {_floor(floors)}; but two equal steps differ by "
            f"{own.noise:.2g}: the step draws random numbers or keeps a state, so that its lowest loss is not known"
        )
    if not has_only_known_terms(own):
        return f"its {_names(own)} to {_values(own)}; other terms in the loss may keep it above {_floor(floors)}"
    if any(map(trial.is_too_short, trial.fits)):
        return "and then the steps (max_steps) or the time (max_seconds) were over: too few steps to judge"
    return ""


def _why_not(own: Fit) -> str:
    """What hides the lowest value of a loss, if not the function itself."""
    calls = own.first.loss_calls if own.first is not None else []
    if any(call.target_from_net for call in calls):
        return ": the network computes its target"
    times = max((call.times for call in calls), default=1)
    return f": a step computes it {times} times" if times > 1 else ""


def _gradient_fix(pl_module: LightningModule) -> str:
    by_hand = "" if pl_module.automatic_optimization else ", or a zero_grad() between backward and step"
    return (
        "look for what comes between that loss and backward: clamp() of the loss (clip the gradients instead), "
        f"detach(), item(), no_grad(), parameters that are all frozen{by_hand}"
    )


def _weights_fix(fit: Fit) -> str:
    """What to do about weights that the optimiser does not change, or nothing."""
    if fit.left_out:
        return "hand the optimiser all parameters that should learn: those of this module, not of a copy"
    if not fit.weights_moved:
        return "the optimiser changes no weight: is its learning rate 0; where you optimise by hand, is step() called?"
    return ""


def _kind_fix(kind: str) -> str:
    if "broadcast" in kind:
        return "give predictions and targets the same shape"
    if "nll_loss" in kind:
        return "log_softmax after the last layer, or cross_entropy in the place of nll_loss, on the raw outputs"
    if "its targets do not" in kind:
        return "sigmoid in the place of softmax; or binary_cross_entropy_with_logits on the raw outputs"
    return "hand over the raw outputs of the last layer, without softmax or sigmoid"


def _on(size: int | None) -> str:
    return f"on {size} example{'s' * (size > 1)}" if size else "on one batch"


def _path(fit: Fit) -> str:
    return f"from {fit.losses[0]:.4g} to {fit.losses[-1]:.4g} in {len(fit.losses)} steps"


def _floor(floors: list[Floor]) -> str:
    reasons = " and ".join(dict.fromkeys(f.reason for f in floors if f.reason))
    return " and ".join(f"{round(f.value, 9):.4g}" for f in floors) + (f" ({reasons})" if reasons else "")


def _values(fit: Fit) -> str:
    return " and ".join(f"{value:.4g}" for value in list(fit.calls.values())[-1])


def _names(fit: Fit) -> str:
    return " and ".join(call.name for call in fit.last.loss_calls) if fit.last is not None else "loss"


def _rate(fit: Fit) -> float:
    """By how much the loss fell in 100 steps, on average over the last quarter of the fit."""
    quarter = max(1, len(fit.losses) // 4)
    return (fit.losses[-1 - quarter] - fit.losses[-1]) / quarter * 100 if len(fit.losses) > 1 else 0.0


def pictures(trial: Trial) -> dict[str, Figure]:
    """The loss curves with the floor, and labels beside predictions at the end of the fit that came nearest."""
    nearest = min(trial.fits, key=lambda fit: fit.losses[-1])
    floors = trial.floors(trial.fits[0].first)
    own, *others = trial.fits
    curves = {f"your {own.optimizer}": own.losses} | {fit.optimizer: fit.losses for fit in others}
    drawn = {"loss": experiments.loss_curves(curves, floors[0].value if len(floors) == 1 else None)}
    calls = nearest.last.loss_calls if nearest.last is not None else []
    if calls and floors:
        drawn["labels and predictions"] = experiments.labels_and_predictions(calls[0].name, calls[0].arguments)
    return drawn
