"""Recipe, section 2: "use backprop to chart dependencies", along time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_recipe.callback import Check
from lightning_recipe.callbacks._carried import carried as of_examples
from lightning_recipe.callbacks._causality_verdict import Sight, of_shift, of_sight, sight
from lightning_recipe.callbacks._known_ahead import known_ahead
from lightning_recipe.callbacks._lag_zero import lag_zero
from lightning_recipe.callbacks._looks_ahead import looks_ahead
from lightning_recipe.callbacks._next_step import Reading, presumed, readings
from lightning_recipe.callbacks._own_pixel import own_pixel
from lightning_recipe.callbacks._reads_on import reads_on
from lightning_recipe.callbacks._rows_ahead import rows_ahead
from lightning_recipe.callbacks._scaled_ahead import scaled_ahead
from lightning_recipe.callbacks._window import held_value
from lightning_recipe.dependencies.backprop import UndecidedError
from lightning_recipe.dependencies.over_time import first_changed
from lightning_recipe.dependencies.pixels import may_hold_images
from lightning_recipe.dependencies.sequences import Passage, may_hold_sequences
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.figures.dependencies import dependency_matrix
from lightning_recipe.finding import Section, in_short, listed
from lightning_recipe.record.step import Need
from lightning_recipe.show import loggers
from lightning_recipe.trial.calming import use_running_statistics, without_dropout, without_zeros
from lightning_recipe.trial.rehearsal import CannotRehearseError, Rehearsal, rehearsal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from lightning_recipe.dependencies.over_time import Chart
    from lightning_recipe.figures.picture import Picture
    from lightning_recipe.finding import Finding, Outcome
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

NO_SEQUENCES = "nothing in the batch has the shape of sequences"
SHOWN = 16
"""Rows and columns of the matrix that is drawn."""


class CausalityCheck(Check):
    """Judges whether a network that is to say what comes next has seen it.

    After the first training step, the step is run again on a copy, norm layers on running statistics and dropout off.
    Whether its task is to say what comes next is read from the gradient of the loss: where that falls towards the input
    of one step later, at every one of at least 32 outputs and for no other shift, in whatever way the loss is written.
    Gradients are then sent back from single positions to all others, another position from each sequence.

    - an output depends on the very input that it is to say, or on later ones, and changes with it: `failed`, with the
      module in which it begins (a mask that is missing or off by one, a bidirectional layer, padding on both sides, a
      norm layer whose statistics are those of all positions);
    - tokens of which each is to be said by the output at its own position, which sees it, by a network that sees
      nothing later: the target was not shifted: `failed`; of numbers `warning`, where both are cut from a series of the
      batch, or classes say in which interval they lie;
    - a pixel that is to be said by the output at its own place, which sees it, by a network that sees none after it, by
      rows or by columns: `failed`;
    - tokens that are to be said two steps ahead: `failed` where the batch's labels are one step ahead already, else
      `warning`; one step back: `warning`, of numbers where they are cut from a series that can be forecast;
    - a window that enters as a whole, whose last steps are to be forecast, the first of them by what has seen them:
      `failed`;
    - a feature that is the number to be said at its own step: `failed` beside features that are the number of steps
      before, where the network sees nothing later and the batch holds the targets by themselves; `warning` where two of
      these three hold; else `advice`, for it may be to be restored;
    - a window that ends with the value to forecast, or a feature of it that is computed of later values, or one of the
      steps to forecast that is computed of what is to be forecast: `warning`;
    - a column of a table that is a sum of targets of rows around its own, of its own or later ones, too, as they are
      stored in the order of time: `warning`;
    - a window that, together with the values to forecast, has mean 0 and standard deviation 1 in each example, or a
      lowest value of 0 and a highest of 1, and has not by itself: `warning`;
    - a recurrent state, of a layer of torch or by hand, that is carried from batch to batch where the batches are
      shuffled: `warning`;
    - all else is `skipped`: an input that is to be restored, targets that are no shifted input, sequences that enter
      in other ways than as tokens that are embedded, as one-hot vectors or as numbers.

    Args:
        causal: Outputs must depend on nothing that comes later, whatever the targets are.
        strict: Stop the run when something failed.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "If you're training an autoregressive model, [...] an
        autoregressive model at time t depends only on 1..t-1"; "takes the thing it's trying to predict as an input due
        to an off-by-one bug".

    Legitimate:
        - Masked tokens, taggers, autoencoders and denoisers: what the loss wants is not the input of one step later;
          those of images see what is after a pixel.
        - Colours of a pixel that are said one after the other.
        - A prefix that is seen as a whole: only outputs that the loss counts are asked.
        - Encoder and decoder: asked is what enters as the shifted target. Where the target itself enters as well,
          nothing is judged.
        - What is known from both sides, but for the target itself.
        - Values of other series that are known ahead; what a forecast is given of the steps before its own; a posterior
          that is drawn, as of a conditional VAE; losses on the end of a window that is restored as a whole.
        - Statistics of a window alone by which it and its target are scaled, before any layer with weights, also by a
          norm layer that comes first; BatchNorm, whose running statistics are those of the training set.

    Cost:
        After the first step one more step, at most five where something is kept for each example, and, for next-step
        tasks only, two to 16 backward passes. For images one more step with three backward passes or, of few images, up
        to 17, and two more steps where each pixel is said from those before.

    Pictures:
        - `dependencies over time`: Which output depends on which input, for up to 16 positions of a sequence around
          the one that saw most. Only the lower triangle should have colour.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = CausalityCheck()
        >>> trainer = Trainer(callbacks=[check], barebones=True, max_steps=1)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> check.findings[0].message
        'nothing in the batch has the shape of sequences'

    """

    section = Section.SKELETON
    sentence = 13
    why = "a network that has seen what it is to say needs to learn nothing, and can say nothing when it is used"
    needs = Need.INPUTS | Need.LOSSES

    def __init__(self, *, causal: bool = False, strict: bool = False) -> None:
        super().__init__(strict=strict)
        self.causal = causal

    def first_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Read the task from the loss, and chart what the outputs depend on."""
        if not may_hold_sequences(step.batch) and not may_hold_images(step.batch):
            yield self._of_rows(run, NO_SEQUENCES)
            return
        try:
            with rehearsal(run) as again:
                found, picture = self._examine(run, again, step)
        except (CannotRehearseError, UndecidedError) as reason:
            found, picture = [self.skipped(str(reason))], None
        except RuntimeError as error:
            found, picture = [self.skipped(f"a copy could not be run on its own: {in_short(error)}")], None
        yield from found
        if picture is not None:
            self.draw(run, "dependencies over time", pixels(picture))

    def _examine(self, run: Run, again: Rehearsal, step: Step) -> tuple[list[Finding], Picture | None]:
        """What is found, and a picture of it where pictures are written."""
        use_running_statistics(without_zeros(without_dropout(again.module)))
        if not may_hold_sequences(step.batch):
            told = own_pixel(again, step.batch)
            return [self.found(*told) if told else self.skipped(NO_SEQUENCES)], None

        def look(changed: Mapping[int, Tensor], seed: int = 0) -> Passage:
            passage = Passage()
            with passage.through(again.module, changed):
                passage.loss = again.step(step.batch, seed=seed).loss
            return passage

        passage = look({})
        resets = run.overrides("on_train_batch_start") or run.overrides("on_train_batch_end")
        names = (passage.carried or of_examples(again, step.batch)) if run.shuffled and not resets else []
        carried = [self._carried(names)] if names else []
        seen = self._seen(passage, step)
        ahead = [(reading, sees) for reading, sees in seen if reading.shift == 1]
        images = not seen and any(passed.value.ndim == 4 for passed in passage.passed)  # noqa: PLR2004
        if images and (told := own_pixel(again, step.batch)):
            finding = self.found(*told)
        elif not seen:
            finding = self._window(run, step)
        elif not ahead:
            finding = self.found(of_shift(*seen[-1], step.batch))
        elif not self.causal and any(reading.shift == 0 and sees.target for reading, sees in seen):
            finding = self.skipped("the targets enter the network, too, as in teacher forcing or an autoencoder")
        else:
            reading, sees = next(((reading, sees) for reading, sees in ahead if sees.target), ahead[0])
            chart, numbers = reading.chart(passage), (reading.entered, reading.passed)
            place = (sees.worst[0], sees.seen_at)
            begins = first_changed(look, passage, chart, numbers, place) if sees.target else None
            finding = self.found(
                of_sight(sees, begins, chart.shape[1], tokens=reading.tokens), begins.name if begins else ""
            )
            if finding.is_alarm and loggers.is_written(run.trainer):
                return [*carried, finding], drawn(chart, sees, finding.subject)
        if not finding.is_alarm and (told := given_away(look, passage, step)):
            finding = self.found(*told)
        return [*carried, finding], None

    def _of_rows(self, run: Run, otherwise: str) -> Finding:
        """Judge a table in the order of time, as it is stored; `skipped` if there is nothing to tell."""
        ahead = next(filter(None, map(rows_ahead, run.loaders)), None)
        if ahead is None:
            return self.skipped(otherwise)
        of = f"that of {ahead.steps} row{'s' * (ahead.steps > 1)} later" if ahead.steps else "that of its own row"
        return self.warning(
            f"column {ahead.column} of `{ahead.table}` is computed of the target `{ahead.target}`, {of} included, in "
            f"all {ahead.rows} rows: it is what is to be forecast",
            code="row_holds_target",
            subject=ahead.table,
            fix="compute it of rows before: shift(1) before rolling(), without center=True or shift(-1)",
            steps=ahead.steps,
            rows=ahead.rows,
        )

    def _carried(self, names: list[str]) -> Finding:
        return self.warning(
            f"{listed(names)} goes on from the state that other sequences left, for batches are shuffled (expected: "
            "zeros, or batches in order)",
            code="state_over_shuffled_batches",
            subject=names[0],
            fix="begin each batch without a state; or shuffle=False, and rows that go on where those before ended",
            modules=len(names),
        )

    def _window(self, run: Run, step: Step) -> Finding:
        """Judge a task that is not to say something at each position."""
        if held := held_value(step):
            return self.warning(
                f"{held.name} ends with the value to forecast, in all {held.examples} examples: {held.steps} of "
                f"{held.horizon} target steps are the last of its {held.length} (expected: 0)",
                code="window_holds_value",
                subject=held.name,
                fix="end the window one step before the first target",
                steps=held.steps,
            )
        if ahead := looks_ahead(step):
            return self.warning(
                f"feature {ahead.feature} of {ahead.name} is computed of feature {ahead.of} up to {ahead.steps} steps "
                f"later, in all {ahead.examples} examples: at its end that is what is to be forecast",
                code="window_holds_value",
                subject=ahead.name,
                fix='compute it of values before its time: without center=True, mode="same", np.gradient or shift(-1)',
                steps=ahead.steps,
            )
        if known := known_ahead(step):
            of = f"up to {known.steps} step{'s' * (known.steps > 1)} later" if known.steps else "at its own step"
            return self.warning(
                f"feature {known.feature} of {known.name} is computed of the value to forecast {of}, in all "
                f"{known.examples} examples: when a forecast is made, nobody knows that",
                code="window_holds_value",
                subject=known.name,
                fix="compute it of values before the forecast, as of the day on which it is made",
                steps=known.steps,
                examples=known.examples,
            )
        if scaled := scaled_ahead(step):
            return self.warning(
                f"{scaled.name} and the values to forecast have {scaled.how} together, in all {scaled.examples} "
                "examples, and the window alone has not: what is to come was used to scale it, and can be told from it",
                code="window_scaled_ahead",
                subject=scaled.name,
                fix="scale both by the mean and standard deviation of the window alone, or of the data of training",
                alone=scaled.alone,
                examples=scaled.examples,
            )
        return self._of_rows(run, "the targets are not what entered the network, some steps later")

    def _seen(self, passage: Passage, step: Step) -> list[tuple[Reading, Sight]]:
        """The outputs for which the loss wants what entered, and what they depend on."""
        found = readings(passage)
        if self.causal and not any(reading.shift == 1 for reading in found):
            found += presumed(passage, step.batch_size)
        seen = []
        for reading in {(r.entered, r.into, r.shift): r for r in found}.values():
            chart, places = reading.chart(passage), reading.places.nonzero().tolist()
            if chart.keeps_apart(*places[len(places) // 2]):
                sees = sight(*chart.rows(reading.places), reading.shift, any_later=self.causal)
                seen += [(reading, sees)] * (sees.blind < sees.outputs)
        return seen


def given_away(look: Callable[..., Passage], passage: Passage, step: Step) -> tuple[Outcome, str] | None:
    """What entered in another way though it is to be said; None, too, where more looks can't tell."""
    try:
        return reads_on(look, passage, step) or lag_zero(look, passage, step)
    except (CannotRehearseError, UndecidedError, RuntimeError):
        return None


def drawn(chart: Chart, sees: Sight, begins: str) -> Picture:
    """Up to `SHOWN` positions, in a row, with the output in the middle that depends on what is later most."""
    sequence, position = sees.worst
    first = max(0, min(position - SHOWN // 2, chart.shape[1] - SHOWN))
    positions = range(first, min(chart.shape[1], first + SHOWN))
    title = f"{begins}: positions of one sequence"
    told = f"outputs depend on later inputs, {sees.strength:.2g}x as much as on those before"
    return dependency_matrix(chart.matrix(sequence, positions).numpy(), positions, title, told, over_time=True)
