"""The two kinds of callbacks: those that show (RecipeCallback) and those that judge (Check)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from lightning.pytorch.callbacks import Callback

from lightning_recipe.finding import Finding, Outcome, Section, Status, in_short
from lightning_recipe.ledger import Ledger
from lightning_recipe.looks import next_step
from lightning_recipe.record.step import Need
from lightning_recipe.watch import STEP_HOOKS, Watch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor
    from torch.optim import Optimizer

    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

STATE = "lightning_recipe"
"""Key of the findings in a checkpoint."""


class RecipeCallback(Callback):
    """Takes part in a fit at the moments that it overrides, and keeps its findings.

    Attributes:
        section: The part of the recipe that the callback makes executable.
        sentence: The number of the recipe's sentence in that section; callbacks from elsewhere come last.
        why: The recipe's reason.
        needs: What it reads of a step that it looks at; with nothing, the step is not watched.
        explains: Its codes that are the cause of other findings: their codes, with wildcards.
        patience: Looks in a row at which a heuristic has to find the same before anybody is told.
        every_n_steps: Steps between looks at first, see ``looks.next_step``. None: at the first batch of an epoch.
        every_n_epochs: Epochs between those looked at, at least. None: only the first validation, as a rule that of the
            sanity check.
        val_batches: Batches of such a validation that are looked at, at most: the first, or evenly among all.
        strict: Whether a `failed` stops the run.
        done: Whether it has nothing more to look at in this fit.
        streams: Whether it is shown each batch, if it asks for that; some need the first ones only.
        next_batch: Index of the training batch that it needs to be shown next, in this epoch; others may be left out.
        hosts: The watch of the fit that goes on, if its hooks are those that drive it.
        verbose: Whether findings that are no alarms are printed as they arrive, too.

    """

    section: ClassVar[Section]
    sentence: ClassVar[int] = 99
    why: ClassVar[str]
    needs: Need = Need.INPUTS | Need.LOSSES
    explains: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    patience: ClassVar[int] = 1
    every_n_steps: int | None = 25
    every_n_epochs: int | None = 1
    val_batches: int = 1
    strict: bool = False
    verbose: bool = False

    def __init__(self) -> None:
        self.ledger = Ledger(self.patience)
        self.done, self.streams = False, True
        self.next_batch: float = 0
        self.hosts: Watch | None = None

    def __getstate__(self) -> dict[str, Any]:
        """All but the fit that goes on, and with it the trainer: for copies of what holds a callback."""
        return vars(self) | {"hosts": None}

    @property
    def findings(self) -> list[Finding]:
        """What it found in the latest ``fit``."""
        return self.ledger.findings

    # -- the moments: override what you need

    def before_training(self, run: Run) -> Iterable[Finding]:
        """At the first training batch, before its step: `run.batch`."""
        raise NotImplementedError

    def first_step(self, run: Run, step: Step) -> Iterable[Finding]:
        """After the first step of a run that is not resumed; what `step` holds is from before any update."""
        raise NotImplementedError

    def sampled_step(self, run: Run, step: Step) -> Iterable[Finding]:
        """After the optimiser's step: 1, 2, 4, ..., then ever rarer."""
        raise NotImplementedError

    def before_validation(self, run: Run) -> Iterable[Finding]:
        """When a validation after training began is about to begin, before the module's own hooks."""
        raise NotImplementedError

    def validation(self, run: Run, step: Step) -> Iterable[Finding]:
        """After the first batch of a validation loader, or after `val_batches`, at most 10 times a run."""
        raise NotImplementedError

    def end(self, run: Run) -> Iterable[Finding]:
        """After training, also when it was interrupted."""
        raise NotImplementedError

    def evaluation(self, run: Run, stage: str, loaders: list[Any]) -> Iterable[Finding]:
        """When ``trainer.test`` or ``trainer.validate`` begins outside of a fit: "test" or "validation"."""
        raise NotImplementedError

    def every_batch(self, run: Run, stage: str, batch: Any) -> None:
        """Before each step, of "train" and of "validation": for those who stream data; never waits for the device."""
        raise NotImplementedError

    def is_fine(self, loss: float | None, batch: Any) -> bool:  # noqa: ARG002
        """After each ``training_step``, before its backward: whether ``every_loss``, which costs more, can be spared.

        Args:
            loss: What the step returned, on the CPU; None elsewhere, and if it returned something else.
            batch: What the step was given.

        """
        return False

    def every_loss(self, run: Run, loss: Tensor | None, batch: Any) -> bool:
        """After each step that isn't fine, with its loss if it returned one: for what must know the exact step.

        Never waits for an accelerator.

        Returns:
            Whether there is something to tell at once; ``sampled_step`` is then asked for it.

        """
        raise NotImplementedError

    def takes(self, moment: str) -> bool:
        """Whether it overrides a moment."""
        return getattr(type(self), moment) is not getattr(RecipeCallback, moment)

    def next_look(self, run: Run) -> float:
        """The step after which ``sampled_step`` is next."""
        return next_step(run.step, self.every_n_steps or 1, run.horizon)

    # -- making findings

    def passed(self, message: str, *, code: str = "", subject: str = "", **evidence: float) -> Finding:
        """A finding that all is well."""
        return self._finding(Status.PASSED, message, evidence, "", code, subject)

    def advice(self, message: str, *, fix: str, code: str, subject: str = "", **evidence: float) -> Finding:
        """A finding that nothing is wrong, and something could be better."""
        return self._finding(Status.ADVICE, message, evidence, fix, code, subject)

    def warning(self, message: str, *, fix: str, code: str, subject: str = "", **evidence: float) -> Finding:
        """A finding that a heuristic is worried."""
        return self._finding(Status.WARNING, message, evidence, fix, code, subject)

    def failed(self, message: str, *, fix: str, code: str, subject: str = "", **evidence: float) -> Finding:
        """A finding with hard evidence of a mistake."""
        return self._finding(Status.FAILED, message, evidence, fix, code, subject)

    def skipped(self, message: str, *, code: str = "", subject: str = "", **evidence: float) -> Finding:
        """A finding that nothing could be judged, and why."""
        return self._finding(Status.SKIPPED, message, evidence, "", code, subject)

    def found(self, outcome: Outcome, subject: str = "") -> Finding:
        """The finding of a decision."""
        return self._finding(outcome.status, outcome.message, outcome.evidence, outcome.fix, outcome.code, subject)

    def internal_error(self, error: Exception) -> Finding:
        """What goes wrong inside is said once, and ends the callback's part in this fit, not the fit."""
        self.done = True
        return self.skipped(f"not judged: internal error in this check: {in_short(error)}", code="internal_error")

    def _finding(  # noqa: PLR0913, PLR0917 - the parts of a finding
        self, status: Status, message: str, evidence: dict[str, float], fix: str, code: str, subject: str
    ) -> Finding:
        name = type(self).__name__
        return Finding(
            name,
            status,
            message,
            {name: float(value) for name, value in evidence.items()},
            self.why,
            fix,
            self.section,
            code=f"{name}/{code or status.value}",
            subject=subject,
            explains=self.explains.get(code, ()),
        )

    # -- showing

    def tag(self, name: str) -> str:
        """Where TensorBoard shows `name`: it sorts by the alphabet, so the recipe's numbers come first.

        Args:
            name: Of a picture or a curve, with its unit.

        Example:
            >>> from lightning_recipe import OverfitOneBatch
            >>> OverfitOneBatch().tag("loss")
            '2.08 OverfitOneBatch/loss'

        """
        return f"{list(Section).index(self.section) + 1}.{self.sentence:02} {type(self).__name__}/{name}"

    def tell(self, run: Run, line: str) -> None:
        """Print a line that is no finding, such as what takes the time."""
        Watch.publisher_of(run.trainer).tell(line)

    def draw(self, run: Run, name: str, image: np.ndarray, step: int | None = None) -> None:
        """Write a picture to the loggers under the callback's own name.

        Args:
            run: The run.
            name: Of the card.
            image: Pixels of shape (H, W, C), uint8, such as ``figures.canvas.pixels`` gives.
            step: On the x axis; by default the present step.

        """
        Watch.publisher_of(run.trainer).picture(self.tag(name), image, run.step if step is None else step)

    def plot(self, run: Run, values: dict[str, float]) -> None:
        """Write a point of each curve, at the present step."""
        Watch.publisher_of(run.trainer).numbers({self.tag(name): v for name, v in values.items()}, run.step)

    def store(self, run: Run, name: str, tensors: dict[str, Tensor]) -> None:
        """Write tensors to a file of this name in the run's folder."""
        Watch.publisher_of(run.trainer).tensors(name, tensors)

    # -- Lightning's hooks: the host of the watch hands them on

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Begin with no findings."""
        if stage == "fit":
            self.ledger = Ledger(self.patience, self.ledger.skip)
            self.done, self.streams, self.next_batch = False, True, 0
            self.wake()
            Watch.join(trainer, self)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """See who looks at the first batch."""
        if watch := self._hosted(trainer):
            watch.epoch_starts()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Watch a step that somebody looks at."""
        if watch := self._hosted(trainer):
            watch.batch_starts(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:  # noqa: ARG002
        """Take note."""
        if watch := self._hosted(trainer):
            watch.notes("backward")

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:  # noqa: ARG002
        """Take note."""
        if watch := self._hosted(trainer):
            watch.notes("zero_grad", optimizer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:  # noqa: ARG002
        """Take note."""
        if watch := self._hosted(trainer):
            watch.notes("optimizer step", optimizer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: Any,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Show what was watched to those who look at it."""
        if watch := self._hosted(trainer):
            watch.batch_ends(outputs, batch)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Attend to the next steps."""
        if watch := self._hosted(trainer):
            watch.validation_starts()
        elif self.takes("evaluation"):
            Watch.evaluates(trainer, self, "validation", _of_the_recipe(trainer))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Show what is tested."""
        if self.takes("evaluation"):
            Watch.evaluates(trainer, self, "test", _of_the_recipe(trainer))

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Watch a step that somebody looks at."""
        if watch := self._hosted(trainer):
            watch.validation_batch_starts(batch, batch_idx, dataloader_idx)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:  # noqa: ARG002
        """Show what was watched to those who look at it."""
        if watch := self._hosted(trainer):
            watch.validation_batch_ends()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Ask for the last word."""
        if watch := self._hosted(trainer):
            watch.ends()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Print the closing table."""
        if watch := self._hosted(trainer):
            watch.reporter.close()
            watch.leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Print the closing table of a run that was stopped, too."""
        if watch := self._hosted(trainer):
            watch.ends(exception)
            watch.reporter.close(exception)
            watch.leave()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Leave nothing behind where a fit ends in another way, as the tuner's do."""
        if watch := self._hosted(trainer):
            watch.leave()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Keep the findings; not in `state_dict`, which would forbid two callbacks of a class."""
        watch = Watch.of(trainer)
        if watch is None:
            checkpoint.setdefault(STATE, []).append(self.ledger.state_dict())
        elif watch.host is self:
            checkpoint[STATE] = [member.ledger.state_dict() for member in watch.members]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Go on with the findings of a checkpoint that was written with the same callbacks."""
        for callback, state in zip(_of_the_recipe(trainer), checkpoint.get(STATE, ()), strict=False):
            if callback is self:
                self.ledger.load_state_dict(state, type(self).__name__)

    def _hosted(self, trainer: Trainer) -> Watch | None:
        watch = self.hosts  # at each step, when nothing of it is in the processor's cache: so as directly as can be
        return watch if watch is not None and watch.run.trainer is trainer else None

    def wake(self, hooks: Iterable[str] = STEP_HOOKS) -> None:
        """Have Lightning enter per-step hooks again."""
        for name in hooks:
            if vars(self).get(name, ...) is None:
                del vars(self)[name]

    def rest(self, trainer: Trainer, hooks: Iterable[str] = STEP_HOOKS) -> None:
        """Disable per-step hooks of this callback, until `wake` or the next fit: Lightning enters what is callable.

        Hooks of a user's subclass stay, and all do if something other than Lightning calls them. Done in the first
        step or later, when whoever wraps hooks has done so.

        Example:
            >>> from lightning.pytorch import Trainer
            >>> from lightning_recipe import OverfitOneBatch
            >>> callback = OverfitOneBatch()
            >>> callback.rest(Trainer(callbacks=[callback], barebones=True))
            >>> callable(callback.on_train_batch_start)
            False

        """
        for name in hooks:
            if self.may_rest(trainer, name):
                vars(self)[name] = None

    def may_rest(self, trainer: Trainer, hook: str) -> bool:
        """Whether a hook is the recipe's own, and nobody but Lightning enters it."""
        own = hook in vars(self) or getattr(type(self), hook) is not getattr(RecipeCallback, hook)
        return not own and any(callback is self for callback in trainer.callbacks)  # type: ignore[attr-defined]

    @property
    def has_own_hooks(self) -> bool:
        """Whether Lightning must enter it by itself: a user's subclass overrides a hook, or someone has wrapped one.

        Example:
            >>> from lightning_recipe import OverfitOneBatch
            >>> class Greeting(OverfitOneBatch):
            ...     def on_train_epoch_end(self, trainer, pl_module):
            ...         print("hello")
            >>> OverfitOneBatch().has_own_hooks, Greeting().has_own_hooks
            (False, True)

        """
        hooks = [name for name, hook in vars(Callback).items() if callable(hook) and name[0] != "_" and name != "setup"]
        inherited = all(getattr(type(self), name) is getattr(RecipeCallback, name) for name in hooks)
        return not inherited or any(vars(self).get(name) is not None for name in hooks)


class Check(RecipeCallback):
    """A callback that judges.

    Args:
        strict: Stop the run with ``FailedCheckError`` when something failed; for continuous integration.

    """

    def __init__(self, *, strict: bool = False) -> None:
        super().__init__()
        self.strict = strict


def findings(trainer: Trainer) -> list[Finding]:
    """The findings of all of the recipe's callbacks in `trainer`, in the order of its callbacks.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> findings(Trainer(barebones=True))
        []

    """
    return [finding for callback in _of_the_recipe(trainer) for finding in callback.findings]


def _of_the_recipe(trainer: Trainer) -> list[RecipeCallback]:
    if watch := Watch.of(trainer):
        return watch.members
    return [callback for callback in trainer.callbacks if isinstance(callback, RecipeCallback)]  # type: ignore[attr-defined]
