"""When the recipe looks, and that it costs nothing in between."""

import copy
import itertools
import math
import pickle
import time
from collections import Counter
from contextlib import nullcontext

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.profilers import Profiler
from patients import Healthy

from lightning_recipe import (
    BatchMixingDetector,
    BiasCheck,
    Check,
    DataProfile,
    FailedCheckError,
    FirstNonFinite,
    InitLossCheck,
    LRScheduleCheck,
    OverfitOneBatch,
    Section,
    SeedCheck,
    VisualizeInputs,
    recipe,
)
from lightning_recipe.callback import STATE
from lightning_recipe.looks import epochs, next_step
from lightning_recipe.record.probe import Probe
from lightning_recipe.watch import _WATCHES, STEP_HOOKS, WINDOW


class Entered(Profiler):
    """Counts the hooks of callbacks that Lightning enters."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def start(self, action_name):
        self.counts[action_name] += 1

    def stop(self, action_name):
        pass

    def of(self, callback, hook):
        return self.counts[f"[Callback]{callback.state_key}.{hook}"]


class Looks(Check):
    """Takes part at every moment."""

    section, why = Section.MISTAKES, "a test"

    def __init__(self, every_n_steps=25, every_n_epochs=1):
        super().__init__()
        self.every_n_steps, self.every_n_epochs = every_n_steps, every_n_epochs
        self.at = []

    def before_training(self, run):
        self.at.append(("before", run.step))
        self.batch = run.batch
        return ()

    def first_step(self, run, step):
        self.at.append(("first", run.step))
        return ()

    def sampled_step(self, run, step):
        self.at.append(("sampled", run.step))
        return ()

    def validation(self, run, step):
        self.at.append(("validation", run.step))
        return ()

    def end(self, run):
        self.at.append(("interrupted" if run.interrupted else "end", run.step))
        yield self.passed("looked")

    def of(self, moment):
        return [step for name, step in self.at if name == moment]


# -- when


def test_moments_come_in_order_and_at_their_steps(fit):
    check = Looks()
    fit(Healthy(), [check], max_epochs=5)
    assert check.at[:4] == [("validation", 0), ("before", 0), ("first", 0), ("sampled", 1)]
    assert check.of("sampled") == [1, 2, 4, 8, 16, 25]
    assert check.of("validation") == [0, 7, 15, 23, 31, 39], "where Lightning logs them"
    assert check.at[-1] == ("end", 40)
    assert len(check.batch) == 2


def test_who_streams_data_is_shown_every_batch(fit):
    class Streams(Check):
        section, why = Section.MISTAKES, "a test"
        trained = validated = 0

        def every_batch(self, run, stage, batch):
            if stage == "train":
                self.trained += len(batch[0])
            else:
                self.validated += len(batch[0])
                if self.validated == 4 * 64:
                    msg = "boom"
                    raise RuntimeError(msg)

    quiet, check = InitLossCheck(), Streams()
    fit(Healthy(), [quiet, check], max_epochs=5)
    assert (check.trained, check.validated) == (3 * 256, 4 * 64), "until something goes wrong"
    assert [f.code for f in check.findings] == ["Streams/internal_error"]


@pytest.mark.parametrize("others", [0, 1])
def test_who_streams_some_batches_is_shown_these(fit, others):
    class Third(Check):
        section, why = Section.MISTAKES, "a test"

        def every_batch(self, run, stage, batch):
            index = run.trainer.fit_loop.epoch_loop.batch_idx
            if stage == "train":
                self.shown.append((run.trainer.current_epoch, index))
                self.next_batch = index + 3 if index < 6 else math.inf

    check = Third()
    check.shown = []
    fit(Healthy(), [check, *[FirstNonFinite()] * others], max_epochs=2, limit_val_batches=0)
    assert check.shown == [(epoch, index) for epoch in range(2) for index in (0, 3, 6)]


def test_steps_are_those_that_change_weights(fit):
    check = Looks(every_n_steps=2)
    fit(Healthy(), [check], accumulate_grad_batches=4, max_epochs=3)
    assert check.of("sampled") == [1, 2, 4, 6]


def test_first_batches_of_epochs(fit):
    check = Looks(every_n_steps=None, every_n_epochs=2)
    fit(Healthy(), [check], max_epochs=5)
    assert check.of("sampled") == [0, 16, 32]
    assert check.of("validation") == [0, 7, 23, 39]


def test_gaps_grow_to_a_share_of_the_run():
    looks = [25]
    while (step := next_step(looks[-1], 25, horizon=100_000)) <= 100_000:
        looks.append(step)
    gaps = [b - a for a, b in itertools.pairwise(looks)]
    assert max(gaps) <= 2_000
    assert gaps[-1] >= 1_000
    assert len(looks) < 150


@pytest.mark.parametrize("steps", [1_000, 2_000, 10_000, 100_000])
def test_looks_are_few_whatever_the_length(steps):
    looks = [0]
    while (step := next_step(looks[-1], 25, horizon=steps)) <= steps:
        looks.append(step)
    assert len([step for step in looks if step > steps / 2]) <= max(25, 0.01 * steps)
    assert len(looks) <= 0.02 * steps + 10


def test_few_epochs_are_looked_at():
    for every in (1, 2, 7):
        for most in (1, 2, 3, 8, 9, 10, 100, 12345, -1, None):
            found = epochs(every, most)
            assert 0 in found
            assert len(found) <= 9
            assert all(epoch % every == 0 for epoch in found)
            if most and most > 0:
                assert max(found) == (most - 1) // every * every


def test_an_exception_in_training_ends_the_looks_too(fit):
    class Breaks(Healthy):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if batch_idx == 3:
                msg = "mine"
                raise RuntimeError(msg)

    check, module = Looks(), Breaks()
    with pytest.raises(RuntimeError, match="mine"):
        fit(module, [check])
    assert check.at[-1] == ("interrupted", 3)
    assert not _WATCHES
    assert "training_step" not in module.__dict__


def test_what_goes_wrong_at_one_moment_is_said_once(fit):
    class Wrong(Looks):
        def sampled_step(self, run, step):
            super().sampled_step(run, step)
            msg = "boom"
            raise RuntimeError(msg)

    check, other = Wrong(), Looks()
    trainer = fit(Healthy(), [check, other])
    assert trainer.global_step == 16
    assert check.of("sampled") == [1]
    assert [f.code for f in check.findings] == ["Wrong/internal_error"]
    assert other.of("sampled") == [1, 2, 4, 8, 16]


def test_one_probe_serves_all_that_look(fit, monkeypatch):
    watched = []
    attach = Probe.attach
    monkeypatch.setattr(Probe, "attach", lambda *a: watched.append(a[1]) or attach(*a))
    checks = [Looks(), Looks(), InitLossCheck()]
    fit(Healthy(), checks)
    assert Counter(watched) == {"training_step": len(checks[0].of("sampled")), "validation_step": 3}


def test_time_of_experiments_is_not_taken_from_max_time(fit):
    class Slow(Looks):
        slept = 0.0

        def sleep(self, *_):
            time.sleep(0.5)
            self.slept += 0.5
            return ()

        before_training = first_step = sampled_step = sleep

        def validation(self, run, step):
            return () if run.trainer.sanity_checking else self.sleep()

    check, timer = Slow(), Timer("00:01:00:00")
    began = time.monotonic()
    fit(Healthy(), [check, timer], max_epochs=1)
    assert check.slept == 0.5 * 7, "before, first, at 1, 2, 4, 8, and in validation"
    assert timer.time_elapsed("train") <= time.monotonic() - began - check.slept


# -- what it costs


def test_only_hooks_with_something_to_do_are_entered(fit):
    profiler, callbacks = Entered(), recipe(skip=["DataProfile", "SplitCheck"])  # which are shown batches of two epochs
    fit(BoringModel(), callbacks, profiler=profiler, max_epochs=2, limit_train_batches=64, limit_val_batches=2)
    host, *others = callbacks
    for callback in others:
        assert all(profiler.of(callback, hook) <= (2 if "validation" in hook else 1) for hook in STEP_HOOKS)
    assert profiler.of(host, "on_train_batch_start") < 30, "the looks"
    assert profiler.of(host, "on_train_batch_end") < 30, "the looks, and each batch before"
    # the looks at 1, 2, 4, 8, 16, 25, 50, 75, 100; the first four steps are all watched, and a fifth is waited for
    assert profiler.of(host, "on_before_backward") == 11


@pytest.mark.parametrize("asked", [False, True])
def test_batches_are_counted_without_entering_a_hook(fit, asked):
    """Somebody may ask for the hook in between, and looks are where they were; the losses before them are known."""

    class Looks(InitLossCheck):
        def sampled_step(self, run, step):
            looks.append(run.step)
            means.append(run.loss)
            return ()

    class Counting(BoringModel):
        """The loss of the n-th step is n, and its gradient is that of the model."""

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)["loss"]
            return loss - loss.detach() + self.global_step + 1

    looks, means, profiler, check = [], [], Entered(), Looks()
    mine = Mine(lambda trainer: getattr(check, "on_train_batch_end") if asked else None)  # noqa: B009 - asks only
    fit(Counting(), [check, mine], profiler=profiler, max_epochs=10, limit_train_batches=60, limit_val_batches=0)
    assert looks == [1, 2, 4, 8, 16, 25, 50, 75, 100, 150, 200, 300, 400, 600]
    spans = [min(look - before, WINDOW) for before, look in itertools.pairwise([0, *looks])]
    assert means == [look - (span - 1) / 2 for look, span in zip(looks, spans, strict=True)]
    assert profiler.of(check, "on_train_batch_end") < 30, "the looks, and each batch before"


@pytest.mark.parametrize(("check", "each"), [(InitLossCheck, False), (FirstNonFinite, True)])
def test_losses_are_read_if_somebody_listens(fit, monkeypatch, check, each):
    """Else those before a look."""

    class Looks(check):
        def sampled_step(self, run, step):
            return ()

    read = []
    item = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda self: read.append(self.requires_grad) or item(self))
    fit(BoringModel(), [Looks()], logger=False, max_epochs=10, limit_train_batches=60, limit_val_batches=0)
    assert sum(read) == 600 if each else 200 < sum(read) < 400


def test_with_nothing_left_to_look_at_nothing_is_entered(fit):
    profiler, callbacks = Entered(), [InitLossCheck(), OverfitOneBatch(), BatchMixingDetector()]
    fit(BoringModel(), callbacks, profiler=profiler, max_steps=20)
    for callback in callbacks:
        assert all(profiler.of(callback, hook) <= 2 for hook in STEP_HOOKS)


def test_who_has_seen_enough_batches_is_shown_no_more(fit):
    profiler, check = Entered(), DataProfile()
    fit(BoringModel(), [check], profiler=profiler, max_epochs=4, limit_train_batches=64, limit_val_batches=0)
    assert 64 < profiler.of(check, "on_train_batch_start") < 128, "the first epoch, some of the second, and looks"


def test_hooks_of_a_subclass_are_always_entered(fit):
    class Mine(InitLossCheck):
        ends = backwards = 0

        def on_train_batch_end(self, *args):
            super().on_train_batch_end(*args)
            self.ends += 1

        def on_after_backward(self, *args):
            super().on_after_backward(*args)
            self.backwards += 1

    check, other = Mine(), OverfitOneBatch(max_steps=5)
    fit(BoringModel(), [other, check], max_steps=5)
    assert (check.ends, check.backwards) == (5, 5)
    assert len(check.findings) == 1


def test_a_group_that_enters_them_itself_still_can(fit):
    class Group(Callback):
        def __init__(self, *members):
            self.members = members

        def __getattribute__(self, name):
            if not name.startswith("on_") and name not in {"setup", "teardown"}:
                return super().__getattribute__(name)
            return lambda *args, **kwargs: [getattr(member, name)(*args, **kwargs) for member in self.members]

    checks = [InitLossCheck(), BatchMixingDetector()]
    fit(BoringModel(), [Group(*checks)], max_steps=3)
    assert [len(check.findings) for check in checks] == [1, 1]


@pytest.mark.parametrize("kind", [InitLossCheck, OverfitOneBatch, BatchMixingDetector, VisualizeInputs])
def test_rest_ends_with_the_next_fit(fit, kind):
    callback = kind()
    for _ in range(2):
        fit(BoringModel(), [callback], max_steps=3)
        assert callback.on_train_batch_start is None
        assert len(callback.findings) == 1


class Mine(Callback):
    """Keeps which callbacks the trainer has in the first epoch's steps, and does something at a step or at the end."""

    def __init__(self, at_step=lambda trainer: None):
        self.at_step, self.seen = at_step, []

    def on_train_batch_end(self, trainer, *_):
        self.seen = [type(callback).__name__ for callback in trainer.callbacks]
        self.at_step(trainer)


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_who_rests_is_out_of_the_list_until_the_run_is_over(fit, error):
    class Own(SeedCheck):
        def on_train_epoch_start(self, trainer, pl_module):
            super().on_train_epoch_start(trainer, pl_module)

    def stop(trainer):
        if error:
            raise error

    wrapped = BiasCheck()
    wrapped.on_train_end = lambda trainer, pl_module: None
    mine, checks = Mine(stop), [InitLossCheck(), Own(), LRScheduleCheck(), wrapped]
    trainer = L.Trainer(callbacks=[checks[0], mine, *checks[1:]], barebones=True, max_steps=2, accelerator="cpu")
    given, before = trainer.callbacks, list(trainer.callbacks)
    with pytest.raises((error, SystemExit)) if error else nullcontext():
        trainer.fit(BoringModel())
    assert mine.seen == ["InitLossCheck", "Mine", "Own", "BiasCheck"]
    assert trainer.callbacks is given
    assert given == before
    assert all(check.findings for check in checks)


def test_who_comes_or_goes_meanwhile_has_come_or_gone(fit):
    late = Callback()

    def change(trainer):
        trainer.callbacks = [callback for callback in trainer.callbacks if callback is not mine] + [late]

    mine, checks = Mine(change), [InitLossCheck(), LRScheduleCheck()]
    assert fit(BoringModel(), [*checks, mine], max_steps=3).callbacks[:3] == [*checks, late]


def test_checkpoints_hold_findings_of_those_who_rest(fit, tmp_path):
    mine = Mine(lambda trainer: trainer.save_checkpoint(tmp_path / "mid.ckpt"))
    checks = [InitLossCheck(), LRScheduleCheck()]
    fit(BoringModel(), [*checks, mine], max_steps=3)
    states = torch.load(tmp_path / "mid.ckpt", weights_only=False)[STATE]
    again = [InitLossCheck(), LRScheduleCheck()]
    for state, check, other in zip(states, checks, again, strict=True):
        other.ledger.load_state_dict(state, type(check).__name__)
    assert [other.findings[0].code for other in again] == [check.findings[0].code for check in checks]


# -- strict


class Fails(Check):
    section, why = Section.MISTAKES, "a test"

    def first_step(self, run, step):
        yield self.failed("wrong", code="wrong", fix="right")
        yield self.passed("fine")


def test_strict_stops_the_run_after_publishing(fit):
    check, other = Fails(strict=True), InitLossCheck()
    with pytest.raises(FailedCheckError, match="Fails: wrong Fix: right"):
        fit(Healthy(), [check, other])
    assert [f.status for f in check.findings] == ["failed", "passed"]
    assert len(other.findings) == 1, "what others found at this look is told, too"


def test_without_strict_the_run_goes_on(fit):
    assert fit(Healthy(), [Fails()]).global_step == 16


# -- the module


def test_nothing_is_left_in_module_or_process(fit):
    module, bare = Healthy(), Healthy()
    fit(module, recipe(OverfitOneBatch(max_steps=5)))
    fit(bare)
    assert vars(module).keys() == vars(bare).keys()
    assert not _WATCHES
    assert torch.overrides._get_current_function_mode() is None


def test_a_copy_that_is_made_in_a_fit_knows_nothing_of_it(fit):
    check = Looks()

    class Copies(Callback):
        def on_train_batch_end(self, *_):
            self.copied = copy.deepcopy(check), pickle.loads(pickle.dumps(check))  # noqa: S301

    copies = Copies()
    fit(Healthy(), [check, copies], logger=False, max_steps=3)
    assert [copied.hosts for copied in copies.copied] == [None, None]
    assert all(type(copied.findings) is list for copied in copies.copied)


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_strategy_is_as_it_was(fit, error):
    def stop(trainer):
        if trainer.global_step == 3 and error is not None:
            raise error

    seen = []
    mine = Mine(lambda trainer: (seen.append("training_step" in vars(trainer.strategy)), stop(trainer)))
    trainers = []
    mine.setup = lambda trainer, pl_module, stage: trainers.append(trainer)
    with pytest.raises((error, SystemExit)) if error else nullcontext():
        fit(Healthy(), [FirstNonFinite(), mine])
    assert all(seen)
    assert "training_step" not in vars(trainers[0].strategy)
