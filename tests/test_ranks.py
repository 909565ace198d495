"""Several processes that train together judge all examples, not each its own, and agree."""

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from ends import quick
from lightning.pytorch.loggers import TensorBoardLogger
from patients import CLASSES, Healthy
from torch import distributed
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_recipe import Baselines, DataProfile, EvaluationCheck, FirstNonFinite, HardExamples, SplitCheck, ranks
from lightning_recipe.callbacks import evaluation_check, hard_examples
from lightning_recipe.callbacks._hard_examples import stacked
from lightning_recipe.figures.metrics import metric_over_steps
from lightning_recipe.finding import Finding, Status
from lightning_recipe.ledger import Ledger
from lightning_recipe.run import Run
from lightning_recipe.trial.isolation import isolated
from lightning_recipe.watch import Watch

pytestmark = pytest.mark.filterwarnings("ignore")
WIDE = 40
"""Features by which two examples are not equal by chance."""


class TellsAll(L.Callback):
    """Writes what a rank holds at the end of a fit, and what is left in the store."""

    def __init__(self, callbacks):
        self.callbacks = callbacks

    def on_train_start(self, trainer, pl_module):
        self.ranks = Watch.of(trainer).run.ranks if self.callbacks else ranks.Ranks()

    def on_fit_end(self, trainer, pl_module):
        distributed.barrier()  # the last to read clears away, and the store is that of rank zero
        store = distributed.distributed_c10d._get_default_store()
        with isolated():
            assert ranks.Ranks(99).gather("A", 0, "mine") == ["mine"], "others are out of sight"
        end = {
            "findings": [finding.to_dict() for callback in self.callbacks for finding in callback.findings],
            "left": [key for key in store.list_keys() if "lightning_recipe" in key],
            "silent": self.ranks.silent,
            "weights": [p.detach().tolist() for p in pl_module.parameters()],
            "random": [torch.rand(()).item(), torch.get_rng_state().sum().item()],
        }
        Path(trainer.default_root_dir, f"{trainer.global_rank}.json").write_text(json.dumps(end), encoding="utf-8")
        distributed.barrier()


@pytest.fixture
def on_two_ranks(fit, tmp_path):
    """Fit on two ranks, and give what each has at the end."""

    def run(module, callbacks=(), **settings):
        settings = {"strategy": "ddp_fork", "devices": 2, "logger": False, **settings}
        fit(module, [*callbacks, TellsAll(callbacks)], **settings)
        return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]

    return run


def agreed(ends):
    """The findings, which both ranks hold; nothing of ours is left in the store."""
    assert ends[0]["findings"] == ends[1]["findings"]
    assert ends[0]["left"] == ends[1]["left"] == []
    return [Finding.from_dict(values) for values in ends[0]["findings"]]


def alarms(findings):
    return [finding.code for finding in findings if finding.is_alarm]


class Wide(Healthy):
    """Examples that are not equal by chance, of a number that two ranks can't share evenly."""

    count = 131

    def __init__(self):
        super().__init__()
        self.net[0] = torch.nn.Linear(WIDE, 32, bias=False)

    def data(self, n, seed):
        rng = torch.Generator().manual_seed(seed)
        centres = torch.randn(CLASSES, WIDE, generator=torch.Generator().manual_seed(0))
        y = torch.arange(n) % CLASSES
        return TensorDataset(centres[y] + 0.7 * torch.randn(n, WIDE, generator=rng), y)

    def examples(self):
        return self.data(self.count, 1).tensors

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.examples()), 16, shuffle=True)


class InOrder(Wide):
    """Not shuffled: of classes that take turns, each rank is dealt its own two."""

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.examples()), 16)


class Stream(IterableDataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        return zip(self.x, self.y, strict=True)


class Divided(Wide):
    """Streams that are divided by hand: each rank has two of the classes."""

    count = 256

    def mine(self, x, y):
        own = (y % 2) == self.trainer.global_rank
        return Stream(x[own], y[own])

    def train_dataloader(self):
        return DataLoader(self.mine(*self.examples()), 16)

    def val_dataloader(self):
        return DataLoader(self.mine(*self.data(64, 2).tensors), 16)


class DividedByHand(Divided):
    """The same as sets that are drawn from at random."""

    def mine(self, x, y):
        own = (y % 2) == self.trainer.global_rank
        return TensorDataset(x[own], y[own])

    def train_dataloader(self):
        return DataLoader(self.mine(*self.examples()), 16, shuffle=True)


class Sick(Wide):
    """Twins whose halves are on different ranks, some with different labels; a class is missing."""

    count = 128

    def examples(self):
        x, y = super().examples()
        x[1:25:2], y[:25:2], y[1:25:2] = x[:24:2], 0, 0
        x[33:41:2], y[32:41:2], y[33:41:2] = x[32:40:2], 0, 2
        return x, y.where(y != 1, 3)

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.examples()), 16)

    def val_dataloader(self):
        """The highest loss, by far, has an odd index."""
        x, y = self.data(63, 2).tensors
        x[41] *= -1000
        return DataLoader(TensorDataset(x, y), 8)


class Uneven(Divided):
    """Without buffers, which DDP sends around in validation, too: ranks may have different numbers of steps."""

    def __init__(self):
        super().__init__()
        self.net[1] = torch.nn.Identity()


class OneHasNone(Uneven):
    """A rank whose stream of validation is empty."""

    def val_dataloader(self):
        loader = super().val_dataloader()
        return DataLoader(Stream([], []), 16) if self.trainer.global_rank else loader


class OneLeavesOut(Uneven):
    """A rank that computes no loss in the validation of the second epoch."""

    def validation_step(self, batch, batch_idx):
        if self.current_epoch != 1 or not self.trainer.global_rank:
            super().validation_step(batch, batch_idx)


class OneIsGivenNone(Uneven):
    """A rank that never validates, as Lightning allows if it is told so."""

    def __init__(self):
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def val_dataloader(self):
        x, y = self.data(64, 2).tensors
        return DataLoader(TensorDataset(x[:0], y[:0]) if self.trainer.global_rank else TensorDataset(x, y), 16)


class NumberedOtherwise(Wide):
    """Classes of validation, of which each rank alone has too few examples to judge, are other ones."""

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.examples()), 8, shuffle=True)

    def val_dataloader(self):
        x, y = self.data(32, 2).tensors
        return DataLoader(TensorDataset(x, (y + 1) % CLASSES), 8)


class Reports(Wide):
    """A mean over validation that all ranks take together, and one that each takes of its own examples."""

    def val_dataloader(self):
        return DataLoader(self.data(256, 2), 8)

    def validation_step(self, batch, batch_idx):
        first = batch[0][:, 0]
        self.log("val_first", first.mean(), sync_dist=True)
        self.log("val_own", first.mean())


class TrainedOnElsewhere(Divided):
    """Rank 1 trains on what rank 0 validates on."""

    def train_dataloader(self):
        x, y = self.examples()
        own, other = self.data(64, 2).tensors, self.trainer.global_rank
        x, y = x[other::2], y[other::2]
        if other:
            x[:32], y[:32] = own[0][::2], own[1][::2]
        return DataLoader(Stream(x, y), 16)

    def val_dataloader(self):
        x, y = self.data(64, 2).tensors
        return DataLoader(Stream(x[self.trainer.global_rank :: 2], y[self.trainer.global_rank :: 2]), 16)


class NotANumber(Wide):
    """An input of rank 1 only, late enough."""

    def on_before_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        if self.trainer.global_rank == 1 and self.trainer.training and self.trainer.global_step == 2:
            x = x.clone()
            x[0, 0] = torch.nan
        return x, y


# -- legitimate


@pytest.mark.parametrize("make", [Wide, InOrder, Divided, DividedByHand])
def test_examples_that_are_dealt_out_are_healthy(on_two_ranks, make):
    by_hand = {"use_distributed_sampler": not issubclass(make, Divided)}
    checks = [DataProfile(), SplitCheck(), HardExamples(keep_examples=False)]
    found = agreed(on_two_ranks(make(), checks, **by_hand))
    assert not [f.code for f in found if f.is_alarm or f.status is Status.ADVICE]
    profile = next(f for f in found if f.check == "DataProfile" and f.status is Status.PASSED)
    assert profile.evidence["classes"] == CLASSES
    assert profile.evidence["examples"] == make.count
    assert profile.evidence["duplicates"] == 0


def test_nothing_changes(on_two_ranks):
    bare = on_two_ranks(Wide(), max_epochs=1)
    full = on_two_ranks(Wide(), quick(), max_epochs=1)
    for without, with_all in zip(bare, full, strict=True):
        assert without["weights"] == with_all["weights"]
        assert without["random"] == with_all["random"]
    assert not alarms(agreed(full))


@pytest.fixture
def by_itself(on_two_ranks, monkeypatch):
    """What each rank comes to before findings are united, and nobody has waited in vain."""
    monkeypatch.setattr(Ledger, "unite", lambda *_: [])
    monkeypatch.setattr(ranks, "SECONDS", 20)

    def run(module, **settings):
        ends = on_two_ranks(module, [Baselines()], **settings)
        assert [(end["silent"], end["left"]) for end in ends] == [(False, [])] * 2
        return [[Finding.from_dict(values) for values in end["findings"]] for end in ends]

    return run


@pytest.mark.parametrize("make", [Wide, Divided])
def test_baselines_of_all_examples(by_itself, make):
    one, other = by_itself(make(), use_distributed_sampler=make is Wide, max_epochs=3)
    assert one == other
    assert [f.status for f in one] == [Status.PASSED]
    assert one[0].evidence["examples"] == 64
    assert one[0].evidence["constant_loss"] == pytest.approx(math.log(CLASSES), rel=0.05)
    assert "linear_model" in one[0].evidence


@pytest.mark.parametrize(("make", "examples"), [(OneHasNone, 32), (OneLeavesOut, 64)])
def test_a_rank_that_saw_nothing_answers(by_itself, make, examples):
    one, other = by_itself(make(), use_distributed_sampler=False, max_epochs=3)
    assert one == other
    assert [f.evidence["examples"] for f in one] == [examples]


def test_nobody_waits_for_a_rank_that_never_validates(by_itself):
    (one,), (other,) = by_itself(OneIsGivenNone(), use_distributed_sampler=False)
    assert one.evidence["examples"] == 64
    assert other.status is Status.SKIPPED


def test_an_error_is_of_the_examples_that_the_number_is_of(on_two_ranks, tmp_path, monkeypatch):
    def drawn(name, points):
        (tmp_path / f"{name}.json").write_text(json.dumps(points))
        return metric_over_steps(name, points)

    monkeypatch.setattr(evaluation_check, "metric_over_steps", drawn)
    agreed(on_two_ranks(Reports(), [EvaluationCheck()], logger=TensorBoardLogger(tmp_path)))
    (_, value, error), (_, _, own) = (
        json.loads((tmp_path / f"val_{name}.json").read_text())[-1] for name in ("first", "own")
    )
    first = Wide().data(256, 2).tensors[0][:, 0]
    assert value == pytest.approx(float(first.mean()), rel=1e-4)
    batches = torch.cat([first[rank::2].reshape(-1, 8)[:-1].mean(1) for rank in range(2)])  # the last ones are left out
    assert error == pytest.approx(float(batches.std() / len(batches) ** 0.5), rel=0.02)
    assert own > 1.2 * error


# -- patients


def test_worse_than_a_constant_on_all_examples(by_itself):
    one, other = by_itself(NumberedOtherwise(), max_epochs=7)
    assert one == other
    assert alarms(one) == ["Baselines/worse_than_constant"]
    assert one[0].evidence["examples"] == 32


def test_what_is_wrong_with_all_examples_together(on_two_ranks, tmp_path, monkeypatch):
    def drawn(examples):
        (tmp_path / "drawn.json").write_text(json.dumps([one.index for one in examples]))
        return stacked(examples)

    monkeypatch.setattr(hard_examples, "stacked", drawn)
    logger = TensorBoardLogger(tmp_path)
    found = {f.code: f for f in agreed(on_two_ranks(Sick(), [DataProfile(), HardExamples()], logger=logger))}
    assert found["DataProfile/duplicates"].evidence["share"] == pytest.approx(12 / 128)
    assert found["DataProfile/same_input_other_label"].evidence["contradicting"] == 8
    assert found["DataProfile/label_never_occurs"].evidence == {"missing": 1, "classes": CLASSES, "examples": 128}
    hardest = found["HardExamples/passed"].evidence
    assert hardest["index_1"] == 41
    assert hardest["examples"] == 64, "one comes twice, so that both ranks have as many"
    shown = json.loads((tmp_path / "drawn.json").read_text())
    assert {index % 2 for index in shown} == {0, 1}, "the last picture is of the worst of both ranks"


def test_validation_that_another_rank_trains_on(on_two_ranks):
    (both,) = agreed(on_two_ranks(TrainedOnElsewhere(), [SplitCheck()]))
    assert both.code == "SplitCheck/examples_in_both"
    assert both.is_alarm
    assert (both.evidence["common"], both.evidence["looked_at"]) == (32, 64)


def test_what_one_rank_sees_is_told_by_all(on_two_ranks, tmp_path):
    found = agreed(on_two_ranks(NotANumber(), [FirstNonFinite()], max_epochs=1))
    assert alarms(found) == ["FirstNonFinite/origin_unknown", "FirstNonFinite/inputs"]
    assert [f.message.endswith(" (seen on rank 1)") for f in found] == [False, True]
    assert "(seen on rank 1)" in (tmp_path / "recipe.json").read_text()


# -- who does not answer


def test_a_rank_that_does_not_answer_costs_little(on_two_ranks, monkeypatch):
    gather = ranks.Ranks.gather

    def deaf(self, name, *args, **settings):
        group = self._group()
        return [args[1]] if group and group[1] else gather(self, name, *args, **settings)

    monkeypatch.setattr(ranks, "SECONDS", 0.5)
    monkeypatch.setattr(ranks.Ranks, "gather", deaf)
    ends = on_two_ranks(Wide(), [DataProfile(), HardExamples()])
    assert [end["findings"][0]["evidence"]["examples"] for end in ends] == [66, 65]


class At(ranks.Ranks):
    """One of several in a process, one a thread."""

    def __init__(self, fit, store, rank, count=2):
        super().__init__(fit)
        self.group = store, rank, count

    def _group(self):
        return None if self.silent else self.group


def together(*jobs):
    """What each gives, at the same time."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [job.result(timeout=20) for job in [pool.submit(job) for job in jobs]]


def test_all_get_what_all_have(monkeypatch):
    monkeypatch.setattr(ranks, "CHUNK", 10)
    store, large = distributed.HashStore(), np.arange(100)
    each = [At(1, store, rank, 3) for rank in range(3)]
    for one in each:
        one.join("A", "B")
    for name in "AAB":
        found = together(*(partial(one.gather, name, 4, (rank, large * rank)) for rank, one in enumerate(each)))
        assert [[rank for rank, _ in of_rank] for of_rank in found] == [[0, 1, 2]] * 3
        assert all((values == large * rank).all() for of_rank in found for rank, values in of_rank)
    found = together(*(partial(one.gather, "A", 5, rank, first=True) for rank, one in enumerate(each)))
    assert found == [[0, 1, 2], [1], [2]]
    assert store.num_keys() == 6
    together(*(partial(one.close, "B") for one in each))
    assert store.num_keys() == 0


def test_who_has_not_joined_or_has_left_is_not_waited_for():
    store = distributed.HashStore()
    here, other = (At(1, store, rank) for rank in range(2))
    here.join("A", "B")
    other.join("B")
    assert here.gather("A", 0, "mine") == ["mine"]
    other.leave("B")
    assert here.gather("B", 0, "mine") == ["mine"]
    assert not here.silent


def test_who_does_not_answer_is_waited_for_once(monkeypatch):
    monkeypatch.setattr(ranks, "SECONDS", 0.2)
    store = distributed.HashStore()
    here, other = (At(1, store, rank) for rank in range(2))
    other.join("A")
    begin = time.monotonic()
    assert [here.gather("A", step, "mine") for step in range(9)] == [["mine"]] * 9
    assert 0.2 <= time.monotonic() - begin < 1
    assert here.silent


def test_who_gave_up_keeps_nobody_waiting(monkeypatch):
    monkeypatch.setattr(ranks, "SECONDS", 0.1)
    store = distributed.HashStore()
    here, other = (At(1, store, rank) for rank in range(2))
    for one in (here, other):
        one.join("A")
    assert here.gather("A", 0, "mine") == ["mine"]
    assert other.gather("A", 0, "late") == ["mine", "late"]
    monkeypatch.setattr(ranks, "SECONDS", 20)
    assert other.gather("A", 1, "late") == ["late"]


def test_a_store_that_is_gone_harms_nobody():
    class Gone:
        def __getattr__(self, name):
            raise distributed.DistNetworkError

    one = At(1, Gone(), 0)
    one.join("A")
    assert one.gather("A", 0, "mine") == ["mine"]
    one.close("A")


def test_fits_and_steps_do_not_mix(monkeypatch):
    monkeypatch.setattr(ranks, "SECONDS", 0.1)
    store = distributed.HashStore()
    ended, late = At(1, store, 1), At(1, store, 1)
    for one in (ended, late):
        one.join("A")
    ended.gather("A", 3, "of the fit before")
    other = At(2, store, 1)
    other.join("A")
    assert At(2, store, 0).gather("A", 3, "mine") == ["mine"]
    assert At(1, store, 0).gather("A", 4, "mine") == ["mine"]


def test_ranks_with_parts_of_one_model_count_once():
    each = [(0, "a"), (0, "a"), (1, "b"), (1, "b")]
    alike = SimpleNamespace(distributed_sampler_kwargs={"rank": 1, "num_replicas": 2}, global_rank=2, world_size=4)
    run = Run(alike, ranks=SimpleNamespace(gather=lambda *_, **__: each))
    assert run.shard == (1, 2)
    assert run.gather("A", "b") == ["a", "b"]


# -- the findings of all


def test_findings_of_all_ranks_are_the_worst_of_each():
    def finding(status, code, message="", **more):
        return Finding("A", status, message, code=f"A/{code}", **more)

    passed, quiet = finding(Status.PASSED, "passed", "well"), finding(Status.ADVICE, "slow")
    worse, failed = finding(Status.WARNING, "slow", "slow"), finding(Status.FAILED, "nan", "no number", step=7)
    for skip, codes in (((), ["A/slow", "A/nan"]), (("A/nan",), ["A/slow"])):
        ledgers = [Ledger(skip=skip) for _ in range(3)]
        each = [[passed, quiet], [worse, failed], [failed]]
        for ledger, own in zip(ledgers, each, strict=True):
            ledger.look(own)
            ledger.unite(each)
        assert ledgers[0].findings == ledgers[1].findings == ledgers[2].findings
        assert [f.code for f in ledgers[0].findings] == codes
        assert {f.message for f in ledgers[0].findings} <= {"slow (seen on rank 1)", "no number (seen on rank 1)"}
    ledger = Ledger()
    ledger.look([passed])
    assert ledger.unite([[passed], [passed]]) == []
    assert ledger.findings == [passed]
    assert ledger.unite([[passed], [worse]]) == ledger.findings
    assert ledger.findings[0].message == "slow (seen on rank 1)"
