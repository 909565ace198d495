"""A step run again on a copy: the same loss each time, other answers where asked for, and no trace."""

import gc
import random
import weakref

import numpy as np
import pytest
import torch
from ends import frozen, streams
from patients import CLASSES, Healthy
from torch.nn import functional as F

from lightning_recipe import Check, Section
from lightning_recipe.record.step import Need
from lightning_recipe.trial.rehearsal import NOTHING, CannotRehearseError, rehearsal


class Asks(Check):
    """Does in `first_step` what a test asks for."""

    section, why = Section.SKELETON, "a test"

    def __init__(self, ask):
        super().__init__()
        self.ask = ask

    def first_step(self, run, step):
        with rehearsal(run) as again:
            self.ask(again, step.batch)
        yield self.passed("")


def rehearsed(fit, module, ask, **settings):
    check = Asks(ask)
    fit(module, [check], logger=False, max_epochs=1, limit_train_batches=2, limit_val_batches=0, **settings)
    assert check.findings[0].message == "", check.findings[0].message


class ByHand(Healthy):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def backward_of(self, loss):
        self.manual_backward(loss)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        self.toggle_optimizer(optimizer)
        loss = self.loss(self(batch[0]), batch[1])
        optimizer.zero_grad()
        self.backward_of(loss)
        self.clip_gradients(optimizer, 1.0, "norm")
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        self.lr_schedulers().step()


class ByTorch(ByHand):
    def backward_of(self, loss):
        loss.backward()


class ClippedByHand(ByHand):
    """What reads gradients has some to read."""

    def backward_of(self, loss):
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_value_(self.parameters(), 0.5)
        self.log("norm", torch.stack([p.grad.norm() for p in self.parameters()]).norm())


class DecayedByHand(ByHand):
    """Weights change within the step."""

    def backward_of(self, loss):
        self.manual_backward(loss)
        with torch.no_grad():
            for p in self.parameters():
                p.mul_(0.9)


class ByDict(Healthy):
    def training_step(self, batch, index):  # another name
        return {"loss": super().training_step(batch, index), "n": len(batch[0])}


@pytest.mark.parametrize("module", [Healthy, ByHand, ByTorch, ClippedByHand, DecayedByHand, ByDict])
def test_the_same_step_again(fit, module):
    def ask(again, batch):
        steps = [again.step(batch, needs=Need.LOSSES, seed=seed) for seed in (0, 0, 1)]
        losses = [float(step.loss) for step in steps]
        assert losses[0] == losses[1] != losses[2], "dropout draws from the seed's stream"
        assert [call.name for call in steps[0].loss_calls] == ["cross_entropy"]
        weights = [p for p in again.module.parameters() if p.requires_grad]
        assert all(g is not None for g in torch.autograd.grad(steps[0].loss, weights)), "the graph is kept"
        assert all(p.grad is None for p in weights)

    rehearsed(fit, module(), ask)


def test_answers_take_the_place_of_what_a_module_computes(fit):
    def ask(again, batch):
        zeros = torch.zeros(len(batch[0]), CLASSES, requires_grad=True)
        step = again.step(batch, answers={"net.4": zeros})
        assert float(step.loss.detach()) == pytest.approx(float(torch.tensor(CLASSES).log()))
        step.loss.backward()
        assert zeros.grad is not None
        made = again.step(batch, answers={"net": lambda output: output * 0})
        assert float(made.loss) == float(step.loss)

    rehearsed(fit, Healthy(), ask)


class OnlyOnce(Healthy):
    ran = False

    def training_step(self, batch, batch_idx):
        if self.ran:
            msg = "only once"
            raise ValueError(msg)
        self.ran = self.trainer.logger is None
        return super().training_step(batch, batch_idx)


def test_a_step_that_raises_says_so(fit):
    def ask(again, batch):
        with pytest.raises(CannotRehearseError, match="only once"):
            again.step(batch)

    check = Asks(ask)
    fit(OnlyOnce(), [check], logger=False, max_steps=1, limit_val_batches=0)
    assert check.findings[0].message == "", check.findings[0].message


GLOBAL = np.random.default_rng(1)


class DrawsByItself(Healthy):
    """From generators of its own, which no seed reaches."""

    def __init__(self):
        super().__init__()
        self.own = torch.Generator().manual_seed(1)
        self.net.python = random.Random(1)

    def training_step(self, batch, batch_idx):
        drawn = torch.rand((), generator=self.own) + self.net.python.random() + GLOBAL.random()
        return super().training_step(batch, batch_idx) * 0 + drawn


def test_generators_of_the_users_begin_where_they_were(fit):
    def ask(again, batch):
        losses = [float(again.step(batch, seed=seed).loss) for seed in (0, 1, 0, 1)]
        assert losses[:2] == losses[2:]
        assert losses[0] != losses[1]

    module = DrawsByItself()
    rehearsed(fit, module, ask)
    again = DrawsByItself()
    torch.rand(2, generator=again.own)  # two steps, and no more
    assert torch.rand((), generator=again.own) == torch.rand((), generator=module.own)


class Remembers(Healthy):
    """Keeps things as attributes and buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.history, self.hidden = [], None

    def training_step(self, batch, batch_idx):
        self.seen += 1
        self.history.append(batch_idx)
        self.hidden = batch[0].mean() + (0 if self.hidden is None else self.hidden)
        return super().training_step(batch, batch_idx) + 0 * self.seen + self.hidden


def test_each_begins_from_the_same_state(fit):
    def ask(again, batch):
        assert len({float(again.step(batch).loss) for _ in range(3)}) == 1
        assert again.module.history == [0]

    rehearsed(fit, Remembers(), ask)


class FromTrainer(Healthy):
    """Reads what it can of its trainer."""

    def training_step(self, batch, batch_idx):
        state = (self.current_epoch, self.global_step, self.trainer.max_epochs, self.trainer.num_training_batches)
        self.states = [*getattr(self, "states", []), state]
        if self.logger is not None:
            self.logger.experiment.add_scalar("x", 1.0)
        return super().training_step(batch, batch_idx)


def test_the_trainer_looks_like_the_users(fit):
    def ask(again, batch):
        module, seen = again.module, []
        module.forward = lambda x, forward=module.forward: (seen.append(module.states[-1]), forward(x))[1]
        again.step(batch)
        assert seen == [(0, 1, 1, 2)]

    rehearsed(fit, FromTrainer(), ask)


def test_validation_steps_too(fit):
    class Returns(Healthy):
        def validation_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1])

    def ask(again, batch):
        again.module.eval()
        first, second = (again.step(batch, method="validation_step", seed=seed).loss for seed in (0, 1))
        assert float(first) == float(second)

    rehearsed(fit, Returns(), ask)


@pytest.mark.parametrize("module", [Healthy, ByHand, Remembers])
def test_leaves_no_trace(fit, module):
    def end(callbacks):
        net = module()
        trainer = fit(net, callbacks, logger=False, limit_val_batches=0)
        optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
        return frozen({"weights": net.state_dict(), "optimizers": optimizers, "streams": streams()})

    def ask(again, batch):
        for seed in range(3):
            again.step(batch, needs=Need.LOSSES | Need.WIRING, seed=seed).loss.backward()

    torch.manual_seed(3)
    without = end([])
    torch.manual_seed(3)
    assert end([Asks(ask)]) == without


class LogsAll(Healthy):
    def validation_step(self, batch, batch_idx):
        self.log("a", 1.0, on_step=False, on_epoch=True)
        self.log_dict({"b": 2.0, "c": 3.0}, reduce_fx="max")


def test_what_a_step_logs_is_noted_and_logged_nowhere(fit):
    def ask(again, batch):
        again.step(batch, method="validation_step")
        again.step(batch, method="validation_step")
        assert [(one.name, one.value) for one in again.logged] == [("a", 1.0), ("b", 2.0), ("c", 3.0)]
        assert [(one.on_epoch, one.mean) for one in again.logged] == [(True, True), (None, False), (None, False)]

    rehearsed(fit, LogsAll(), ask)


@pytest.mark.parametrize("needs", [NOTHING, Need.INPUTS | Need.LOSSES | Need.WIRING | Need.OUTPUTS])
@pytest.mark.parametrize("module", [Healthy, ByHand, Remembers])
def test_the_copy_is_freed_at_once(fit, module, needs):
    """Without a search for cycles, which takes longer than most steps."""

    class Copies(Check):
        section, why = Section.SKELETON, "a test"

        def first_step(self, run, step):
            gc.disable()
            with rehearsal(run) as again:
                copy = weakref.ref(again.module)
                again.step(step.batch, needs=needs).loss.backward()
            del again
            self.gone = copy() is None
            gc.enable()
            yield self.passed("")

    check = Copies()
    fit(module(), [check], logger=False, max_steps=1, limit_val_batches=0)
    assert check.gone


class Sampling(Healthy):
    """Goes up the slope of its own energy, as an energy-based model that samples."""

    own = False  # whether its parameters may get a gradient of it

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.requires_grad_(self.own)
        made = torch.rand_like(x).requires_grad_()
        for _ in range(3):
            self(made).sum().backward()
            made.data.add_(made.grad.data)
            made.grad.zero_()
        self.requires_grad_(requires_grad=True)
        self.zero_grad()
        return self.loss(self(torch.cat([x, made.detach()])), torch.cat([y, y]))


@pytest.mark.parametrize("own", [False, True])
def test_gradients_of_the_step_s_own_tensors_are_there(fit, own):
    def ask(again, batch):
        steps = [again.step(batch, needs=Need.LOSSES) for _ in range(2)]
        assert torch.equal(steps[0].loss, steps[1].loss)
        assert [call.name for call in steps[0].loss_calls] == ["cross_entropy"]
        assert steps[0].loss.isclose(steps[0].loss_calls[0].value)  # the loss is what the step returned
        assert all(p.grad is None for p in again.module.parameters())

    module = Sampling()
    module.own = own
    rehearsed(fit, module, ask)
