"""However a module is trained, the recipe neither breaks the run nor changes where it ends."""

import copy
import warnings

import lightning.pytorch as L
import pytest
import torch
from patients import CLASSES, FEATURES, Healthy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_recipe import Status, recipe


class Manual(Healthy):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


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
        return DataLoader(self.data(128, 1), 32, shuffle=True, num_workers=1, persistent_workers=True)


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


def end(fit, module, callbacks, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = fit(module, callbacks, **settings)
    state = copy.deepcopy(dict(module.state_dict()))
    return trainer, state, torch.get_rng_state()


def assert_same_end(fit, make, **settings):
    torch.manual_seed(3)
    _, bare, bare_rng = end(fit, make(), [], **settings)
    torch.manual_seed(3)
    module, callbacks = make(), recipe()
    trainer, full, rng = end(fit, module, callbacks, **settings)
    assert trainer.state.finished
    assert bare.keys() == full.keys()
    assert [k for k in bare if not torch.equal(bare[k], full[k])] == []
    assert torch.equal(bare_rng, rng)
    said = [f for c in callbacks for f in c.findings]
    assert all(c.findings for c in callbacks), "no silence"
    assert [f for f in said if f.status in {Status.FAILED, Status.WARNING}] == []
    assert not [f.message for f in said if "the check itself failed" in f.message]
    return module, said


@pytest.mark.parametrize(
    "make",
    [
        Healthy, Manual, Adversarial, LBFGS, SeveralLoaders, Streaming, Workers, NoValidation, CompiledNet, Collective,
        NoGradientSometimes,
    ],
)  # fmt: skip
def test_modules(fit, make):
    assert_same_end(fit, make)


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


def test_a_compiled_network_is_compiled_as_often_as_without(fit):
    torch.manual_seed(3)
    bare = CompiledNet()
    end(fit, bare, [])
    module, _ = assert_same_end(fit, CompiledNet)
    assert len(module.graphs) == len(bare.graphs)


def test_the_whole_module_compiled(fit):
    class Silent(Healthy):  # self.log in a compiled step is broken upstream
        def training_step(self, batch, batch_idx):
            return self.loss(self(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            return self.loss(self(batch[0]), batch[1])

    def make():
        torch._dynamo.reset()
        return torch.compile(Silent(), backend="aot_eager")

    torch.manual_seed(3)
    _, bare, _ = end(fit, make(), [])
    torch.manual_seed(3)
    callbacks = recipe()
    trainer, full, _ = end(fit, make(), callbacks)
    assert trainer.state.finished
    assert [k for k in bare if not torch.equal(bare[k], full[k])] == []
    assert all(c.findings for c in callbacks)
    assert not [f for c in callbacks for f in c.findings if f.status in {Status.FAILED, Status.WARNING}]


def test_resuming_repeats_no_start_up_work(fit, tmp_path):
    trainer = fit(Healthy(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    callbacks = recipe()
    again = L.Trainer(
        max_epochs=2, callbacks=callbacks, logger=False, accelerator="cpu", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    again.fit(Healthy(), ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    said = [f for c in callbacks for f in c.findings]
    assert any("resume" in f.message for f in said)
    assert not [f for f in said if f.status in {Status.FAILED, Status.WARNING}]


def test_keyboard_interrupt_is_the_users(fit):
    class Interrupted(Healthy):
        def training_step(self, batch, batch_idx):
            if batch_idx == 2:
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(Interrupted(), recipe())


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
    for tag, callbacks in (("bare", []), ("full", recipe())):
        torch.manual_seed(3)
        module = Synchronised()
        module.tag = tag
        fit(module, callbacks, accelerator="cpu", strategy="ddp_fork", devices=2, max_epochs=1)
        ends[tag] = [torch.load(tmp_path / f"rank{r}-{tag}.pt") for r in range(2)]
    for rank in range(2):
        for bare, full in zip(ends["bare"][rank], ends["full"][rank], strict=True):
            assert torch.equal(bare, full)
