"""Recipe, section 2: "fix random seed"."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from lightning_recipe.callback import Check
from lightning_recipe.callbacks._repeated import repeated
from lightning_recipe.callbacks._rewound import Rewound, period, shuffled
from lightning_recipe.callbacks._seeds import apart, is_seeded, seeds_all_alike, streams, tells_workers_apart
from lightning_recipe.callbacks._unseeded import kept_without_seed, made_by_chance, unseeded
from lightning_recipe.finding import Section
from lightning_recipe.record.step import Need
from lightning_recipe.trial.rehearsal import CannotRehearseError
from lightning_recipe.trial.reread import CannotRereadError, drawn_from

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.callbacks._repeated import Repeated
    from lightning_recipe.finding import Finding
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run


class SeedCheck(Check):
    """Judges whether the run would be the same again.

    `warning` if

    - the training step itself sets the seed, so that it draws the same numbers each time;
    - each epoch begins where the one before it began in the random streams, as where validation sets the seed;
    - examples, read again with all random streams in the same state, differ, and no longer once generators without a
      seed are given one; `advice` where ``seed_everything`` was not called.

    All else is `advice`:

    - no seed was set, by ``seed_everything`` or ``torch.manual_seed``;
    - the first step, run twice on a copy from the same state and in the same random streams, gives losses that differ
      by more than rounding, or run at another time of the day;
    - the training step, or the data set, draws from a generator of numpy that it keeps and that has no seed;
    - all workers of a DataLoader are given the same seed by its ``worker_init_fn``, or the same generator by the data
      set, which draws from it and does not set it back, so that they draw the same numbers.
      Torch gives each one of its own, for numpy, too.

    Args:
        strict: Stop the run when something failed.
        rounding: Difference of the two losses, over their size, that the order of sums on an accelerator may make.
            10,000 times the precision of 32 bits is about 1e-3.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "always use a fixed random seed to guarantee that
        when you run the code twice you will get the same outcome".

    Legitimate:
        - Runs that go on from a checkpoint, whose weights are given.
        - Generators of one's own, which are put back, and sums on a GPU in any order.
        - Steps that seed by their number, or put the streams back (``fork_rng``); validation that does, or draws from
          a generator of its own.
        - Generators with a seed that a data set keeps; examples that depend on the clock or count how often they were
          read.

    Cost:
        A copy of the module, and four steps on it; up to nine where losses differ by little, and another copy where
        they differ by more. Eight examples are read twice from copies of the data set, and six times where they differ;
        another one twice where there are workers. It is read where the streams stand after the first two steps of five
        epochs.

    Example:
        >>> import contextlib, io, lightning
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = SeedCheck()
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     _ = lightning.seed_everything(1, verbose=False)
        ...     Trainer(callbacks=[check], barebones=True, max_steps=1).fit(DigitsNet(), *loaders())
        >>> check.findings[0].status
        <Status.PASSED: 'passed'>

    """

    section = Section.SKELETON
    sentence = 1
    why = "with a fixed seed a second run gives the same outcome, so that what differs is what you changed"
    needs = Need(0)

    def __init__(self, *, strict: bool = False, rounding: float = 1e-3) -> None:
        super().__init__(strict=strict)
        self.rounding = rounding

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Look at seeds and workers, and run the first step several times."""
        self._seeds: set[str] = set()  # streams that the step sets
        self._after: dict[str, bytes] = {}
        self._clean: Finding | None = None
        self._rewound = Rewound(run.step + 1, period(run), {"torch"} if shuffled(run.loaders) else ())
        found = [*self._workers(run), *self._unseeded(run)]
        if not run.resumed and not is_seeded():
            found.append(
                self.advice(
                    "no random seed is set: another run begins with other weights, and sees its data in another order",
                    code="no_seed",
                    fix="call lightning.seed_everything(1) before the model and the data are made",
                )
            )
        yield from found
        try:
            repeat = repeated(run, run.batch, self.rounding)
            self._seeds = repeat.seeds
        except CannotRehearseError as error:
            yield from (
                [] if found else [self.skipped(f"a seed is set; whether steps can be repeated is unknown: {error}")]
            )
            return
        finally:
            self.done = not self._seeds and not self._rewound.open
        told = list(self._of(repeat))
        yield from told
        if not (told or found):
            difference = apart(repeat.first, repeat.second)
            self._clean = self.passed("a seed is set, and a step can be repeated", difference=difference)
            yield from [self._clean] if self.done else []

    def _of(self, repeat: Repeated) -> Iterator[Finding]:
        same = "the same step, from the same state and random streams, gives a loss of"
        first, second, later = repeat.first, repeat.second, repeat.later
        if apart(first, later) > self.rounding:
            yield self.advice(
                f"{same} {first:.4g}, and of {later:.4g} at another time of the day: it reads the clock",
                code="not_reproducible",
                fix="seed by a number of your own, not by time.time()",
                first=first,
                second=later,
            )
        if repeat.by_chance:
            yield self.found(made_by_chance("the training step draws from a generator of its own"))
        if (difference := apart(first, second)) > self.rounding:
            yield self.advice(
                f"{same} {first:.4g} and then of {second:.4g}",
                code="not_reproducible",
                fix="look for numbers drawn from a generator without a seed, the clock, or the order of a set",
                first=first,
                second=second,
                difference=difference,
            )

    def next_look(self, run: Run) -> float:
        """After the first two steps, those of some epochs."""
        return run.step + 1 if self._seeds or not self._after else self._rewound.next(run.step)

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:  # noqa: ARG002
        """Whether the streams stand where they stood after the step before, or an epoch ago."""
        before, self._after = self._after, streams()
        alike = sorted(name for name in self._seeds if self._after[name] == before.get(name))
        if before:
            self._seeds = set()
        if alike:
            self.done = True
            yield self.warning(
                f"the training step sets the seed of {' and '.join(alike)}: the numbers that it draws, for dropout "
                "and noise, are the same at each step",
                code="seeded_in_step",
                fix="seed once, before the model is made; for numbers that are to be the same each time, draw from a "
                "torch.Generator of their own",
            )
            return
        self._rewound.note(run.step, self._after)
        outcome = self._rewound.verdict()
        if outcome is not None:
            self._clean = None
            yield self.found(outcome)
        self.done = bool(before) and (outcome is not None or not self._rewound.open)
        if self.done:
            yield from self.end(run)

    def end(self, run: Run) -> Iterator[Finding]:  # noqa: ARG002
        """There is no silence."""
        if not self.findings and self._clean is not None:
            yield self._clean

    def _workers(self, run: Run) -> Iterator[Finding]:
        for loader in run.loaders:
            workers = getattr(loader, "num_workers", 0)
            if workers > 1 and seeds_all_alike(getattr(loader, "worker_init_fn", None)):
                yield self.advice(
                    f"worker_init_fn gives all {workers} workers of the training loader the same seed: what the data "
                    "set draws comes once from each of them, and again in each epoch",
                    code="workers_alike",
                    fix="leave worker_init_fn out: torch seeds random, numpy and itself in each worker",
                    workers=workers,
                )
                return
            data = getattr(loader, "dataset", None)
            if workers > 1 and loader.worker_init_fn is None and not tells_workers_apart(data):
                with suppress(CannotRereadError):
                    for path in drawn_from(data, 0)[:1]:
                        yield self.advice(
                            f"{type(data).__name__}.{path} is copied to each of {workers} workers, which draw the same "
                            "numbers from it" + ("" if loader.persistent_workers else ", the same again in each epoch"),
                            code="workers_alike",
                            subject=path,
                            fix="draw from torch, random or np.random, which torch seeds in each worker; or make the "
                            "generator in a worker_init_fn, of torch.initial_seed()",
                            workers=workers,
                        )
                        return

    def _unseeded(self, run: Run) -> Iterator[Finding]:
        for loader in run.loaders:
            data = getattr(loader, "dataset", None)
            if getattr(loader, "num_workers", 0) and tells_workers_apart(data):
                continue  # in a worker it may have a seed
            with suppress(CannotRereadError):
                if outcome := unseeded(data, seeded="PL_GLOBAL_SEED" in os.environ) or kept_without_seed(data):
                    yield self.found(outcome)
                    return
