"""The promises of every exported callback, found by introspection."""

import copy
import inspect
import json
import pickle
import random
import warnings
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import patients
import pytest
import torch
import yaml
from conftest import QUIET
from ends import frozen, process, traces
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from patients import Healthy, InitTooLarge
from torch.utils.data import DataLoader, Subset, TensorDataset

import lightning_recipe
from lightning_recipe import Check, Finding, HardExamples, RecipeCallback, Status
from lightning_recipe.callback import STATE

CALLBACKS = [type(callback) for callback in lightning_recipe.recipe()]
MOMENTS = ("before_training", "first_step", "sampled_step", "validation", "end")
each_callback = pytest.mark.parametrize("callback", CALLBACKS, ids=lambda c: c.__name__)


def assert_harmless(run):
    """With all callbacks the same as with none; where it is not, each is tried alone, and the guilty are named.

    Args:
        run: What a run leaves behind, as a dictionary, from a list of callbacks.

    """
    bare, full = run([]), run(lightning_recipe.recipe())
    if bare != full:
        guilty = [callback.__name__ for callback in CALLBACKS if run([callback()]) != bare]
        pytest.fail(f"changed by {', '.join(guilty) or 'all together'}: {[k for k in bare if bare[k] != full[k]]}")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """One fit of each callback on a healthy module of the kind that it is about, and what was printed."""
    runs = {}

    def run(callback):
        if callback not in runs:
            instance, module = callback(), patients.healthy_for(callback)
            folder = tmp_path_factory.mktemp(callback.__name__)
            settings = {"accelerator": "cpu", "max_epochs": 2, "logger": TensorBoardLogger(folder), **QUIET}
            trainer = L.Trainer(default_root_dir=folder, callbacks=[instance], **settings)
            L.seed_everything(0, verbose=False)
            trainer.fit(module)
            runs[callback] = instance, trainer
        return runs[callback]

    return run


# -- do no harm


class Watched(Healthy):
    """Healthy, with randomness from all streams in its data and a record of what it was given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[0].sum().item())
        noise = random.random() + np.random.rand()  # noqa: NPY002 - the global streams are the point
        return super().training_step((batch[0] + 0.01 * noise * torch.randn_like(batch[0]), batch[1]), batch_idx)

    def train_dataloader(self):
        return DataLoader(self.data(128, 1), 32, shuffle=True)


@pytest.mark.parametrize(
    "settings", [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}]
)
def test_the_run_is_left_untouched(fit, settings):
    def run(callbacks):
        torch.manual_seed(1)
        module = Watched()
        end = traces(fit(module, callbacks, **settings), module) | {"data": module.seen, **process()}
        assert len(module.seen) == 8
        return end

    assert_harmless(run)


def test_harm_is_found_and_its_author_named(fit, monkeypatch):
    """Or the tests above could not fail."""

    def first_step(self, run, step):
        run.module.net[0].weight.data[0, 0] += 1e-6
        return ()

    monkeypatch.setattr(lightning_recipe.InitLossCheck, "first_step", first_step)

    def run(callbacks):
        torch.manual_seed(1)
        module = Watched()
        return traces(fit(module, callbacks, max_steps=2), module)

    with pytest.raises(pytest.fail.Exception, match="changed by InitLossCheck: "):
        assert_harmless(run)


class Item:
    """A batch that is an object."""

    def __init__(self, x, y):
        self.x, self.y = x, y


class InPlace(Watched):
    """Writes to its batches, and sets their attributes."""

    def training_step(self, batch, batch_idx):
        batch.x.add_(0.1)
        batch.y = (batch.y + 1) % 4
        return super().training_step((batch.x, batch.y), batch_idx)

    def validation_step(self, batch, batch_idx):
        batch.x.mul_(2)
        self.log("val_loss", self.loss(self(batch.x), batch.y), batch_size=len(batch.x))

    def train_dataloader(self):
        return self._objects(super().train_dataloader())

    def val_dataloader(self):
        return self._objects(super().val_dataloader())

    def _objects(self, loader):
        return DataLoader(
            loader.dataset, 32, collate_fn=lambda items: Item(*map(torch.stack, zip(*items, strict=True)))
        )


def test_a_batch_that_is_an_object_is_left_untouched(fit):
    def run(callbacks):
        torch.manual_seed(1)
        module = InPlace()
        return traces(fit(module, callbacks, max_epochs=1), module)

    assert_harmless(run)


def test_checkpoints_hold_the_same_but_for_the_findings(fit, tmp_path):
    def run(callbacks):
        torch.manual_seed(1)
        fit(Watched(), callbacks, max_epochs=1).save_checkpoint(tmp_path / "last.ckpt", weights_only=False)
        state = torch.load(tmp_path / "last.ckpt", weights_only=True)  # plain values only
        state.pop("callbacks")
        state.pop(STATE, None)
        return frozen(state)

    assert_harmless(run)


# -- verdicts


@each_callback
def test_healthy_passes(healthy, callback):
    instance, _ = healthy(callback)
    assert {f.status for f in instance.findings} == {Status.PASSED}, instance.findings


@each_callback
def test_findings_survive_json(healthy, callback):
    instance, trainer = healthy(callback)
    with open(f"{trainer.logger.log_dir}/recipe.json", encoding="utf-8") as file:  # noqa: PTH123
        content = json.load(file, parse_constant=pytest.fail)
    assert content["version"] == 2
    assert [Finding.from_dict(f) for f in content["findings"]] == instance.findings
    for finding in instance.findings:
        assert finding.check == callback.__name__
        assert finding.code.startswith(f"{callback.__name__}/")
        assert finding.message
        assert finding.why


@each_callback
def test_findings_survive_pickling(healthy, callback):
    instance, _ = healthy(callback)
    assert pickle.loads(pickle.dumps(instance)).findings == instance.findings  # noqa: S301
    assert copy.deepcopy(instance).findings == instance.findings
    assert type(pickle.loads(pickle.dumps(callback()))) is callback  # noqa: S301


@each_callback
def test_a_fit_more_finds_the_same(healthy, fit, callback):
    instance, _ = healthy(callback)
    before = [(f.status, f.code) for f in instance.findings]
    fit(patients.healthy_for(callback), [copied := copy.deepcopy(instance)])
    assert [(f.status, f.code) for f in copied.findings] == before


def test_tensorboard_shows_each_under_its_own_name(fit, events):
    callbacks = lightning_recipe.recipe()
    read = events(fit(Healthy(), callbacks, max_steps=12))
    scalars, images, texts = (read.Tags()[kind] for kind in ("scalars", "images", "tensors"))
    users = {"train_loss", "train_accuracy", "val_loss", "epoch"}
    groups = [callback.tag("") for callback in callbacks]
    assert groups == sorted(groups), "the recipe's order is that of the alphabet"
    for tag in {*scalars, *images, *texts} - users - {"0 report/text_summary"}:
        assert tag.startswith(tuple(groups)), tag
    for callback in callbacks:
        assert callback.tag("findings") + "/text_summary" in texts
    for tag in {*scalars} - users:
        assert len(read.Scalars(tag)) > 1, "a single point is no curve"
        assert "(" in tag, "no unit"


def test_a_second_fit_of_the_same_trainer_goes_on(fit):
    callbacks, module = lightning_recipe.recipe(), Healthy()
    trainer = fit(module, callbacks, max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module)
    assert {f.status for c in callbacks for f in c.findings} <= {Status.PASSED, Status.SKIPPED}


def test_findings_go_on_from_a_checkpoint(fit, tmp_path):
    callbacks = lightning_recipe.recipe()
    fit(InitTooLarge(), callbacks, max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    before = [f for c in callbacks for f in c.findings if f.is_alarm]
    assert before
    again = lightning_recipe.recipe()
    trainer = L.Trainer(accelerator="cpu", max_epochs=2, callbacks=again, default_root_dir=tmp_path, **QUIET)
    trainer.fit(InitTooLarge(), ckpt_path=tmp_path / "last.ckpt")
    assert [f for c in again for f in c.findings if f.is_alarm] == before


@pytest.mark.parametrize("settings", [{"limit_train_batches": 0}, {"max_epochs": 0}], ids=str)
def test_without_a_step_all_say_so(fit, settings):
    callbacks = lightning_recipe.recipe()
    trainer = fit(Healthy(), callbacks, **settings)
    assert trainer.state.finished
    assert [[f.status for f in c.findings] for c in callbacks] == [[Status.SKIPPED]] * len(callbacks)


# -- when things break


@each_callback
def test_a_crash_inside_becomes_skipped(fit, callback, monkeypatch):
    """Whatever the callback calls on its way to a verdict raises; training goes on."""

    def crash(*args, **kwargs):
        msg = "boom"
        raise LookupError(msg)

    for moment in MOMENTS:
        if getattr(callback, moment) is not getattr(RecipeCallback, moment):
            monkeypatch.setattr(callback, moment, crash)
    instance = callback()
    trainer = fit(Healthy(), [instance])
    assert trainer.state.finished
    assert trainer.global_step == 16
    assert Status.SKIPPED in {f.status for f in instance.findings}
    assert any("boom" in f.message for f in instance.findings)
    assert len(instance.findings) == 1, "said once, not at every step"


@pytest.mark.parametrize("name", ["attach", "result"])
def test_a_crash_of_the_observation_becomes_skipped(fit, monkeypatch, name):
    def crash(*args, **kwargs):
        msg = "boom"
        raise LookupError(msg)

    monkeypatch.setattr(f"lightning_recipe.record.probe.Probe.{name}", crash)
    callbacks = [callback() for callback in CALLBACKS]
    trainer = fit(Healthy(), callbacks)
    assert trainer.global_step == 16
    for instance in callbacks:
        if instance.needs and any(instance.takes(moment) for moment in ("first_step", "sampled_step", "validation")):
            assert [f.code for f in instance.findings] == [f"{type(instance).__name__}/internal_error"]
            assert "boom" in instance.findings[0].message


def test_a_step_that_raises_raises_as_ever(fit):
    class Broken(Healthy):
        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                msg = "mine"
                raise RuntimeError(msg)
            return super().training_step(batch, batch_idx)

    module = Broken()
    with pytest.raises(RuntimeError, match="mine"):
        fit(module, lightning_recipe.recipe())
    assert "training_step" not in module.__dict__
    assert torch.overrides._get_current_function_mode() is None


@pytest.mark.parametrize("which", ["none", "csv", "tensorboard second", "fast_dev_run", "barebones", "no validation"])
def test_any_logger(fit, tmp_path, which, capsys):
    settings = {
        "none": {"logger": False},
        "csv": {"logger": CSVLogger(tmp_path)},
        "tensorboard second": {"logger": [CSVLogger(tmp_path), TensorBoardLogger(tmp_path)]},
        "fast_dev_run": {"fast_dev_run": True},
        "barebones": {"barebones": True, "logger": None, **dict.fromkeys(QUIET)},
        "no validation": {"limit_val_batches": 0},
    }[which]
    callbacks = lightning_recipe.recipe(verbose=True)
    trainer = fit(Healthy(), callbacks, **settings)
    assert trainer.state.finished
    reports = list(tmp_path.rglob("recipe.json"))
    assert len(reports) == (0 if which in {"fast_dev_run", "barebones"} else 1)
    printed = capsys.readouterr().out
    for instance in callbacks:
        assert instance.findings
        assert not [f for f in instance.findings if f.is_alarm]
        assert printed.count(f" {type(instance).__name__}: ") == len(instance.findings)
    assert printed.count("no TensorBoard logger") == (which in {"none", "csv"})


def test_what_is_well_takes_one_line_at_the_end(fit, capsys):
    fit(Healthy(), lightning_recipe.recipe())
    before, _, table = capsys.readouterr().out.partition("lightning_recipe: ")
    for callback in CALLBACKS:
        assert table.count(callback.__name__) == 1
    assert "passed   " not in before  # what takes long on a busy machine says so there


class BlocksTheReport(L.Callback):
    """Something else stands where the report should go."""

    def on_fit_start(self, trainer, pl_module):
        Path(trainer.logger.log_dir, "recipe.json").mkdir(parents=True)


def assert_well(callbacks):
    """All passed; no sequence enters the healthy program, which CausalityCheck says."""
    said = {f.check: f.status for c in callbacks for f in c.findings}
    assert said.pop("CausalityCheck") is Status.SKIPPED
    assert set(said.values()) == {Status.PASSED}, said


def test_a_report_that_can_not_be_written_costs_one_warning(fit):
    callbacks = lightning_recipe.recipe()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        trainer = fit(Healthy(), [BlocksTheReport(), *callbacks])
    assert trainer.global_step == 16
    assert [str(w.message)[:44] for w in caught if "recipe" in str(w.message)] == [
        "lightning_recipe could not write its report:"
    ]
    assert_well(callbacks)


def test_a_terminal_that_is_gone_costs_one_warning(fit, monkeypatch):
    def gone(*args, **kwargs):
        raise BrokenPipeError

    monkeypatch.setattr("lightning_recipe.show.terminal._print", gone)
    callbacks = lightning_recipe.recipe()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        trainer = fit(Healthy(), callbacks)
    assert trainer.global_step == 16
    assert sum("BrokenPipeError" in str(w.message) for w in caught) == 1
    assert_well(callbacks)


def test_strict_passes_what_is_healthy(fit):
    assert fit(Healthy(), lightning_recipe.recipe(strict=True)).global_step == 16


# -- construction


@each_callback
def test_arguments_are_keywords_with_defaults_and_documented(callback):
    assert issubclass(callback, RecipeCallback)
    parameters = [p for p in inspect.signature(callback.__init__).parameters.values() if p.name != "self"]
    for parameter in parameters:
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, parameter
        assert parameter.default is not inspect.Parameter.empty, parameter
        assert f"{parameter.name}:" in inspect.getdoc(callback), f"{parameter.name} is not documented"
    assert "Example:" in inspect.getdoc(callback)
    if issubclass(callback, Check):
        assert "strict" in [p.name for p in parameters]
        assert callback(strict=True).strict is True


def test_lightning_cli_builds_all_from_yaml(tmp_path, monkeypatch):
    config = {
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(tmp_path),
            "callbacks": [
                {"class_path": f"lightning_recipe.{c.__name__}", "init_args": _plain_defaults(c)} for c in CALLBACKS
            ],
        }
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py"])
    cli = LightningCLI(Healthy, args=["fit", f"--config={path}"], save_config_callback=None)
    built = [c for c in cli.trainer.callbacks if isinstance(c, RecipeCallback)]
    assert [type(c) for c in built] == CALLBACKS
    assert all(c.findings for c in built)


def _plain_defaults(callback):
    parameters = inspect.signature(callback.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "self" and p.default is not None}


def test_recipe_takes_strict():
    assert all(c.strict for c in lightning_recipe.recipe(strict=True) if isinstance(c, Check))
    assert isinstance(lightning_recipe.recipe()[0], L.Callback)


# -- examples are people's data


class Flipping(TensorDataset):
    """Images that are mirrored at random."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image.flip(-1) if torch.rand(()) < 0.5 else image, label


class Sees(Healthy):
    """Its inputs are images."""

    def forward(self, x):
        return super().forward(x.flatten(1)[:, :12])


def cards(fit, events, callbacks):
    x, y = Healthy().data(128, 1).tensors
    data = Flipping(x[:, None, None].repeat(1, 1, 12, 1), y)
    train, val = (DataLoader(Subset(data, rows), 32) for rows in (range(96), range(48, 128)))
    trainer = fit(Sees(), callbacks, train=train, val=val, num_sanity_val_steps=1)
    assert not [f for c in callbacks for f in c.findings if f.code.endswith("internal_error")]
    return {tag.split()[1].split("/")[0] for tag in events(trainer).Tags()["images"]}


def test_no_card_shows_an_example_if_none_is_to_be_kept(fit, events):
    draw = {"SplitCheck", "AugmentationCheck", "VisualizeInputs", "HardExamples", "PredictionDynamicsLogger"}
    skip = ["OverfitOneBatch", "InputIndependenceCheck", "ModeCheck"]
    assert cards(fit, events, lightning_recipe.recipe(skip=skip)) >= draw
    told = lightning_recipe.recipe(HardExamples(max_share=1), skip=skip, keep_examples=False)
    assert not any(getattr(callback, "keep_examples", False) for callback in told)
    kept = cards(fit, events, told)
    assert not kept & draw
    assert "DataProfile" in kept
