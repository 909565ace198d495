"""One per fit: counts steps, wakes the callbacks that are due, and opens one record of the step for all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import Tensor

from lightning_recipe.aside import Aside
from lightning_recipe.looks import epochs, is_among
from lightning_recipe.overheard import Overheard
from lightning_recipe.ranks import FITS, Ranks
from lightning_recipe.record.probe import Probe
from lightning_recipe.record.step import Need, Step
from lightning_recipe.reporter import Reporter
from lightning_recipe.run import Run
from lightning_recipe.show.publisher import Publisher
from lightning_recipe.trial.compiled import with_unseen_losses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import Trainer
    from torch.optim import Optimizer

    from lightning_recipe.callback import RecipeCallback
    from lightning_recipe.record.events import Kind

WINDOW = 25
"""Batches before a look whose training losses are kept, on the device."""
_TRAINING = ("on_train_batch_start", "on_train_batch_end")
_BACKWARD = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
_AROUND = Need.WIRING | Need.GRADIENTS | Need.UPDATES | Need.HELD
_VALIDATION = ("on_validation_batch_start", "on_validation_batch_end")
STEP_HOOKS = (*_TRAINING, *_BACKWARD, *_VALIDATION)
"""Lightning enters them even when empty: those of twenty-five callbacks would cost 0.65 ms a step."""

_WATCHES: WeakKeyDictionary[Trainer, Watch] = WeakKeyDictionary()


class Watch:
    """What the recipe's callbacks of one fit share.

    The first of them is the host, whose hooks Lightning enters; those of the others rest from the beginning, and the
    host's whenever there is nothing to do but to count.

    Attributes:
        run: What the run will be.
        reporter: Asks the callbacks, and tells what they find.
        members: The callbacks, in the trainer's order.
        host: The first of them.

    """

    def __init__(self, trainer: Trainer, host: RecipeCallback) -> None:
        self.run, self.members, self.host = Run(trainer, ranks=Ranks(next(FITS))), [host], host
        self.reporter = Reporter(self.run, Publisher(trainer), self.members)
        self._began = False
        self._probe: Probe | None = None
        self._asked: list[RecipeCallback] = []  # who is to be shown the step that is watched
        self._first: list[RecipeCallback] = []  # who waits for the first step of the run
        self._of_epoch: list[RecipeCallback] = []  # who waits for the first step of this epoch
        self._streaming: list[RecipeCallback] = []  # who is shown each batch
        self._listening: list[RecipeCallback] = []  # who is given each loss
        self._odd: list[RecipeCallback] = []  # to whom the loss of this batch is not fine
        self._due: dict[RecipeCallback, float] = {}  # steps after which others look
        self._looking: list[RecipeCallback] = []  # who looks at this validation of this loader
        self._seen: dict[int, int] = {}  # the epoch whose validation was looked at last, by loader
        self._begun = self.run.batches_begun
        self._look: float = 0  # the batch that is looked at next, at the earliest, as Lightning counts them
        self._next_streamed: float = 0  # the one that is shown next to one that streams
        self._next_entered: float = 0  # the one at whose end there is something to do
        self._losses: dict[int, Any] = {}  # of the batches before a look
        self._aside: Aside | None = None
        self._overheard: Overheard | None = None

    @staticmethod
    def of(trainer: Trainer) -> Watch | None:
        """The watch of the fit that goes on, if any."""
        return _WATCHES.get(trainer)

    @staticmethod
    def publisher_of(trainer: Trainer) -> Publisher:
        """The door to people of a fit."""
        watch = _WATCHES.get(trainer)
        return Publisher(trainer) if watch is None else watch.reporter.publisher

    @staticmethod
    def join(trainer: Trainer, callback: RecipeCallback) -> None:
        """Take part in the fit that begins; the first to join hosts."""
        watch = _WATCHES.get(trainer)
        if watch is None or callback in watch.members:
            if watch is not None:
                watch.host.hosts = None
            _WATCHES[trainer] = callback.hosts = Watch(trainer, callback)
        else:
            watch.members.append(callback)

    @staticmethod
    def evaluates(trainer: Trainer, callback: RecipeCallback, stage: str, members: list[RecipeCallback]) -> None:
        """Ask a callback what it finds when ``trainer.validate`` or ``trainer.test`` begins, which are in no fit."""
        loop = trainer.test_loop if stage == "test" else trainer.validate_loop
        loaders = list(getattr(loop._combined_loader, "flattened", []))  # noqa: SLF001 - the property may be nested
        if trainer not in _WATCHES:
            run = Run(trainer)
            run.step = run.batches_that_stepped
            Reporter(run, Publisher(trainer), members).ask("evaluation", [callback], stage, loaders)

    def leave(self) -> None:
        """The fit is over: nothing of the watch stays."""
        if self._probe is not None:
            self._probe.detach()  # it waits for a step that never came
        self._probe = None
        self._put_back()
        self.host.hosts = None
        _WATCHES.pop(self.run.trainer, None)

    # -- training

    def epoch_starts(self) -> None:
        """Find out who looks at the first batch of this epoch."""
        trainer = self.run.trainer
        self._of_epoch = [
            callback
            for callback in self._taking("sampled_step")
            if callback.every_n_steps is None
            and trainer.current_epoch in epochs(callback.every_n_epochs or 1, trainer.max_epochs)
        ]
        for callback in self._streaming:
            callback.next_batch = 0
        if self._of_epoch or self._streaming:
            self.host.wake(_TRAINING)

    def batch_starts(self, batch: Any) -> None:
        """Begin at the first batch; watch the step if anyone is to look at it."""
        if not self._began:
            self._begin(batch)
        if self._streaming:
            self._stream("train", batch)
        now = self._begun.ready
        if self._probe is not None or (now < self._look and not self._of_epoch):
            if not (self._probe or self._first or self._next_streamed <= now + 1):
                self.host.rest(self.run.trainer, _TRAINING[:1])
            return  # the batch before was left out by a hook; or nobody is due
        asked = [*self._of_epoch, *self._first]
        if not self.run.trainer.fit_loop.epoch_loop._should_accumulate():  # noqa: SLF001 - weights change after it
            asked += [c for c, due in self._due.items() if due <= self.run.batches_that_stepped + 1]
        self._open([c for c in self.members if c in asked and not c.done], "training_step")

    def hears(self, outputs: Any, batch: Any) -> None:
        """See what comes of a training step, before its backward; of several of a batch, as LBFGS takes, each.

        It makes few calls, since little of what they need is in the processor's cache.
        """
        now, self._odd = self._begun.ready, []
        near = bool(self._asked) or now > self._look - WINDOW
        if near or self._listening:
            loss = outputs if isinstance(outputs, Tensor) else _loss(outputs)
            try:
                number = loss.item() if loss is not None and loss.is_cpu else None
            except (RuntimeError, ValueError):  # by hand it may be anything
                number = None
            for callback in self._listening:
                try:
                    if not callback.is_fine(number, batch):
                        self._odd.append(callback)
                except Exception as error:  # noqa: BLE001 - none of these may end the run
                    self._lose(callback, error)
            if near:
                self._losses[now] = _kept(outputs) if number is None else number
        if self._odd or self._asked or now >= self._next_entered:
            self.host.wake(_TRAINING[1:])

    def batch_ends(self, outputs: Any, batch: Any) -> None:
        """Show the step that was watched to those who asked for it."""
        now = self._begun.ready
        if self._next_streamed <= now + 1:
            self.host.wake(_TRAINING[:1])
        odd, self._odd = self._odd, []
        for callback in odd:
            try:
                urgent = callback.every_loss(self.run, _loss(outputs), batch)
            except Exception as error:  # noqa: BLE001 - none of these may end the run
                urgent = False
                self._lose(callback, error)
            if urgent:
                self._at_once(callback, batch)
        if now < self._look - 1 and not self._asked:
            if not odd:
                self.host.rest(self.run.trainer, _TRAINING[1:])
            return
        step, asked = self._close()
        if asked:
            self._show(step, asked)
        if self._probe is None:
            self._wait()

    def _lose(self, callback: RecipeCallback, error: Exception) -> None:
        self.reporter.enter(callback, [callback.internal_error(error)])
        self._listening = self._taking("every_loss")

    def _stream(self, stage: str, batch: Any) -> None:
        index = self.run.trainer.fit_loop.epoch_loop.batch_idx
        for callback in self._streaming:
            if callback.done or (stage == "train" and callback.next_batch > index):
                continue
            try:
                callback.every_batch(self.run, stage, batch)
            except Exception as error:  # noqa: BLE001 - none of these may end the run
                self.reporter.enter(callback, [callback.internal_error(error)])
        self._streaming = [callback for callback in self._streaming if callback.streams and not callback.done]
        if stage == "train":
            coming = min((callback.next_batch for callback in self._streaming), default=math.inf)
            self._next_streamed = self._begun.ready + coming - index
            self._next_entered = min(self._look, self._next_streamed) - 1

    def _at_once(self, callback: RecipeCallback, batch: Any) -> None:
        """Ask who has something to tell, as at a look; of several ranks it waits for the next look, which all have."""
        if self.run.trainer.world_size == 1:
            self.run.step = self.run.batches_that_stepped + 1
            with self._time_given_back():
                self.reporter.ask("sampled_step", [callback], Step(batch))
            self._listening = self._taking("every_loss")

    def _show(self, step: Step, asked: list[RecipeCallback]) -> None:
        first, of_epoch, self._first, self._of_epoch = self._first, self._of_epoch, [], []
        self.run.step, self.run.loss = self.run.batches_that_stepped, self._mean_loss()
        with self._time_given_back():
            self.reporter.ask("first_step", [c for c in asked if c in first], step)
            self.reporter.ask("sampled_step", [c for c in asked if c in of_epoch], step)
            self.run.step += 1
            looking = [c for c in asked if self._due.get(c, math.inf) <= self.run.step]
            self.reporter.ask("sampled_step", looking, step)
        self._due |= {callback: callback.next_look(self.run) for callback in looking}

    def _begin(self, batch: Any) -> None:
        run, self._began = self.run, True
        for callback in self.members:
            callback.rest(run.trainer, (*_BACKWARD, *_VALIDATION) if callback is self.host else STEP_HOOKS)
        self.reporter.join()
        resting = [callback for callback in self.members if callback is not self.host and not callback.has_own_hooks]
        self._aside, self._overheard = Aside(run.trainer, resting), Overheard(run.trainer, self.hears)
        run.batch, run.resumed, run.step = batch, run.trainer.global_step > 0, run.batches_that_stepped
        with self._time_given_back():
            self.reporter.ask("before_training", self._taking("before_training"))
        run.batch, self._first = None, self._taking("first_step")
        if run.resumed:
            reason = f"the run resumes at step {run.trainer.global_step}, past its beginning"
            for callback in self._first:
                if not callback.findings:
                    self.reporter.enter(callback, [callback.skipped(reason)])
            self._first = []
        self._streaming, self._listening = self._streamed_to(), self._taking("every_loss")
        looking = [c for c in self._taking("sampled_step") if c.every_n_steps is not None]
        self._due = {callback: callback.next_look(run) for callback in looking}

    def _wait(self) -> None:
        """Have Lightning enter no more hooks than are needed to count the batches until the next look."""
        self._due = {callback: step for callback, step in self._due.items() if not callback.done}
        if any(not callback.done for callback in (*self._first, *self._of_epoch)):
            return
        due = min([*self._due.values(), self.run.horizon]) if self._due else math.inf  # at the end some look once more
        self._look = self._begun.ready + due - self.run.batches_that_stepped - 1
        self.host.rest(self.run.trainer, _BACKWARD)
        self._streaming = self._streamed_to()
        if not self._streaming:
            self._next_streamed = math.inf
        self._next_entered = min(self._look, self._next_streamed) - 1
        self._listening = self._taking("every_loss")
        if self._next_entered <= self._begun.ready:
            self.host.wake(_TRAINING)
            return
        self.host.rest(self.run.trainer, _TRAINING)
        idle = math.isinf(self._next_entered) and not self._listening
        if idle and self._overheard is not None and not self._taking("sampled_step"):
            self._overheard.put_back()

    def _mean_loss(self) -> float:
        losses = [loss for loss in self._losses.values() if loss is not None]
        self._losses = {}
        with suppress(Exception):  # of several devices
            return float(sum(losses) / len(losses)) if losses else math.nan
        return math.nan

    # -- validation

    def validation_starts(self) -> None:
        """Attend to the first steps."""
        if self._began:
            self.run.step = self.run.batches_that_stepped
            with self._time_given_back():
                self.reporter.ask("before_validation", self._taking("before_validation"))
        self._streaming = self._streamed_to()
        if self._taking("validation") or self._streaming:
            self.host.wake(_VALIDATION)
        if self._streaming:
            self.host.wake(_TRAINING[:1])  # they may look at what comes after it, too

    def validation_batch_starts(self, batch: Any, batch_idx: int, loader: int) -> None:
        """Watch steps of a loader if anyone is to look at them: in the first validation, then at planned epochs."""
        trainer = self.run.trainer
        self._stream("validation", batch)
        epoch, last = -1 if trainer.sanity_checking else trainer.current_epoch, self._seen.get(loader)
        if batch_idx == 0:
            self._looking = []
        if batch_idx == 0 and epoch != last:
            self._seen[loader], self.run.loader = epoch, loader
            taking = self._taking("validation")
            planned = [c.every_n_epochs and epoch in epochs(c.every_n_epochs, trainer.max_epochs) for c in taking]
            self._looking = [callback for callback, now in zip(taking, planned, strict=True) if now or last is None]
        self._looking = [c for c in self._looking if not c.done and (batch_idx == 0 or c.val_batches > 1)]
        if self._looking and self._probe is None:
            self.run.val_batch, batches = batch_idx, trainer.num_val_batches[loader]
            self._open([c for c in self._looking if is_among(batch_idx, batches, c.val_batches)], "validation_step")
        last_loader = loader + 1 >= len(trainer.num_val_batches)
        if self._probe is None and not self._looking and self._began and last_loader and not self._streaming:
            self.host.rest(trainer, _VALIDATION)

    def validation_batch_ends(self) -> None:
        """Show the step that was watched."""
        step, asked = self._close()
        if asked:
            self.run.step = self.run.batches_that_stepped
            with self._time_given_back():
                self.reporter.ask("validation", asked, step)
            self._streaming = self._streamed_to()  # who wants to see the rest of this validation

    def notes(self, kind: Kind, optimizer: Optimizer | None = None) -> None:
        """Enter into the record what Lightning does after a step in automatic optimisation."""
        if self._probe is not None:
            self._probe.note(kind, optimizer)

    # -- the end

    def ends(self, error: BaseException | None = None) -> None:
        """Ask all for their last word, also when an exception ended training."""
        self._put_back()
        self.run.step, self.run.interrupted = self.run.batches_that_stepped, error is not None
        self.run.loss = self._mean_loss()
        self.run.ranks.silent |= error is not None
        if self._began:
            self.reporter.ask("end", self._taking("end"))
        for callback in self.members:
            if not self._began and not callback.findings:
                self.reporter.enter(callback, [callback.skipped("the run ended before its first training batch")])
            callback.done = True
        if error is None:
            self.reporter.unite()

    def _put_back(self) -> None:
        for lent in (self._aside, self._overheard):
            if lent is not None:
                lent.put_back()
        self._aside = self._overheard = None

    # -- one record for all

    def _taking(self, moment: str) -> list[RecipeCallback]:
        return [callback for callback in self.members if not callback.done and callback.takes(moment)]

    def _streamed_to(self) -> list[RecipeCallback]:
        return [callback for callback in self._taking("every_batch") if callback.streams]

    def _open(self, asked: list[RecipeCallback], method: str) -> None:
        self._asked = asked
        needs = reduce(or_, (callback.needs for callback in asked), Need(0))
        if not needs:
            return
        if needs & _AROUND:
            self.host.wake(_BACKWARD)
        try:
            self._probe = Probe.attach(self.run.module, method, needs, with_unseen_losses)
        except Exception as error:  # noqa: BLE001 - none of these may end the run
            self._give_up(error)

    def _close(self) -> tuple[Step, list[RecipeCallback]]:
        """The step that was watched, once it has run, and who asked for it."""
        if self._probe is None:
            asked, self._asked = self._asked, []
            return Step(None), asked
        if not self._probe.ran:  # left out by a hook: the next one is watched
            return Step(None), []
        (probe, self._probe), (asked, self._asked) = (self._probe, None), (self._asked, [])
        try:
            step = probe.result()
        except Exception as error:  # noqa: BLE001
            self._asked = asked
            self._give_up(error)
            return Step(None), []
        return Step(None) if step is None else step, asked

    def _give_up(self, error: Exception) -> None:
        asked, self._asked, self._probe = self._asked, [], None
        for callback in asked:
            self.reporter.enter(callback, [callback.internal_error(error)])

    @contextmanager
    def _time_given_back(self) -> Iterator[None]:
        """``Trainer(max_time=...)`` is for training: what experiments take is not taken from it."""
        start = time.monotonic()
        try:
            yield
        finally:
            for timer in self.run.trainer.callbacks:  # type: ignore[attr-defined]
                times = getattr(timer, "_start_time", None)
                if type(timer).__name__ == "Timer" and isinstance(times, dict):
                    spent = time.monotonic() - start
                    times |= {stage: t + spent for stage, t in times.items() if t is not None and stage == "train"}


def _kept(outputs: Any) -> Tensor | None:
    """A loss that is not on the CPU, without its graph."""
    loss = _loss(outputs)
    return None if loss is None else loss.detach().reshape(()).float()  # halves overflow when they are added


def _loss(outputs: Any) -> Tensor | None:
    """The loss that a step returned, if it did; one by hand returns anything."""
    loss = outputs if isinstance(outputs, Tensor) else outputs.get("loss") if isinstance(outputs, Mapping) else None
    return loss if isinstance(loss, Tensor) and loss.numel() == 1 and loss.is_floating_point() else None
