"""What makes two runs differ: generators that are in order first."""

import itertools
import os
import random
import secrets
import threading
import time

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from numpy.random import default_rng
from patients import AugmentsWithoutSeed, DrawsFromOutside, Healthy, NoSeed, SeedsInTheStep, WorkersAlike
from torch.utils.data import DataLoader, Dataset, Subset

from lightning_recipe import SeedCheck, Status
from lightning_recipe.callbacks._seeds import seeds_all_alike
from lightning_recipe.trial.seeding import without_entropy

OWN = np.random.default_rng(0)


def found(fit, module, **settings):
    check = SeedCheck()
    fit(module, [check], logger=False, max_epochs=1, limit_train_batches=2, limit_val_batches=0, **settings)
    return [(f.status, f.code.partition("/")[2]) for f in check.findings]


PASSED = [(Status.PASSED, "passed")]


# -- legitimate


class Noisy(Healthy):
    def noise(self, x):
        return random.random() + np.random.rand() + torch.randn_like(x)  # noqa: NPY002 - global streams

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0] + self.noise(batch[0])), batch[1])


class GeneratorOfTheScript(Noisy):
    def noise(self, x):
        return torch.from_numpy(OWN.normal(size=x.shape)).float()


class OwnGenerator(Noisy):
    def __init__(self):
        super().__init__()
        self.rng, self.generator = random.Random(1), torch.Generator().manual_seed(1)

    def noise(self, x):
        return self.rng.random() + torch.randn(x.shape, generator=self.generator)


class Counts(Noisy):
    """The noise is scheduled by a counter of the module's own."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def noise(self, x):
        self.seen += 1
        return self.seen * torch.ones_like(x)


class Replay:
    """Keeps what it was given, and gives back what it has: no part of the module's state that torch knows."""

    def __init__(self):
        self.kept = []

    def __call__(self, x):
        self.kept.append(x.detach())
        return self.kept[len(self.kept) // 2] + 0.1 * len(self.kept)


class FromABuffer(Noisy):
    def __init__(self):
        super().__init__()
        self.replay = Replay()

    def noise(self, x):
        return self.replay(x)


class SeedsByNumber(Noisy):
    def noise(self, x):
        torch.manual_seed(self.global_step)
        return super().noise(x)


class PutsBack(Noisy):
    def noise(self, x):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return torch.randn_like(x)


class Exploded(Healthy):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * float("nan")


@pytest.mark.parametrize(
    "program",
    [Healthy, Noisy, GeneratorOfTheScript, OwnGenerator, Counts, FromABuffer, SeedsByNumber, PutsBack, Exploded],
)
def test_no_mistake(fit, program):
    assert found(fit, program()) == PASSED


def over_epochs(fit, module, **settings):
    check = SeedCheck()
    fit(
        module,
        [check],
        **{"logger": False, "max_epochs": 5, "limit_train_batches": 3, "limit_val_batches": 1} | settings,
    )
    return [(f.status, f.code.partition("/")[2]) for f in check.findings]


class SeedsInValidation(Noisy):
    """Each validation draws the same samples."""

    def on_validation_epoch_start(self):
        torch.manual_seed(3)


class PutsBackInValidation(Noisy):
    def on_validation_epoch_start(self):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            torch.rand(4)


class SeedsByEpoch(Noisy):
    def on_train_epoch_start(self):
        L.seed_everything(self.current_epoch, verbose=False)


class SeedsOnce(Noisy):
    def on_validation_epoch_start(self):
        if self.current_epoch == 1:
            torch.manual_seed(3)


class NobodyDraws(Healthy):
    """A validation with a seed hurts nobody where training draws nothing, and the order is that of the files."""

    def __init__(self):
        super().__init__()
        self.net[3] = torch.nn.Identity()  # no dropout

    def train_dataloader(self):
        return DataLoader(self.data(256, 1), 32)

    def on_validation_epoch_start(self):
        torch.manual_seed(3)


class OrderOfItsOwn(NobodyDraws):
    def __init__(self):
        super().__init__()
        self.order = torch.Generator()

    def train_dataloader(self):
        return DataLoader(self.data(256, 1), 32, shuffle=True, generator=self.order)


@pytest.mark.parametrize(
    "program", [Noisy, PutsBackInValidation, SeedsByEpoch, SeedsOnce, NobodyDraws, OrderOfItsOwn, SeedsByNumber]
)
def test_epochs_that_go_on(fit, program):
    assert over_epochs(fit, program()) == PASSED


def test_a_seed_of_torch_alone(fit):
    class Seeded(Healthy):
        def setup(self, stage):
            os.environ.pop("PL_GLOBAL_SEED", None)
            torch.manual_seed(2**31)

    assert found(fit, Seeded()) == PASSED


def test_a_resumed_run_needs_no_seed(fit, tmp_path):
    fit(Healthy(), logger=False, max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    check = SeedCheck()
    trainer = fit(Healthy(), logger=False, max_epochs=1)
    trainer.callbacks.append(check)
    os.environ.pop("PL_GLOBAL_SEED", None)
    torch.manual_seed(2**40)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(Healthy(), ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    assert [f.status for f in check.findings] == [Status.PASSED]


def by_number(worker):
    np.random.seed(worker)  # noqa: NPY002


def as_torch_says(worker):
    random.seed(torch.initial_seed() % 2**32)


def of_the_info(worker):
    np.random.seed(torch.utils.data.get_worker_info().seed % 2**32)  # noqa: NPY002


def one_thread(worker):
    torch.set_num_threads(1)


@pytest.mark.parametrize("init", [None, by_number, as_torch_says, of_the_info, one_thread, random.seed])
def test_workers_that_differ(init):
    assert not seeds_all_alike(init)


def test_a_single_worker_shares_nothing(fit):
    train = DataLoader(Healthy().data(64, 1), 32, num_workers=1, worker_init_fn=lambda _: random.seed(0))
    assert found(fit, Healthy(), train=train) == PASSED


class Draws(Dataset):
    """Noise from a generator of its own."""

    def __init__(self, rng=None):
        self.x, self.y = Healthy().data(64, 1).tensors
        self.rng = rng or np.random.default_rng(0)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index] + self.rng.random(), self.y[index]


class OfItsIndex(Draws):
    """Sets its generator by the index, each time."""

    def __getitem__(self, index):
        self.rng.seed(index)
        return super().__getitem__(index)


class OfItsWorker(Draws):
    """Makes another generator in each worker."""

    def __getitem__(self, index):
        if info := torch.utils.data.get_worker_info():
            self.rng = np.random.default_rng(info.seed)
        return super().__getitem__(index)


class Holds(Draws):
    """Has a generator, and draws from numpy's stream."""

    def __getitem__(self, index):
        return self.x[index] + np.random.rand(), self.y[index]  # noqa: NPY002 - which torch seeds


@pytest.mark.parametrize(
    "train",
    [
        lambda: DataLoader(OfItsIndex(random.Random(0)), 32, num_workers=2),
        lambda: DataLoader(OfItsWorker(), 32, num_workers=2),
        lambda: DataLoader(Holds(), 32, num_workers=2),
        lambda: DataLoader(Draws(), 32, num_workers=2, worker_init_fn=by_number),
        lambda: DataLoader(Draws(), 32, num_workers=1),
        lambda: DataLoader(Draws(), 32),
    ],
    ids=["by the index", "by the worker", "of numpy", "worker_init_fn", "one worker", "no worker"],
)
def test_generators_of_data_sets(fit, train):
    assert found(fit, Healthy(), train=train()) == PASSED


class Shared:
    """What all copies of a data set share."""

    rng, count, kept = np.random.default_rng(0), itertools.count(), {}
    own = random.Random(), np.random.default_rng()


class Drawn(Dataset):
    """Something is added to each example."""

    def __init__(self, draw):
        self.x, self.y = Healthy().data(64, 1).tensors
        self.draw = draw

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index] + self.draw(index), self.y[index]


GOVERNED = {
    "global streams": lambda i: random.random() + np.random.rand() + torch.rand(1),  # noqa: NPY002
    "global generator": lambda i: OWN.random(),
    "generators of a class": lambda i: Shared.rng.random() + Shared.own[0].random() + Shared.own[1].random(),
    "by the index": lambda i: np.random.default_rng((1, i)).random() + random.Random(i).random(),
    "by torch": lambda i: np.random.default_rng(torch.randint(2**31, ()).item()).random(),
    "torch's generator": lambda i: torch.rand(1, generator=torch.Generator()),
    "counter": lambda i: next(Shared.count) % 7,
    "counted seed": lambda i: np.random.default_rng(next(Shared.count)).random(),
    "cache": lambda i: Shared.kept.setdefault(i, torch.rand(1)),
    "clock": lambda i: time.perf_counter() % 1,
    "unused": lambda i: 0 * np.random.default_rng().random(),
}


@pytest.mark.parametrize("draw", GOVERNED.values(), ids=GOVERNED)
def test_what_seeds_reach(fit, draw):
    assert found(fit, Healthy(), train=DataLoader(Drawn(draw), 32, shuffle=True)) == PASSED


class SeededInItsWorker(Drawn):
    def __getitem__(self, index):
        info = torch.utils.data.get_worker_info()
        return self.x[index] + np.random.default_rng(info and info.seed).random(), self.y[index]


def test_a_seed_of_the_worker(fit):
    train = DataLoader(SeededInItsWorker(None), 32, num_workers=1)
    assert found(fit, Healthy(), train=train) == PASSED


def test_chance_of_other_threads_stays_what_it_is():
    drawn = []
    for _ in range(2):
        with without_entropy():
            thread = threading.Thread(target=lambda: drawn.append(os.urandom(8)))
            thread.start()
            thread.join()
    assert drawn[0] != drawn[1]
    assert random._urandom is os.urandom


# -- mistakes


UNGOVERNED = {
    "default_rng": lambda i: np.random.default_rng().random(),
    "by its own name": lambda i: default_rng().random(),
    "legacy": lambda i: np.random.RandomState().rand(),
    "sequence": lambda i: np.random.Generator(np.random.Philox(np.random.SeedSequence())).random(),
    "python": lambda i: random.Random().random(),
    "seeded with nothing": lambda i: np.random.seed() or np.random.rand(),  # noqa: NPY002
    "system": lambda i: secrets.randbelow(100) / 100,
    "few values": lambda i: random.SystemRandom().randrange(4),
}


@pytest.mark.parametrize("draw", UNGOVERNED.values(), ids=UNGOVERNED)
def test_what_no_seed_reaches(fit, draw, monkeypatch):
    train = DataLoader(Subset(Drawn(draw), range(50)), 32, shuffle=True)
    assert found(fit, Healthy(), train=train) == [(Status.WARNING, "unseeded")]
    monkeypatch.delenv("PL_GLOBAL_SEED")
    monkeypatch.setattr(L, "seed_everything", lambda *_, **__: torch.manual_seed(0))
    assert found(fit, Healthy(), train=train) == [(Status.ADVICE, "unseeded")]


def test_augmentation_without_a_seed(fit):
    assert found(fit, AugmentsWithoutSeed()) == [(Status.WARNING, "unseeded")]


def test_no_seed(fit):
    assert found(fit, NoSeed()) == [(Status.ADVICE, "no_seed")]


class OfTheSystem(Healthy):
    def loss(self, logits, y):
        return super().loss(logits * (1 + random.SystemRandom().random()), y)


def test_a_step_that_sets_the_seed(fit):
    assert found(fit, SeedsInTheStep()) == [(Status.WARNING, "seeded_in_step")]


class SeedsInEpochs(Noisy):
    def on_train_epoch_start(self):
        np.random.seed(1)  # noqa: NPY002 - the stream that it draws from


class SameOrder(NobodyDraws):
    """Nothing is drawn but the order of the examples."""

    def train_dataloader(self):
        return DataLoader(self.data(256, 1), 32, shuffle=True)

    def on_validation_end(self):
        torch.manual_seed(3)


@pytest.mark.parametrize(
    ("program", "settings"),
    [
        (SeedsInValidation, {}),
        (SeedsInValidation, {"check_val_every_n_epoch": 2, "max_epochs": 7}),
        (SeedsInValidation, {"check_val_every_n_epoch": None, "val_check_interval": 3}),
        (SeedsInValidation, {"accumulate_grad_batches": 2, "limit_train_batches": 6}),
        (SeedsInEpochs, {}),
        (SeedsInEpochs, {"limit_val_batches": 0}),
        (SameOrder, {}),
    ],
)
def test_streams_that_are_set_back_in_each_epoch(fit, program, settings):
    assert over_epochs(fit, program(), **settings) == [(Status.WARNING, "rewound")]


@pytest.mark.parametrize("program", [DrawsFromOutside, OfTheSystem])
def test_a_step_that_can_not_be_repeated(fit, program):
    check = SeedCheck()
    fit(program(), [check], logger=False, max_epochs=1, limit_train_batches=2)
    (finding,) = check.findings
    assert (finding.status, finding.code) == (Status.ADVICE, DrawsFromOutside.code)
    assert finding.evidence["difference"] > 1e-3
    assert finding.evidence["first"] != finding.evidence["second"]


class WithoutASeed(OwnGenerator):
    """Its generator is made anew in each run, whatever the seed."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng()


class NeverDrawnFrom(WithoutASeed):
    def noise(self, x):
        return torch.randn_like(x)


def test_generators_of_numpy_without_a_seed(fit):
    assert found(fit, NeverDrawnFrom()) == PASSED
    assert found(fit, WithoutASeed()) == [(Status.ADVICE, "own_generator")]
    for rng, said in (
        (np.random.default_rng(0), PASSED),
        (np.random.default_rng(), [(Status.ADVICE, "own_generator")]),
    ):
        assert found(fit, Healthy(), train=DataLoader(Draws(rng), 16)) == said


class SeededByTheClock(Noisy):
    """Within a second it draws the same."""

    def noise(self, x):
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(int(time.time() / 1e4)))


class TellsTheTime(Noisy):
    def noise(self, x):
        self.log("hours", time.time() / 3600)
        return torch.randn_like(x)


def test_a_step_that_is_seeded_by_the_clock(fit):
    assert found(fit, TellsTheTime()) == PASSED
    assert found(fit, SeededByTheClock()) == [(Status.ADVICE, "not_reproducible")]


def test_workers_that_draw_the_same(fit):
    assert found(fit, WorkersAlike()) == [(Status.ADVICE, "workers_alike")]


@pytest.mark.parametrize("rng", [np.random.default_rng(0), random.Random(0), np.random.RandomState(0)])
@pytest.mark.parametrize("part", [lambda data: data, lambda data: Subset(data, range(40))])
def test_a_generator_that_is_copied_to_workers(fit, rng, part):
    train = DataLoader(part(Draws(rng)), 16, num_workers=2)
    assert found(fit, Healthy(), train=train) == [(Status.ADVICE, "workers_alike")]
