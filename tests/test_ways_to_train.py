"""However a module is trained, the recipe neither breaks the run nor changes where it ends."""

import csv
import time
import warnings
import weakref
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from conftest import QUIET
from ends import assert_judged, assert_same, process, quick, traces
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader
from patients import CLASSES, FEATURES, Healthy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_recipe import BatchMixingDetector, FailedCheckError, InitLossCheck, OverfitOneBatch, Status, recipe
from lightning_recipe.reporter import Reporter


class Manual(Healthy):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()

    def on_train_epoch_end(self):
        self.lr_schedulers().step()


class ManualToTheEnd(Manual):
    """A schedule that can't be stepped more often than the run is long."""

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        self.lr_schedulers().step()

    def on_train_epoch_end(self):
        pass

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
        steps = self.trainer.estimated_stepping_batches
        return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)]


class Adversarial(Healthy):
    """Two networks with two optimisers, against each other."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, FEATURES))
        self.critic = nn.Sequential(nn.Linear(FEATURES, 16), nn.LeakyReLU(), nn.Linear(16, 1))

    def training_step(self, batch, batch_idx):
        real = batch[0]
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        bce = F.binary_cross_entropy_with_logits
        for_generator, for_critic = self.optimizers()
        fake = self.generator(torch.randn(len(real), 3))
        for_critic.zero_grad()
        self.manual_backward(bce(self.critic(real), ones) + bce(self.critic(fake.detach()), zeros))
        for_critic.step()
        for_generator.zero_grad()
        self.manual_backward(bce(self.critic(fake), ones))
        for_generator.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(self.generator.parameters(), 1e-3), torch.optim.Adam(self.critic.parameters(), 1e-3)]


class Toggled(Adversarial):
    """The critic at every step, the generator at every second, gradients accumulated and clipped by hand."""

    def training_step(self, batch, batch_idx):
        real, bce = batch[0], F.binary_cross_entropy_with_logits
        for_generator, for_critic = self.optimizers()
        fake = self.generator(torch.randn(len(real), 3))
        self.toggle_optimizer(for_critic)
        scores = self.critic(torch.cat([real, fake.detach()]))[:, 0]
        self.manual_backward(bce(scores, torch.arange(len(scores)).lt(len(real)).float()) / 2)
        if batch_idx % 2:
            self.clip_gradients(for_critic, gradient_clip_val=0.5)
            for_critic.step()
            for_critic.zero_grad()
        self.untoggle_optimizer(for_critic)
        if batch_idx % 2:
            self.toggle_optimizer(for_generator)
            for_generator.zero_grad()
            self.manual_backward(bce(self.critic(fake), torch.ones(len(fake), 1)))
            for_generator.step()
            self.untoggle_optimizer(for_generator)


class LBFGS(Healthy):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class SeveralLoaders(Healthy):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch["a"], batch_idx) + self.loss(self(batch["b"][0]), batch["b"][1])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val_loss", self.loss(self(batch[0]), batch[1]))

    def train_dataloader(self):
        return {"a": super().train_dataloader(), "b": super().train_dataloader()}

    def val_dataloader(self):
        return [super().val_dataloader()] * 2


class ListOfLoaders(SeveralLoaders):
    """Lightning pairs them; the shorter one begins again."""

    def training_step(self, batch, batch_idx):
        return super().training_step(dict(zip("ab", batch, strict=True)), batch_idx)

    def train_dataloader(self):
        return [Healthy.train_dataloader(self), DataLoader(self.data(96, 3), 16, shuffle=True)]


class Uneven(Healthy):
    """Loaders of different lengths, None where one has ended."""

    def training_step(self, batch, batch_idx):
        return sum(super(Uneven, self).training_step(part, batch_idx) for part in batch if part is not None)

    def train_dataloader(self):
        loaders = [super().train_dataloader(), DataLoader(self.data(96, 3), 32, shuffle=True)]
        return CombinedLoader(loaders, "max_size")


class Stream(IterableDataset):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter(self.data)


class Streaming(Healthy):
    def train_dataloader(self):
        return DataLoader(Stream(self.data(128, 1)), 32)


class Workers(Healthy):
    def train_dataloader(self):
        return DataLoader(self.data(128, 1), 32, shuffle=True, num_workers=2, persistent_workers=True)


class NoValidation(Healthy):
    validation_step = val_dataloader = None


class CompiledNet(Healthy):
    """Compiled with a backend that keeps the graphs, so that they can be counted."""

    def __init__(self):
        super().__init__()
        self.graphs = []

        def backend(graph, inputs):
            self.graphs.append(graph)
            return graph.forward

        torch._dynamo.reset()
        self.net = torch.compile(self.net, backend=backend)

    def __deepcopy__(self, memo):
        msg = "this module can't be copied"
        raise TypeError(msg)


class Collective(Healthy):
    """A batch of strings and objects along with the tensors."""

    def train_dataloader(self):
        items = [{"x": x, "y": y, "name": f"example {i}", "meta": None} for i, (x, y) in enumerate(self.data(128, 1))]
        return DataLoader(items, 32, shuffle=True, collate_fn=self.collate)

    @staticmethod
    def collate(items):
        return {
            "x": torch.stack([i["x"] for i in items]),
            "y": torch.stack([i["y"] for i in items]),
            "name": [i["name"] for i in items],
            "meta": [i["meta"] for i in items],
        }

    def training_step(self, batch, batch_idx):
        return super().training_step((batch["x"], batch["y"]), batch_idx)


class NoGradientSometimes(Healthy):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) if batch_idx % 2 else None


class Nested(Healthy):
    """Examples of different lengths in one nested tensor."""

    layout = torch.strided

    def training_step(self, batch, batch_idx):
        parts = [x.expand(1 + i % 3, -1) for i, x in enumerate(batch[0])]
        logits = self.net[0](torch.nested.nested_tensor(parts, layout=self.layout))
        logits = torch.stack([part.mean(0) for part in logits.unbind()])
        return self.loss(self.net[1:](logits), batch[1])


class Jagged(Nested):
    layout = torch.jagged


class Vmapped(Healthy):
    """The network sees one example at a time, or thinks so."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def forward(self, x):
        return torch.vmap(self.net)(x)


class SpectralNorm(Healthy):
    """A weight that takes a step of its own whenever somebody reads it in training."""

    def __init__(self):
        super().__init__()
        self.net[0] = nn.utils.parametrizations.spectral_norm(self.net[0])
        self.net[4] = nn.utils.parametrizations.spectral_norm(self.net[4])


class SparseGradients(Healthy):
    def __init__(self):
        super().__init__()
        self.net = nn.EmbeddingBag(FEATURES, CLASSES, sparse=True)

    def forward(self, x):
        return self.net(x.argsort(1)[:, : FEATURES // 2])

    def configure_optimizers(self):
        return torch.optim.SparseAdam(self.parameters(), 1e-2)


class SparseRows(Healthy):
    """Batches in a sparse layout, as counts of genes or words are."""

    layout = torch.sparse_csr

    def __init__(self):
        super().__init__()
        self.net = SparseLinear()

    def train_dataloader(self):
        def collate(items):
            x, y = zip(*items, strict=True)
            return torch.stack(x).relu().to_sparse(layout=self.layout), torch.stack(y)

        return DataLoader(self.data(256, 1), 32, shuffle=True, collate_fn=collate)

    val_dataloader = train_dataloader


class SparseCoordinates(SparseRows):
    layout = torch.sparse_coo


class SparseLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(FEATURES, CLASSES))

    def forward(self, x):
        return torch.sparse.mm(x, self.weight)


class Complex(Healthy):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 16, dtype=torch.complex64), nn.Linear(16, CLASSES).to(torch.cfloat)
        )

    def forward(self, x):
        return self.net[1](self.net[0](x.to(torch.complex64)).tanh()).abs()


class Arrays(Healthy):
    """Batches of arrays, which the step changes in place."""

    def training_step(self, batch, batch_idx):
        batch["x"] *= 2
        return super().training_step((torch.from_numpy(batch["x"]), torch.from_numpy(batch["y"])), batch_idx)

    def train_dataloader(self):
        def collate(items):
            x, y = zip(*items, strict=True)
            return {"x": torch.stack(x).numpy(), "y": torch.stack(y).numpy()}

        return DataLoader(self.data(128, 1), 32, collate_fn=collate)


class UsedUp(Arrays):
    """Batches that hold an iterator."""

    def training_step(self, batch, batch_idx):
        return Healthy.training_step(self, (torch.stack(list(batch["x"])), torch.from_numpy(batch["y"])), batch_idx)

    def train_dataloader(self):
        def collate(items):
            x, y = zip(*items, strict=True)
            return {"x": iter(x), "y": torch.stack(y).numpy()}

        return DataLoader(self.data(128, 1), 32, collate_fn=collate)


class Named(torch.Tensor):
    """Knows its columns, and can neither move nor copy itself once an operation has lost them."""

    def to(self, *args, **kwargs):
        other = super().to(*args, **kwargs)
        other.columns = self.columns
        return other

    def clone(self, *args, **kwargs):
        other = super().clone(*args, **kwargs)
        other.columns = list(self.columns)
        return other


class NamedColumns(Healthy):
    """Batches are tensors of a class of their own."""

    def forward(self, x):
        return super().forward(x).as_subclass(torch.Tensor)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        x = batch[0].as_subclass(Named)
        x.columns = list("abc")
        return x, batch[1]


class LeftOut(Healthy):
    """Targets that do not count are one more than there are classes."""

    def loss(self, logits, y):
        return F.cross_entropy(logits, y, ignore_index=CLASSES)

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x, y.where(torch.arange(n) % 7 > 0, CLASSES))


class LeftOutByHand(LeftOut):
    def loss(self, logits, y):
        losses = F.nll_loss(logits.log_softmax(1), y, ignore_index=CLASSES, reduction="none")
        return losses.sum() / (y < CLASSES).sum()


def end(fit, module, callbacks=(), **settings):
    """All that a run leaves behind, in the process too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = fit(module, callbacks, **settings)
    assert trainer.state.finished
    return traces(trainer, module) | process()


def assert_same_end(fit, make, **settings):
    torch.manual_seed(3)
    bare = end(fit, make(), **settings)
    torch.manual_seed(3)
    module, callbacks = make(), recipe()
    assert_same(bare, end(fit, module, callbacks, **settings))
    assert_not_accused(callbacks)
    return module


def assert_not_accused(callbacks):
    assert_judged(callbacks)
    assert [f for c in callbacks for f in c.findings if f.is_alarm] == []


@pytest.mark.parametrize(
    "make",
    [
        Healthy, Manual, ManualToTheEnd, Adversarial, Toggled, LBFGS, SeveralLoaders, ListOfLoaders, Uneven, Streaming,
        Workers, NoValidation, CompiledNet, Collective, NoGradientSometimes, Nested, Jagged, Vmapped, SpectralNorm,
        SparseGradients, SparseRows, SparseCoordinates, Complex, Arrays, UsedUp, NamedColumns, LeftOut, LeftOutByHand,
    ],
)  # fmt: skip
def test_modules(fit, make):
    assert_same_end(fit, make)


class Scripted(Healthy):
    """TorchScript, whose compiled code a copy shares."""

    def __init__(self):
        super().__init__()
        self.net = torch.jit.script(self.net)


class Backward(Healthy):
    """Its layers know the module that they belong to, weakly, and use it: those of a copy use the original."""

    def __init__(self):
        super().__init__()
        self.net[-1].owner = weakref.ref(self.net[0])

    def forward(self, x):
        return self.net[1:](self.net[-1].owner()(x))


class BeforeTheFirstUpdate(L.Callback):
    """Whether any gradient is there; what comes after the recipe's callbacks in the list sees what they leave."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0 and trainer.current_epoch == 0:
            self.gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]


def test_the_environment_s_defaults_are_for_the_run(fit, monkeypatch):
    monkeypatch.setenv("PL_TRAINER_LIMIT_TRAIN_BATCHES", "3")
    check = OverfitOneBatch()
    assert fit(Healthy(), [check], max_epochs=1).global_step == 3
    assert [finding.status for finding in check.findings] == [Status.PASSED]


@pytest.mark.parametrize("callback", [InitLossCheck, BatchMixingDetector])
def test_no_probe_is_left_when_every_batch_is_skipped(fit, callback):
    class Skips(Healthy):
        def on_train_batch_start(self, batch, batch_idx):
            return -1

    module = Skips()
    fit(module, [callback()])
    assert "training_step" not in vars(module)


@pytest.mark.parametrize("make", [Scripted, Backward])
def test_a_copy_that_reaches_the_original_is_not_trained(fit, make):
    callbacks, before = recipe(), BeforeTheFirstUpdate()
    fit(make(), [*callbacks, before])
    assert before.gradients == []
    assert_not_accused(callbacks)
    (overfit,) = next(c for c in callbacks if isinstance(c, OverfitOneBatch)).findings
    assert overfit.status is Status.SKIPPED
    assert "original" in overfit.message or "TorchScript" in overfit.message


@pytest.mark.parametrize(
    "settings",
    [
        {"accumulate_grad_batches": 3},
        {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"},
        {"overfit_batches": 2},
        {"fast_dev_run": True},
        {"limit_train_batches": 2, "limit_val_batches": 1},
        {"num_sanity_val_steps": 0},
        {"limit_train_batches": 1, "max_epochs": 1},
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"val_check_interval": 2},
        {"logger": False},
        {"inference_mode": False},
        {"detect_anomaly": True},
        {"deterministic": True},
        {"max_steps": 5, "max_epochs": -1},
    ],
    ids=str,
)
def test_settings(fit, settings):
    assert_same_end(fit, Healthy, **settings)


def compilations():
    """Graphs, graph breaks, and code objects that were compiled, more than once or not."""
    counters = torch._dynamo.utils.counters
    return {
        name: dict(counters[name]) for name in ("stats", "graph_break", "frames", "recompile_limit", "unimplemented")
    }


class Silent(Healthy):
    """``self.log`` in a compiled step is broken upstream."""

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])


class Breaks(nn.Module):
    def __init__(self, *, broken):
        super().__init__()
        self.enter, self.leave, self.broken = nn.Linear(FEATURES, 16), nn.Linear(16, CLASSES), broken

    def forward(self, x):
        h = self.enter(x).relu()
        if self.broken:
            torch._dynamo.graph_break()
        return self.leave(F.dropout(h, 0.1, self.training))


def compiled_net():
    module = Healthy()
    module.net = torch.compile(module.net, backend="aot_eager")
    return module


def compiled_in_place():
    module = Healthy()
    module.net = Breaks(broken=False)
    module.net.compile(backend="eager")
    return module


def compiled_with_breaks():
    module = Healthy()
    module.net = torch.compile(Breaks(broken=True), backend="eager")
    return module


def compiled_module():
    return torch.compile(Silent(), backend="aot_eager")


@pytest.mark.parametrize("make", [compiled_net, compiled_in_place, compiled_with_breaks, CompiledNet, compiled_module])
def test_as_much_is_compiled_as_without(fit, make):
    """No graph, graph break or recompilation more; the last batch is short, so that there is one to begin with."""
    runs = []
    for callbacks in ([], recipe()):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch.manual_seed(3)
        module = make()
        train = DataLoader(module.data(248, 1), 32, shuffle=True)
        runs.append(end(fit, module, callbacks, train=train) | compilations())
        if hasattr(module, "graphs"):
            runs[-1]["graphs"] = len(module.graphs)
    assert runs[0]["stats"]["unique_graphs"] >= 1
    assert_same(*runs)
    assert_not_accused(callbacks)


def test_a_compiled_function_is_compiled_once_more_for_all_steps_that_are_watched(fit):
    class Counts(L.Callback):
        def __init__(self):
            self.graphs = []

        def on_train_batch_end(self, *_):
            self.graphs.append(compilations()["stats"]["unique_graphs"])

    counted = []
    for callbacks in ([], quick()):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        module, counts = Healthy(), Counts()
        module.loss = torch.compile(F.cross_entropy, backend="eager")
        fit(module, [*callbacks, counts], num_sanity_val_steps=0, limit_val_batches=0)
        counted.append(counts.graphs)
    assert counted[0] == [1] * 16
    assert counted[1] == sorted(counted[1])
    assert (counted[1][0], set(counted[1])) == (1, {1, 2}), "one graph for the steps that are watched, one for the rest"


def trainer_of(folder, callbacks, **settings):
    settings = {"max_epochs": 2, "logger": False, **QUIET, **settings}
    return L.Trainer(default_root_dir=folder, callbacks=list(callbacks), accelerator="cpu", **settings)


@pytest.mark.filterwarnings("ignore")
def test_resuming_repeats_no_start_up_work(fit, tmp_path):
    fit(Healthy(), max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    ends = []
    for callbacks in ([], recipe()):
        L.seed_everything(3, verbose=False)
        module, again = Healthy(), trainer_of(tmp_path, callbacks)
        again.fit(module, ckpt_path=tmp_path / "last.ckpt", weights_only=False)
        ends.append(traces(again, module))
    assert_same(*ends)
    said = [f for c in callbacks for f in c.findings]
    assert {f.check for f in said if "resumes at step" in f.message} >= {
        "InitLossCheck", "OverfitOneBatch", "BatchMixingDetector", "BiasCheck"
    }  # fmt: skip
    assert not [f for f in said if f.is_alarm]


@pytest.mark.filterwarnings("ignore")
def test_fitted_twice_then_tested(tmp_path):
    """By one trainer that goes on, and by one that begins anew with the same callbacks."""
    ends = []
    for callbacks in ([], recipe()):
        L.seed_everything(3, verbose=False)
        module = Healthy()
        module.test_step = module.validation_step
        module.predict_step = lambda batch, batch_idx, module=module: module(batch[0])
        trainer = trainer_of(tmp_path, callbacks)
        trainer.fit(module)
        first = traces(trainer, module)
        trainer.fit_loop.max_epochs = 3
        trainer.fit(module)
        goes_on = traces(trainer, module)
        trainer = trainer_of(tmp_path, callbacks)
        trainer.fit(module)
        end = traces(trainer, module)
        more = trainer.validate(module, verbose=False), trainer.test(module, module.val_dataloader(), verbose=False)
        more += tuple(trainer.predict(module, module.val_dataloader()))
        ends.append({"first": first, "goes on": goes_on, "anew": end, "more": repr(more)})
    assert_same(*ends)
    assert_not_accused(callbacks)


def test_csv_holds_the_same(fit, tmp_path):
    files = []
    for i, callbacks in enumerate(([], quick())):
        torch.manual_seed(3)
        fit(Healthy(), callbacks, logger=CSVLogger(tmp_path, str(i)), log_every_n_steps=1)
        with next(tmp_path.glob(f"{i}/*/metrics.csv")).open(newline="") as file:
            rows = [{k: v for k, v in row.items() if not k[0].isdigit()} for row in csv.DictReader(file)]  # not ours
        files.append([row for row in rows if any(v for k, v in row.items() if k not in {"epoch", "step"})])
    assert len(files[0]) > 16
    assert files[0] == files[1]


def test_keyboard_interrupt_is_the_users(fit):
    class Interrupted(Healthy):
        def training_step(self, batch, batch_idx):
            if batch_idx == 2:
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(Interrupted(), quick())


def test_pytorch_lightning_is_the_other_name(tmp_path):
    import pytorch_lightning as pl  # noqa: PLC0415

    class Other(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(FEATURES, CLASSES)

        def training_step(self, batch, batch_idx):
            self.log("loss", loss := F.cross_entropy(self.net(batch[0]), batch[1]))
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    data = DataLoader(TensorDataset(*Healthy().data(64, 0).tensors), 16)
    ends = []
    for callbacks in ([], recipe()):
        pl.seed_everything(0, verbose=False)
        module = Other()
        logger = pl.loggers.TensorBoardLogger(tmp_path)
        trainer = pl.Trainer(
            max_epochs=2, callbacks=callbacks, logger=logger, accelerator="cpu", enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        )  # fmt: skip
        trainer.fit(module, data)
        ends.append(module.net.weight.detach().clone())
    assert torch.equal(*ends)
    assert all(c.findings for c in callbacks)
    assert {f.status for c in callbacks for f in c.findings} <= {Status.PASSED, Status.SKIPPED}
    assert list(tmp_path.rglob("recipe.json"))


class Synchronised(Healthy):
    """Talks to the other ranks inside forward, as SyncBatchNorm does."""

    def forward(self, x):
        total = x.mean(0)
        if torch.distributed.is_initialized():
            total = torch.distributed.nn.functional.all_reduce(total)
        return self.net(x - 0.1 * total)

    def on_train_end(self):
        self.end = [p.detach().clone() for p in self.parameters()]
        path = f"{self.trainer.default_root_dir}/rank{self.global_rank}-{self.tag}.pt"
        torch.save(self.end, path)


@pytest.mark.filterwarnings("ignore")
def test_two_processes(fit, tmp_path):
    ends = {}
    for tag, callbacks in (("bare", []), ("full", quick())):
        torch.manual_seed(3)
        module = Synchronised()
        module.tag = tag
        fit(module, callbacks, accelerator="cpu", strategy="ddp_fork", devices=2, max_epochs=1)
        ends[tag] = [torch.load(tmp_path / f"rank{r}-{tag}.pt") for r in range(2)]
    for rank in range(2):
        for bare, full in zip(ends["bare"][rank], ends["full"][rank], strict=True):
            assert torch.equal(bare, full)


class OneRankIsWrong(Healthy):
    """Inputs are a thousand times too large, on one rank only."""

    def training_step(self, batch, batch_idx):
        return super().training_step((batch[0] * (1000 if self.global_rank == 1 else 1), batch[1]), batch_idx)


def telling(ask):
    """Write what stops a rank, and wait for the other: whoever started the processes ends all with the first."""

    def tell(reporter, *args):
        try:
            ask(reporter, *args)
        except FailedCheckError as error:
            trainer = reporter.run.trainer
            folder, deadline = Path(trainer.default_root_dir), time.monotonic() + 20  # seconds
            (folder / f"{trainer.global_rank}.stopped").write_text(str(error), encoding="utf-8")
            while len(list(folder.glob("*.stopped"))) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            raise

    return tell


@pytest.mark.filterwarnings("ignore")
def test_a_strict_check_that_fails_on_one_rank_stops_all(fit, tmp_path, monkeypatch):
    monkeypatch.setattr(Reporter, "ask", telling(Reporter.ask))
    module = OneRankIsWrong()
    module.net[1] = nn.Identity()  # BatchNorm would hide it
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="FailedCheckError"):
        fit(module, [InitLossCheck(strict=True)], accelerator="cpu", strategy="ddp_fork", devices=2)
    said = {path.stem: path.read_text() for path in tmp_path.glob("*.stopped")}
    assert said.keys() == {"0", "1"}
    assert said["0"] == "a check failed in another process"
    assert said["1"].startswith("InitLossCheck: cross_entropy")


@pytest.mark.filterwarnings("ignore")
def test_both_import_roots_in_one_process_with_progress_bars(tmp_path):
    """A module, a trainer, a logger and a bar of each, one after the other, twice."""
    import pytorch_lightning as pl  # noqa: PLC0415

    def module_of(root):
        class Module(root.LightningModule):
            training_step, configure_optimizers = Healthy.training_step, Healthy.configure_optimizers
            validation_step, loss, forward = Healthy.validation_step, Healthy.loss, Healthy.forward

            def __init__(self):
                super().__init__()
                healthy = Healthy()
                self.net, self.accuracy = healthy.net, healthy.accuracy

        return Module()

    for bar in ("RichProgressBar", "TQDMProgressBar"):
        for root in (L, pl):
            ends = []
            for callbacks in ([], quick()):
                root.seed_everything(3, verbose=False)
                module, data = module_of(root), Healthy()
                trainer = root.Trainer(
                    max_epochs=1, callbacks=[*callbacks, getattr(root.callbacks, bar)()], accelerator="cpu",
                    logger=root.loggers.TensorBoardLogger(tmp_path), default_root_dir=tmp_path,
                    enable_checkpointing=False, enable_model_summary=False,
                )  # fmt: skip
                trainer.fit(module, data.train_dataloader(), data.val_dataloader())
                ends.append(traces(trainer, module))
            assert_same(*ends)
            assert_judged(callbacks)
