import math
import pickle

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, StochasticWeightAveraging
from lightning.pytorch.demos.boring_classes import BoringModel, ManualOptimBoringModel
from patients import Healthy, Scheduled
from torch.optim import lr_scheduler as lrs
from torch.utils.data import DataLoader, IterableDataset

from lightning_recipe import LRScheduleCheck, Status
from lightning_recipe.callbacks._schedule_followed import cut_while_improving, plateau_mode, stepped_twice
from lightning_recipe.callbacks._schedule_verdict import Path, Plan, judge
from lightning_recipe.figures.canvas import COLOURS
from lightning_recipe.figures.schedules import PALE, rates_over_steps
from lightning_recipe.run import Run


class Batches:
    """A loader of `n` batches that takes no time."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __iter__(self):
        return (torch.ones(1, 32) for _ in range(self.n))


class Planned(BoringModel):
    """Ends at its first batch: what is planned has been judged by then."""

    def __init__(self, schedule, batches=100, groups=1):
        super().__init__()
        self.schedule, self.batches, self.groups = schedule, batches, groups

    def on_train_batch_start(self, batch, batch_idx):
        self.trainer.should_stop = True
        return -1

    def configure_optimizers(self):
        parameters = list(self.parameters())
        if self.groups > 1:
            parameters = [{"params": [p], "lr": 10.0**-i} for i, p in enumerate(parameters)]
        optimizer = torch.optim.SGD(parameters, lr=1e-3)
        schedulers = self.schedule(optimizer)
        return [optimizer], schedulers if isinstance(schedulers, list) else [schedulers]

    def train_dataloader(self):
        return Batches(self.batches)


def judged(fit, module, callbacks=(), **settings):
    """The findings of the check on a run of ten epochs."""
    check = LRScheduleCheck()
    settings = {"max_epochs": 10, "limit_val_batches": 0, "logger": False, **settings}
    fit(module, [*callbacks, check], **settings)
    return check.findings


def names(findings, *statuses):
    return [f.code.removeprefix("LRScheduleCheck/") for f in findings if not statuses or f.status in statuses]


def by_step(scheduler, **settings):
    return {"scheduler": scheduler, "interval": "step", **settings}


def linear(warmup, total):
    """transformers.get_linear_schedule_with_warmup."""
    return lambda step: step / warmup if step < warmup else max(0.0, (total - step) / (total - warmup))


def cosine(warmup, total):
    """transformers.get_cosine_schedule_with_warmup, half a cycle."""
    return lambda step: (
        step / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    )


def warm(optimizer, epochs, then):
    return lrs.SequentialLR(optimizer, [lrs.LinearLR(optimizer, 0.01, total_iters=epochs), then], [epochs])


# -- healthy: false alarms come first

HEALTHY = {
    "constant": (lambda o: lrs.LambdaLR(o, lambda _: 1.0), {}),
    "cosine, 10 epochs": (lambda o: lrs.CosineAnnealingLR(o, 10), {}),
    "cosine, 90 epochs": (lambda o: lrs.CosineAnnealingLR(o, 90), {"max_epochs": 90}),
    "cosine, one epoch": (lambda o: lrs.CosineAnnealingLR(o, 1), {"max_epochs": 1}),
    "cosine by steps": (lambda o: by_step(lrs.CosineAnnealingLR(o, 1000)), {}),
    "cosine to a minimum": (lambda o: by_step(lrs.CosineAnnealingLR(o, 1000, eta_min=1e-5)), {}),
    "cosine, a warm-up too short": (lambda o: by_step(lrs.CosineAnnealingLR(o, 950)), {}),
    "cosine, 200,000 steps": (lambda o: by_step(lrs.CosineAnnealingLR(o, 200_000)), {"batches": 20_000}),
    "cosine, accumulated": (lambda o: by_step(lrs.CosineAnnealingLR(o, 250)), {"accumulate_grad_batches": 4}),
    "cosine, every tenth step": (lambda o: by_step(lrs.CosineAnnealingLR(o, 100), frequency=10), {}),
    "cosine, two groups": (lambda o: by_step(lrs.CosineAnnealingLR(o, 1000)), {"groups": 2}),
    "cosine, max_steps": (lambda o: by_step(lrs.CosineAnnealingLR(o, 550)), {"max_epochs": -1, "max_steps": 550}),
    "linear": (lambda o: lrs.LinearLR(o, 1.0, 0.0, total_iters=10), {}),
    "linear, two epochs": (lambda o: lrs.LinearLR(o, 1.0, 0.0, total_iters=2), {"max_epochs": 2}),
    "linear by steps": (lambda o: by_step(lrs.LinearLR(o, 1.0, 0.0, total_iters=1000)), {}),
    "square": (lambda o: lrs.PolynomialLR(o, 100, 2), {"max_epochs": 100}),
    "cubic": (lambda o: by_step(lrs.PolynomialLR(o, 1000, 3)), {}),
    "one cycle": (lambda o: by_step(lrs.OneCycleLR(o, 0.01, total_steps=1000)), {}),
    "one cycle by epochs": (lambda o: lrs.OneCycleLR(o, 0.01, total_steps=30), {"max_epochs": 30}),
    "one cycle, three phases": (lambda o: by_step(lrs.OneCycleLR(o, 0.01, total_steps=1000, three_phase=True)), {}),
    "one cycle, accumulated": (
        lambda o: by_step(lrs.OneCycleLR(o, 0.01, total_steps=340)),
        {"accumulate_grad_batches": 3},
    ),
    "ImageNet": (lambda o: lrs.StepLR(o, 30), {"max_epochs": 90}),
    "ImageNet, a long trial": (lambda o: lrs.StepLR(o, 30), {"max_epochs": 3}),
    "the torch tutorial": (lambda o: lrs.StepLR(o, 7), {"max_epochs": 25}),
    "one tenth, three times": (lambda o: lrs.MultiStepLR(o, [30, 60, 80]), {"max_epochs": 100}),
    "one fifth, three times": (lambda o: lrs.MultiStepLR(o, [60, 120, 160], 0.2), {"max_epochs": 200}),
    "milestones that are steps, too": (lambda o: lrs.MultiStepLR(o, [100, 200]), {"max_epochs": 3, "batches": 74}),
    "exponential": (lambda o: lrs.ExponentialLR(o, 0.95), {"max_epochs": 30}),
    "exponential to 0.0001": (lambda o: lrs.ExponentialLR(o, 1e-4 ** (1 / 100)), {"max_epochs": 100}),
    "exponential, a trial": (lambda o: lrs.ExponentialLR(o, 0.99), {"max_epochs": 5, "batches": 140}),
    "exponential by steps": (lambda o: by_step(lrs.ExponentialLR(o, 0.999)), {"max_epochs": 5}),
    "exponential, one epoch": (lambda o: lrs.ExponentialLR(o, 0.9), {"max_epochs": 1}),
    "multiplied": (lambda o: lrs.MultiplicativeLR(o, lambda _: 0.95), {"max_epochs": 40}),
    "inverse time": (lambda o: lrs.LambdaLR(o, lambda epoch: 1 / (1 + epoch)), {"max_epochs": 50}),
    "inverse square root": (lambda o: by_step(lrs.LambdaLR(o, lambda step: (1 + step) ** -0.5)), {}),
    "restarts": (lambda o: lrs.CosineAnnealingWarmRestarts(o, 10), {"max_epochs": 100}),
    "longer restarts": (lambda o: by_step(lrs.CosineAnnealingWarmRestarts(o, 100, 2)), {"max_epochs": 7}),
    "restarts by hand": (lambda o: lrs.LambdaLR(o, lambda e: 1 + math.cos(math.pi * (e % 10) / 10)), {"batches": 99}),
    "cycles": (lambda o: by_step(lrs.CyclicLR(o, 1e-5, 1e-3, step_size_up=200, cycle_momentum=False)), {}),
    "warm-up, then linear": (lambda o: by_step(lrs.LambdaLR(o, linear(100, 1000))), {}),
    "warm-up, then cosine": (lambda o: by_step(lrs.LambdaLR(o, cosine(2000, 10**5))), {"batches": 10_000}),
    "warm-up from 0 by epochs": (lambda o: lrs.LambdaLR(o, cosine(5, 90)), {"max_epochs": 90}),
    "warm-up, then constant": (lambda o: by_step(lrs.LambdaLR(o, lambda step: min(1.0, step / 100))), {}),
    "warm-up in a sequence": (lambda o: warm(o, 5, lrs.CosineAnnealingLR(o, 85)), {"max_epochs": 90}),
    "the same, 100,000 steps": (
        lambda o: by_step(warm(o, 1000, lrs.CosineAnnealingLR(o, 99_000))),
        {"batches": 10_000},
    ),
    "warm-up, stable, decay": (
        lambda o: by_step(lrs.LambdaLR(o, lambda step: min(1, step / 50, max(0, 10 - step / 100)))),
        {},
    ),
    "the transformer's": (
        lambda o: by_step(lrs.LambdaLR(o, lambda step: min((step + 1) ** -0.5, (step + 1) * 4000**-1.5))),
        {"batches": 10_000},
    ),
    "CycleGAN": (lambda o: lrs.LambdaLR(o, lambda epoch: 1 - max(0, epoch - 100) / 101), {"max_epochs": 200}),
    "groups in turn": (
        lambda o: lrs.LambdaLR(o, [lambda epoch: float(epoch >= 3), lambda epoch: float(epoch < 5)]),
        {"groups": 2},
    ),
    "chained": (
        lambda o: lrs.ChainedScheduler([lrs.LinearLR(o, 0.1, total_iters=5), lrs.ExponentialLR(o, 0.95)], o),
        {"max_epochs": 40},
    ),
    "by steps and by epochs": (lambda o: [by_step(lrs.LinearLR(o, 0.01, total_iters=50)), lrs.StepLR(o, 4, 0.5)], {}),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_sensible_schedule_passes(fit, name):
    schedule, settings = HEALTHY[name]
    shape = {key: settings[key] for key in ("batches", "groups") if key in settings}
    settings = {key: value for key, value in settings.items() if key not in shape}
    findings = judged(fit, Planned(schedule, **shape), **settings)
    assert [f.status for f in findings] == [Status.PASSED], findings


def test_no_scheduler(fit):
    (finding,) = judged(fit, Planned(lambda _: []))
    assert finding.status == "passed"
    assert finding.evidence == {"rate": 1e-3}


def test_a_short_trial_of_a_long_schedule_is_advice_at_most(fit):
    step = judged(fit, Planned(lambda o: lrs.StepLR(o, 30)))
    cosine = judged(fit, Planned(lambda o: lrs.CosineAnnealingLR(o, 90)), max_epochs=3)
    assert names(step + cosine, Status.ADVICE) == ["never_changes", "length_mismatch"]


@pytest.mark.parametrize("settings", [{"limit_train_batches": 4}, {"overfit_batches": 1}, {"limit_train_batches": 0.5}])
def test_trials_are_not_called_short(fit, settings):
    schedules = [
        lambda o: lrs.StepLR(o, 30),
        lambda o: lrs.CosineAnnealingLR(o, 90),
        lambda o: by_step(lrs.LambdaLR(o, linear(500, 10_000))),
    ]
    for schedule in schedules:
        assert names(judged(fit, Planned(schedule), **settings)) == ["passed"]


def test_fast_dev_run_is_skipped(fit):
    assert names(judged(fit, Healthy(), fast_dev_run=True)) == ["skipped"]


def test_what_may_end_earlier_is_advice(fit):
    class Stopping(Planned):
        def on_train_start(self):
            self.trainer.callback_metrics["x"] = torch.tensor(0.0)

    schedules = [lambda o: lrs.ExponentialLR(o, 0.4), lambda o: lrs.CosineAnnealingLR(o, 5)]
    for schedule, code in zip(schedules, ["practically_zero", "length_mismatch"], strict=True):
        found = judged(fit, Stopping(schedule), [EarlyStopping("x")], max_epochs=100)
        assert names(found, Status.ADVICE) == [code]


@pytest.mark.parametrize("schedule", [lambda o: lrs.StepLR(o, 30), lambda o: by_step(lrs.ExponentialLR(o, 0.9))])
def test_an_end_that_nobody_knows_is_skipped(fit, schedule):
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(torch.ones(4, 32))

    module = Planned(schedule)
    module.train_dataloader = lambda: DataLoader(Endless())
    assert names(judged(fit, module, max_epochs=2)) == ["skipped"]
    assert names(judged(fit, Planned(schedule), max_epochs=-1)) == ["skipped"]


def test_an_iterable_with_max_steps_has_an_end(fit):
    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield torch.ones(32)

    module = Planned(lambda o: by_step(lrs.CosineAnnealingLR(o, 300)))
    module.train_dataloader = lambda: DataLoader(Endless())
    module.on_train_batch_start = lambda *_: None
    assert names(judged(fit, module, max_epochs=-1, max_steps=300)) == ["passed"]


def test_what_can_not_be_stepped_is_skipped(fit):
    class Timm:
        """Takes the epoch, as those of timm do."""

        def __init__(self, optimizer):
            self.optimizer = optimizer

        def step(self, epoch):
            pass

        def state_dict(self):
            return {}

        load_state_dict = state_dict

    class OfTimm(Planned):
        def lr_scheduler_step(self, scheduler, metric):
            scheduler.step(self.current_epoch)

    (finding,) = judged(fit, OfTimm(Timm))
    assert (finding.status, finding.message) == ("skipped", "Timm 0: lr_scheduler_step is overridden")
    (finding,) = judged(fit, Planned(lambda o: by_step(lrs.MultiplicativeLR(o, lambda _: 1.0)), batches=2000))
    assert finding.message == "MultiplicativeLR 0: its first 10000 steps do not reach the end of the run"


def test_schedules_that_are_methods_of_the_module(fit):
    class Own(Planned):
        def factor(self, step):
            return 1 - step / self.trainer.estimated_stepping_batches

    module = Own(lambda o: by_step(lrs.LambdaLR(o, module.factor)))
    assert names(judged(fit, module)) == ["passed"]


def test_several_optimisers_by_hand(fit):
    class Gan(ManualOptimBoringModel):
        def configure_optimizers(self):
            pairs = [super(Gan, self).configure_optimizers() for _ in range(2)]
            return [o for (o,), _ in pairs], [s for _, (s,) in pairs]

        def training_step(self, batch, batch_idx):
            generator, discriminator = self.optimizers()
            for optimizer in (generator, discriminator):
                optimizer.zero_grad()
                self.manual_backward(self.step(batch))
                optimizer.step()

        def on_train_epoch_end(self):
            for scheduler in self.lr_schedulers():
                scheduler.step()

    findings = judged(fit, Gan(), max_epochs=3)
    assert [(f.status, f.subject) for f in findings] == [("passed", "StepLR 0"), ("passed", "StepLR 1")]
    assert findings[0].evidence == pytest.approx({"first": 0.1, "last": 1e-4})


def test_stepped_by_hand_in_the_second_half_only(fit):
    class Late(ManualOptimBoringModel):
        def on_train_epoch_end(self):
            if self.current_epoch + 1 >= 4:
                self.lr_schedulers().step()

    assert names(judged(fit, Late(), max_epochs=8)) == ["passed"]


class EachStep(ManualOptimBoringModel):
    """Steps its scheduler after each batch: 160 times."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [self.schedule(optimizer)]

    def on_train_batch_end(self, *_):
        self.lr_schedulers().step()

    def train_dataloader(self):
        return Batches(16)


TO_THE_END = {
    "a cosine": lambda o: lrs.CosineAnnealingLR(o, 160),
    "a cosine that is restarted": lambda o: lrs.CosineAnnealingWarmRestarts(o, 20),
    "a cosine to and fro": lambda o: lrs.CosineAnnealingLR(o, 16),
    "a fast decay at the end": lambda o: lrs.LambdaLR(o, lambda n: 1.0 if n < 130 else 1e-5),
    "an exponential decay": lambda o: lrs.ExponentialLR(o, 1e-4 ** (1 / 160)),
    "a warm-up from nothing": lambda o: lrs.LambdaLR(o, lambda n: 0.0 if n < 20 else 1.0),
}


@pytest.mark.parametrize("name", TO_THE_END)
def test_rates_that_fall_by_hand_to_the_end(fit, name):
    assert names(judged(fit, EachStep(TO_THE_END[name]))) == ["passed"]


@pytest.mark.parametrize(
    "schedule",
    [lambda o: lrs.StepLR(o, 3, 0.5), lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.8)],
)
def test_a_rate_that_is_gone_by_hand(fit, schedule):
    (finding,) = judged(fit, EachStep(schedule))
    assert (finding.status, finding.code) == ("warning", "LRScheduleCheck/practically_zero")
    assert finding.evidence["step"] < 0.75 * 160


class ByGroup(BoringModel):
    """The module sets the rates of two parameter groups before each of 160 steps.

    Args:
        rates: From the step, and the rate that the second group has, to rates of both; None lets the first be.
        schedule: From optimiser to scheduler, which Lightning steps after each batch; None for none.

    """

    def __init__(self, rates, schedule=None, first=0.1):
        super().__init__()
        self.rates, self.schedule, self.first = rates, schedule, first

    def configure_optimizers(self):
        (weight, bias), both = self.parameters(), {"lr": 0.1}
        optimizer = torch.optim.SGD([{"params": [weight], **both}, {"params": [bias], "lr": self.first}])
        if self.schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"}}

    def on_train_batch_start(self, batch, batch_idx):
        groups = self.optimizers().param_groups
        for group, rate in zip(groups, self.rates(self.global_step, groups[1]["lr"]), strict=True):
            group["lr"] = group["lr"] if rate is None else rate

    def train_dataloader(self):
        return Batches(16)


def falling(share):
    return 0.05 * (1 + math.cos(math.pi * min(1.0, share)))


ON_PURPOSE = {
    "one frozen from the start": ByGroup(lambda n, rate: (falling(n / 160), 0.0), first=0.0),
    "one frozen after a while": ByGroup(lambda n, rate: (0.1, 0.1 if n < 40 else 0.0)),
    "one frozen gradually": ByGroup(lambda n, rate: (falling(n / 160), falling(n / 60))),
    "one that is tiny after a while": ByGroup(lambda n, rate: (0.1, 0.1 if n < 40 else 1e-8)),
    "one that was always tiny": ByGroup(lambda n, rate: (0.1, 1e-8), first=1e-8),
    "a factor, once": ByGroup(lambda n, rate: (0.1, rate if n else 1e-5)),
    "a decay to the end": ByGroup(lambda n, rate: (0.1 * 1e-4 ** (n / 160), 0.1 * 1e-4 ** (n / 160))),
    "a warm-up of each": ByGroup(lambda n, rate: (0.1 * min(1, n / 10), 0.1 * min(1, (n + 1) / 50) ** 4)),
    "turns": ByGroup(lambda n, rate: (0.1 * (n // 16 % 2), 0.1 - 0.1 * (n // 16 % 2))),
    "a schedule alone": ByGroup(lambda n, rate: (None, None), lambda o: lrs.CosineAnnealingLR(o, 160)),
    "a schedule of each": ByGroup(
        lambda n, rate: (None, None), lambda o: lrs.LambdaLR(o, [lambda n: 1.0, lambda n: 0.8**n])
    ),
    "a factor on a schedule": ByGroup(
        lambda n, rate: (None, 1e-4 * rate), lambda o: lrs.LambdaLR(o, lambda n: falling(n / 160))
    ),
    "a schedule of its own": ByGroup(lambda n, rate: (0.1, falling(n / 160)), lambda o: lrs.StepLR(o, 10**6)),
}


@pytest.mark.parametrize("name", ON_PURPOSE)
def test_rates_of_groups_that_are_set_on_purpose(fit, name):
    found = judged(fit, ON_PURPOSE[name])
    assert not [finding for finding in found if finding.is_alarm]


@pytest.mark.parametrize(
    ("module", "groups"),
    [
        (ByGroup(lambda n, rate: (None, 0.8 * rate)), 1),
        (ByGroup(lambda n, rate: (None, 0.01 * rate)), 1),  # to zero by underflow
        (ByGroup(lambda n, rate: (0.7 * rate, 0.8 * rate)), 2),
        (ByGroup(lambda n, rate: (None, 0.8 * rate), lambda o: lrs.CosineAnnealingLR(o, 160)), 1),
    ],
    ids=["one", "fast", "both", "on a schedule"],
)
def test_rates_of_groups_that_a_factor_brings_to_nothing(fit, module, groups):
    (finding,) = [finding for finding in judged(fit, module) if finding.is_alarm]
    assert (finding.status, finding.code) == ("warning", "LRScheduleCheck/practically_zero")
    assert finding.subject == "SGD 0"
    assert finding.evidence["groups"] == groups
    assert finding.evidence["step"] < 0.75 * 160


def test_interrupted_in_the_first_epoch_nobody_should_have_stepped(fit):
    class Stops(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 5:
                raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        judged(fit, ManualOptimBoringModel(), [check := LRScheduleCheck(), Stops()])
    assert names(check.findings) == ["passed"]


def test_a_plateau_that_does_its_work(fit):
    class Plateau(Scheduled):
        def schedule(self, optimizer):
            return {"scheduler": lrs.ReduceLROnPlateau(optimizer, patience=0), "monitor": "val_loss"}

    assert names(judged(fit, Plateau(), limit_val_batches=1, max_epochs=4)) == ["passed"]


def test_averaged_weights_replace_the_scheduler(fit):
    module = Healthy()
    found = judged(fit, module, [StochasticWeightAveraging(1e-2, swa_epoch_start=2)], max_epochs=8)
    assert names(found) == ["passed"]


def test_a_run_that_is_resumed(fit, tmp_path):
    class Cosine(Scheduled):
        def schedule(self, optimizer):
            return by_step(lrs.CosineAnnealingLR(optimizer, 64))

    fit(Cosine(), max_epochs=6).save_checkpoint(tmp_path / "last.ckpt")
    check = LRScheduleCheck()
    trainer = fit(Cosine(), [check], max_epochs=0)
    trainer.fit_loop.max_epochs = 8
    trainer.fit(Cosine(), ckpt_path=tmp_path / "last.ckpt")
    assert names(check.findings) == ["passed"]
    trainer.fit_loop.max_epochs = 16
    trainer.fit(Cosine(), ckpt_path=tmp_path / "last.ckpt")
    assert names(check.findings) == ["length_mismatch"], "its length comes with the checkpoint"


# -- patients


@pytest.mark.parametrize("patient", Scheduled.__subclasses__(), ids=lambda p: p.__name__)
def test_patients(fit, patient):
    findings = judged(fit, patient(), max_epochs=2, limit_val_batches=1.0)
    assert [f.code for f in findings if f.is_alarm] == [patient.code], findings
    assert all(f.fix for f in findings if f.is_alarm)


WRONG = {  # the interval, at any length
    "linear": lambda o, n: lrs.LambdaLR(o, linear(max(1, n // 20), n)),
    "a short warm-up": lambda o, n: lrs.LambdaLR(o, linear(3, n)),
    "cosine": lrs.CosineAnnealingLR,
    "one cycle": lambda o, n: lrs.OneCycleLR(o, 0.01, total_steps=n),
    "sequence": lambda o, n: warm(o, n // 10, lrs.CosineAnnealingLR(o, n - n // 10)),
    "square": lambda o, n: lrs.PolynomialLR(o, n, 2),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize(("epochs", "batches"), [(1, 400), (10, 30), (50, 20), (20, 5000)])
def test_made_for_steps_and_stepped_by_epochs(fit, name, epochs, batches):
    module = Planned(lambda o: WRONG[name](o, epochs * batches), batches)
    (finding,) = judged(fit, module, max_epochs=epochs)
    assert (finding.status, finding.code) == ("warning", "LRScheduleCheck/wrong_interval")
    assert '"interval": "step"' in finding.fix
    assert finding.evidence["would_end_at"] < 0.1


def test_made_for_epochs_and_stepped_by_steps(fit):
    found = judged(fit, Planned(lambda o: by_step(lrs.CosineAnnealingLR(o, 10))))
    assert names(found, Status.WARNING) == ["wrong_interval"]
    for schedule in (lambda o: lrs.LinearLR(o, 1.0, 0.0, 10), lambda o: lrs.ExponentialLR(o, 0.8)):
        (finding,) = judged(fit, Planned(lambda o, s=schedule: by_step(s(o))))
        assert finding.code == "LRScheduleCheck/practically_zero"
        assert '"interval": "epoch"' in finding.fix


@pytest.mark.parametrize(("epochs", "batches"), [(10, 100), (10, 10_000)])
def test_the_step_at_which_the_run_will_stop(fit, epochs, batches):
    length = int(0.7 * epochs * batches) + 1
    module = Planned(lambda o: by_step(lrs.OneCycleLR(o, 0.01, total_steps=length)), batches)
    (finding,) = judged(fit, module, max_epochs=epochs)
    assert (finding.status, finding.code) == ("failed", "LRScheduleCheck/length_mismatch")
    assert finding.evidence["fails"] == length + 1


def test_it_does_stop_there(fit):
    class Short(Scheduled):
        def schedule(self, optimizer):
            return by_step(lrs.OneCycleLR(optimizer, 0.01, total_steps=10))

    check = LRScheduleCheck()
    with pytest.raises(ValueError, match="Tried to step 11 times"):
        fit(Short(), [check], max_epochs=2)
    assert check.findings[0].evidence["fails"] == 11


def test_one_epoch_of_steps_by_epochs_changes_nothing(fit):
    """Not too short to be told: its warm-up begins at 0, and so does the whole run."""
    found = judged(fit, Planned(lambda o: lrs.LambdaLR(o, linear(20, 400)), 400), max_epochs=1)
    assert names(found, Status.WARNING) == ["wrong_interval"]


class WithLambda(Healthy):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [lrs.LambdaLR(optimizer, lambda epoch: 0.9**epoch)]


def test_findings_about_a_lambda_can_be_pickled(fit):
    check = LRScheduleCheck()
    fit(WithLambda(), [check])
    assert pickle.loads(pickle.dumps(check)).findings == check.findings  # noqa: S301


# -- decisions


def path(rate, steps=100):
    return Path.of(range(steps + 26), [[rate(step)] for step in range(steps + 26)], steps)


@pytest.mark.parametrize(
    ("by", "other", "mended"),
    [
        ("epoch", path(lambda s: min(1.0, s / 20)), True),
        ("epoch", path(lambda s: s / 1000), False),
        ("epoch", None, False),
        ("step", path(lambda s: min(1.0, s / 20)), False),
    ],
    ids=["by steps it is over", "by steps it isn't either", "nobody knows", "by steps as it is"],
)
def test_a_warm_up_that_is_over_by_steps_has_the_wrong_interval(by, other, mended):
    verdict = judge(Plan(path(lambda s: (s + 1) / 1000), other, farther=path(lambda s: s / 100), by=by, count=7))
    assert verdict.code == "warmup_longer_than_run"
    assert ('"interval": "step"' in verdict.fix) is mended


def test_it_is_not_practically_zero_from_three_quarters_on():
    assert judge(Plan(path(lambda s: 10 ** (-4 * s / 100)))).code == "passed"
    assert judge(Plan(path(lambda s: 10 ** (-4.2 * s / 100)))).code == "practically_zero"
    assert judge(Plan(path(lambda s: 0.0 if s < 20 else 1.0))).code == "passed", "a warm-up"
    assert judge(Plan(path(lambda s: float(s % 50 == 0)))).code == "passed", "it comes back"


def test_a_factor_that_is_the_rate_itself(fit):
    def rate_itself(optimizer):
        return lrs.LambdaLR(optimizer, lambda epoch: 1e-3 * 0.9**epoch)

    def of_one(optimizer):
        optimizer.param_groups[0]["lr"] = 1.0
        return rate_itself(optimizer)

    (finding,) = judged(fit, Planned(rate_itself))
    assert (finding.status, finding.code) == (Status.WARNING, "LRScheduleCheck/practically_zero")
    assert "LambdaLR multiplies" in finding.message
    for schedule in (of_one, lambda o: lrs.LambdaLR(o, lambda epoch: 0.1), lambda o: lrs.ConstantLR(o, 0.01, 1000)):
        assert names(judged(fit, Planned(schedule))) == ["passed"]


def test_a_frozen_group_is_not_judged():
    rates = [[0.0, 1 - step / 100] for step in range(101)]
    assert judge(Plan(Path.of(range(101), rates, 100))).evidence["peak"] == 1


def test_a_length_that_differs_a_little_is_none():
    assert judge(Plan(path(lambda s: 1.0), count=110, length=100, restarts=True)).code == "passed"
    assert judge(Plan(path(lambda s: 1.0), count=111, length=100, restarts=True)).code == "length_mismatch"
    assert judge(Plan(path(lambda s: 1.0), count=91, length=100)).code == "passed"
    assert judge(Plan(path(lambda s: 1.0), count=89, length=100)).status == "advice"
    assert judge(Plan(path(lambda s: 1.0), count=89, length=100, limited=True)).code == "passed"


def test_twice():
    assert [stepped_twice(*counts) is None for counts in [(6, 3), (7, 4), (16, 8), (15, 8), (800, 100)]] == [
        True, True, False, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["val_loss", "loss", "valLoss", "val/MSE", "test_error", "mae_epoch", "perplexity", "WER", "fid", "val_loss_2"],
)
def test_lower_is_better(name):
    assert plateau_mode("min", name) is None
    assert plateau_mode("max", name).code == "plateau_mode"


@pytest.mark.parametrize(
    "name",
    ["val_acc", "accuracy", "MulticlassAccuracy", "val/AUROC", "f1", "val_f1_score", "map50", "mAP", "R2"],
)
def test_higher_is_better(name):
    assert plateau_mode("max", name) is None
    assert plateau_mode("min", name).code == "plateau_mode"


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "name",
    [
        "neg_mse",
        "dice_loss",
        "elbo",
        "lossless",
        "accumulated",
        "scores_loss",
        "heatmap",
        "1-acc",
        "minus_f1",
        "brier_score",
    ],
)
def test_a_name_in_doubt_tells_nothing(name, mode):
    assert plateau_mode(mode, name) is None


def test_a_cut_is_judged_by_its_threshold():
    assert cut_while_improving("max", 0.9, best=0.8, threshold=0.5).evidence["value"] == 0.9
    assert cut_while_improving("max", 0.7, best=0.8, threshold=0.5) is None
    assert cut_while_improving("min", 0.995, best=1.0, threshold=0.5) is None
    assert cut_while_improving("min", 1.0, best=math.inf, threshold=0.5) is None


# -- what the run will be


class Looks(Callback):
    """Asks the run about its schedules before the first step."""

    def __init__(self, **arguments):
        self.arguments = arguments

    def on_train_batch_start(self, trainer, *_):
        self.schedules = self.schedules if hasattr(self, "schedules") else Run(trainer).schedules(**self.arguments)


def foreseen(fit, module, *, reach=1.0, interval=None, **settings):
    looks = Looks(reach=reach, interval=interval)
    fit(module, [looks], **{"limit_val_batches": 0, "logger": False, "max_epochs": 10, **settings})
    return looks.schedules[0]


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: lrs.CosineAnnealingLR(o, 2900),
        lambda o: lrs.LambdaLR(o, cosine(300, 3000)),
        lambda o: lrs.OneCycleLR(o, 0.01, total_steps=3000),
        lambda o: lrs.CosineAnnealingWarmRestarts(o, 700),
        lambda o: warm(o, 500, lrs.CosineAnnealingLR(o, 2500)),
        lambda o: lrs.MultiplicativeLR(o, lambda _: 0.999),
    ],
)
def test_leaps_arrive_where_steps_do(fit, schedule):
    found = foreseen(fit, Planned(lambda o: by_step(schedule(o)), 300))
    optimizer = torch.optim.SGD([torch.ones(1)], lr=1e-3)
    scheduler = schedule(optimizer)
    rates = []
    for _ in range(3001):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) <= 3000:
            scheduler.step()
    assert found.complete
    assert found.steps[-1] == 3000
    assert [rate for (rate,) in found.rates] == pytest.approx(
        [rates[step] for step in found.steps], rel=1e-6, abs=1e-12
    )


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("config", [("step", 1), ("step", 2), ("step", 3), ("epoch", 1), ("epoch", 2)], ids=str)
def test_steps_are_those_of_lightning(fit, accumulate, config):
    class Counting(BoringModel):
        def configure_optimizers(self):
            self.at = []
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            interval, frequency = config
            scheduler = lrs.ExponentialLR(optimizer, 0.9)
            return [optimizer], [{"scheduler": scheduler, "interval": interval, "frequency": frequency}]

        def lr_scheduler_step(self, scheduler, metric):
            self.at.append(self.trainer.global_step)
            super().lr_scheduler_step(scheduler, metric)

    module = Counting()
    found = foreseen(fit, module, limit_train_batches=7, max_epochs=4, accumulate_grad_batches=accumulate)
    assert found.steps[1:] == module.at


def test_each_of_several_schedulers_is_stepped(fit):
    found = foreseen(fit, Planned(lambda o: [lrs.ExponentialLR(o, 0.5), by_step(lrs.ExponentialLR(o, 0.9))], 3))
    assert found.rates[-1] == pytest.approx([1e-3 * 0.5**10 * 0.9**30])


def test_another_interval_and_beyond_the_end(fit):
    module = Planned(lambda o: lrs.ExponentialLR(o, 0.9), 20)
    assert len(foreseen(fit, module).steps) == 11
    assert len(foreseen(fit, module, interval="step").steps) == 201
    assert foreseen(fit, module, reach=2).steps[-1] == 400


# -- the picture


def test_picture(fit, events, tmp_path):
    check = LRScheduleCheck()
    read = events(fit(Healthy(), [check]))
    (event,) = read.Images(check.tag("rate"))
    assert event.width / event.height == pytest.approx(16 / 9, rel=0.02)
    assert event.step == 0


def test_no_scheduler_no_picture(fit, events):
    check = LRScheduleCheck()
    module = BoringModel()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.1)
    assert not events(fit(module, [check], max_epochs=1)).Tags()["images"]


def test_the_end_is_marked_and_what_lies_behind_is_light():
    picture = rates_over_steps({"SGD": ([0, 50, 100, 150], [1.0, 0.1, 0.001, 0.0])}, end=100)
    behind, inside, end = picture.lines[-3:]
    assert (inside.colour, behind.colour) == (COLOURS[0], PALE[COLOURS[0]])
    assert inside.points[:, 0].max() == behind.points[0, 0] == end.points[0, 0], "all meet at the end"
    assert {"0", "0.5", "1", "end of the run"} <= set(picture.words)
    picture = rates_over_steps({"SGD": ([0, 50, 100], [1.0, 0.1, 0.001])}, end=100)
    assert {"0.001", "0.01", "0.1", "1"} <= set(picture.words), "logarithmic"
