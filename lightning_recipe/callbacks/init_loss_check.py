"""Recipe, section 2: "verify loss @ init" and "init well"."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_recipe.callback import Check
from lightning_recipe.callbacks._counted_only import counted_only
from lightning_recipe.callbacks._divided_again import divided_again
from lightning_recipe.callbacks._init_loss_by_hand import ask, decided, outcome
from lightning_recipe.callbacks._init_loss_diagnosis import (
    bias_fix,
    calmer,
    carriers,
    judge,
    on_purpose,
    once_more,
    output_layer,
    scale_fix,
    too_high,
    untrained,
)
from lightning_recipe.finding import Outcome, Section, Status
from lightning_recipe.losses.references import FAR, NotComparableError, References, offset, references
from lightning_recipe.losses.table import TABLE, Family
from lightning_recipe.record.step import Need
from lightning_recipe.trial.answers import Answers
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule
    from torch import nn

    from lightning_recipe.finding import Finding
    from lightning_recipe.record.step import LossCall, Step
    from lightning_recipe.run import Run

FINITE_FIX = "find where it arises with Trainer(detect_anomaly=True); check the data for NaN first"
MIN_TARGETS = 8  # fewer numbers do not tell their scale: their mean square may be near 0 by chance


class InitLossCheck(Check):
    """Judges the loss of the very first training step, before any update, for each loss function in it.

    The step itself is observed. For each call of a loss function of ``torch.nn.functional``, direct or through
    ``nn.*Loss``, the loss is compared with the same function on an uninformed guess (equal logits, zero output) and on
    the best constant prediction for the batch's targets (log prior, mean, median, ...).

    A loss written by hand is asked: the step is run again on a copy, in which the last layers with parameters answer
    with next to nothing, which is the uninformed guess, and with one row for all examples, fitted in 60 steps, which is
    a constant prediction. The same ratios hold, `failed` too, for losses that answers of ours can't bring below 0. Of
    others (likelihoods of densities) only a start that lies `fail_ratio` times ``1 + |guess|`` above the guess is told,
    as a `warning`. That a loss starts too low is never said, since a better constant might be found.

    Let `n` be the number of targets. A batch is a sample, so bands widen as it shrinks: a mean of `n` values of unit
    variance has a standard error of ``1 / sqrt(n)``, and four of them are allowed for; the best constant is fitted to
    the batch, and a bias suggested by few targets is not trusted.

    - not finite: `failed`;
    - more than ``warn_ratio * (1 + 4 / sqrt(n))`` times the guess: `advice` up to 5 times, then `warning`; with
      `fail_ratio`, and an output layer that can be named (not logits scaled on purpose, as in ArcFace): `failed`;
      `advice` where that is frozen, and below `fail_ratio` where targets are smaller than numbers that layers give;
    - nearer to the guess than to the best constant, where a constant bias alone would remove more than
      ``bias_share + 3 / n`` of the guess: `advice`, with that bias, since it costs the first steps only; `warning`
      where the mean of numbers lies more than 10 of their standard deviations from 0, which training can't make up for;
    - a mean over the examples that the step divides by their number again: `warning`, `advice` with Adam;
    - below ``1 - 16 / n``, and half, of the best constant, although the output layer's weights lie within the bounds
      of torch's default initialisation, so that it can't have been pretrained: `warning`. Chance correlates by about
      ``1 / n``, squared. Regression is judged at a hundredth only: skip connections know much already.

    Resumed runs are `skipped`, as are losses of ``torch.nn.functional`` against targets that the network itself
    computed, regression on fewer than 8 numbers, and losses by hand of steps that can't be run again on a copy.

    Args:
        warn_ratio: Times the uninformed guess. 2 is what an output layer gives whose outputs are as large as
            standardised targets, or logits with a standard deviation of 2 over ten classes; the healthy programs
            measured so far, with default initialisations of torch, start at 0.9 to 1.4.
        fail_ratio: Times the uninformed guess; an order of magnitude.
        bias_share: Share of the initial loss, 0 to 1. One positive in ten, unbiased, has 0.53; a mean one standard
            deviation from zero 0.5. Dense targets (pixels, tokens, several columns) need a quarter more, up to two
            thirds: there a network finds its bias within a few steps.
        strict: Stop the run when something failed.

    Raises:
        ValueError: If a ratio is not above 1 or a share not between 0 and 1.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "verify that your loss starts at the correct loss
        value ... -log(1/n_classes) on a softmax at initialization"; "if you are regressing some values that have a
        mean of 50 then initialize the final bias to 50".

    Legitimate:
        - Logits that are cosines times a scale, as in ArcFace, CosFace and ProxyNCA: the loss starts high. So it does
          with much dropout, which is left out before a loss is called too high.
        - Logits scaled on purpose in another way, as by a temperature. Allow for it with
          ``InitLossCheck(warn_ratio=4)``. Where no single layer makes the logits, the verdict is `warning` at most.
        - A bias left at zero deliberately, because rare classes will be sampled or weighted otherwise later on: ask for
          more before you are told, ``InitLossCheck(bias_share=0.9)``.
        - A head that knows without training, such as one set from class prototypes or text embeddings, or a connection
          that carries the answer past the network: then a low loss is no leak. A frozen output layer is `advice`.

    Cost:
        The first step is observed while it runs; only where the loss lies in compiled code, or where a start is too
        high, is a copy run once more. What remains is the loss of a constant prediction on the same targets, once. For
        a loss by hand, some 80 steps on a copy in which only what follows the last layers is computed: 0.1 to 0.5 s for
        a small network. Later steps are not looked at.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = InitLossCheck()
        >>> trainer = Trainer(callbacks=[check], barebones=True, max_steps=1)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> round(check.findings[0].evidence["know_nothing"], 4)  # ln 10
        2.3026

    """

    section = Section.SKELETON
    sentence = 4
    why = (
        "a loss that does not start where it should means that the output layer, the scale of the data, or the loss "
        "itself is wrong; and the first steps are spent on learning a constant"
    )
    needs = Need.INPUTS | Need.LOSSES | Need.WIRING

    def __init__(
        self,
        *,
        warn_ratio: float = 2.0,
        fail_ratio: float = 10.0,
        bias_share: float = 0.45,
        strict: bool = False,
    ) -> None:
        super().__init__(strict=strict)
        if not 1 < warn_ratio <= fail_ratio:
            msg = f"1 < warn_ratio <= fail_ratio expected, got {warn_ratio} and {fail_ratio}"
            raise ValueError(msg)
        if not 0 < bias_share < 1:
            msg = f"bias_share must lie between 0 and 1, got {bias_share}"
            raise ValueError(msg)
        self.warn_ratio, self.fail_ratio, self.bias_share = warn_ratio, fail_ratio, bias_share

    def first_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Judge each loss of the step."""
        if step.loss is None:
            yield self.skipped("training_step returned no loss and called backward on none")
        elif step.loss_calls:
            found = [self._judge(call, step, run.module) for call in step.loss_calls]
            if any(finding.is_alarm for finding in found):
                found = [self._judge(call, step, run.module) for call in counted_only(run, step)]
            high = [finding.code.endswith("/too_high") for finding in found]
            cosines, share = once_more(run, step) if any(high) else (False, 1.0)
            for finding, is_high in zip(found, high, strict=True):
                yield self._on_purpose(finding, share, cosines=cosines) if is_high else finding
            if outcome := divided_again(step, run.trainer.optimizers):
                yield self.found(outcome)
        elif not step.loss.isfinite().all():
            loss = float(step.loss.mean())
            message = f"the first loss is {loss}; {carriers(step, {})}"
            yield self.failed(message, code="not_finite", fix=FINITE_FIX, measured=loss)
        else:
            yield self._ask(run, step)

    def _ask(self, run: Run, step: Step) -> Finding:
        """Judge a loss that no function of torch.nn.functional computes: by what it is for answers of ours."""
        measured = float(step.loss.mean()) if step.loss is not None else math.nan
        ratios = {"warn_ratio": self.warn_ratio, "fail_ratio": self.fail_ratio, "bias_share": self.bias_share}
        try:
            with rehearsal(run) as again:
                answers = Answers(again, step.batch)
                asked = ask(answers, measured, step.batch_size or 1, **ratios)
                if "too high" in decided(asked, **ratios):  # much dropout makes large what the layers have small
                    asked = asked._replace(own=min(asked.own, measured * calmer(again, step.batch)))
        except CannotRehearseError as reason:
            inside = f" (or inside {step.compiled[0]}, which is compiled)" if step.compiled else ""
            return self.skipped(
                f"the loss, {measured:.4g}, is computed by hand{inside}, and what it should start at can't be asked: "
                f"{reason}",
                code="cannot_ask",
                measured=measured,
            )
        return self.found(outcome(asked, answers, **ratios))

    def _judge(self, call: LossCall, step: Step, pl_module: LightningModule) -> Finding:
        name = f"{call.name} ({call.where})"
        subject = f"{call.name} {call.where}"
        measured = float(call.value.double().mean())
        if not math.isfinite(measured):
            message = f"{name} starts at {measured}; {carriers(step, call.arguments)}"
            return self.failed(message, code="not_finite", subject=subject, fix=FINITE_FIX, measured=measured)
        if call.target_from_net:
            message = f"{name}: its target is computed by the network, so no constant is a reference"
            return self.skipped(message, subject=subject, measured=measured)
        try:
            found = references(call, step.batch_size)
        except NotComparableError as reason:
            return self.skipped(f"{name}: {reason}", subject=subject, measured=measured)
        numbers = call.arguments["input"].numel()
        certain = TABLE[call.name].is_certain
        if not certain and numbers < MIN_TARGETS:
            message = f"{name}: {numbers} targets do not tell their scale; {MIN_TARGETS} are needed"
            return self.skipped(message, subject=subject, **found.evidence)
        decision = judge(found, certain=certain, warn_ratio=self.warn_ratio, bias_share=self.bias_share)
        first = f", the first of {call.times}," if call.times > 1 else ""
        context = f"{name}{first} starts at {found.measured:.4g}"
        layer = output_layer(pl_module, found.constant.numel(), call, step)
        match decision:
            case "no scale":
                return self.skipped(
                    f"{name}: with these targets zeros already have the lowest loss, as where a residual is compared "
                    "with 0: there is no scale",
                    subject=subject,
                    **found.evidence,
                )
            case "too high":
                guess = "a uniform guess" if found.classes else "an output of zero"
                message = f"{context}, {found.ratio:.3g}x the {found.know_nothing:.4g} of {guess}"
                status, fix = too_high(call, found, layer, self.fail_ratio), scale_fix(call, step, layer)
                return self.found(Outcome(status, "too_high", message, fix, found.evidence), subject)
            case "too low":
                return self._too_low(context, call, step, found, layer)
            case "needs bias":
                far = offset(call, found)
                verdict, cost = self.advice, "the first steps go into learning a constant"
                if far >= FAR:
                    verdict = self.warning
                    cost = f"the targets lie {far:.3g} standard deviations from it, too far for training to make up for"
                return verdict(
                    f"{context}, but the best constant prediction reaches {found.best_constant:.4g}: {cost}",
                    code="output_bias",
                    subject=subject,
                    fix=bias_fix(call, found, layer),
                    **found.evidence,
                )
        return self.passed(
            f"{context}; a guess without knowledge gives {found.know_nothing:.4g}, the best constant "
            f"{found.best_constant:.4g} ({found.examples} targets)",
            subject=subject,
            **found.evidence,
        )

    def _on_purpose(self, high: Finding, share: float, *, cosines: bool) -> Finding:
        purpose = on_purpose(high.evidence, share, self.warn_ratio, cosines=cosines)
        passed = Outcome(Status.PASSED, "", f"{high.message}; {purpose}", evidence=high.evidence)
        return self.found(passed, high.subject) if purpose else high

    def _too_low(
        self, context: str, call: LossCall, step: Step, found: References, layer: tuple[str, nn.Module] | None
    ) -> Finding:
        subject = f"{call.name} {call.where}"
        below = f"{context}, below the {found.best_constant:.4g} that any constant prediction can reach"
        if layer is None or not untrained(layer[1]):
            known = "the network has been trained before, or is not initialised by torch's default"
            return self.passed(f"{below}: {known}", subject=subject, **found.evidence)
        if TABLE[call.name].answers is Family.NUMBERS:
            carried = (
                "a connection past the network carries numbers close to the target, as where it corrects a forecast"
            )
            return self.passed(f"{below}: {carried}", subject=subject, **found.evidence)
        return self.warning(
            f"{below}, before a single update and though the output layer {layer[0]} is untrained",
            code="too_low",
            subject=subject,
            fix="the target leaks into the input, unless a connection past the network carries it: look among "
            + (", ".join(step.inputs) or "the tensors that enter the network"),
            **found.evidence,
        )
