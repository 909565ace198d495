"""Findings, pictures and curves reach every logger of Lightning that can take them."""

import json
import warnings

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger
from patients import Healthy

from lightning_recipe import Check, Section, Status, VisualizeInputs
from lightning_recipe.show import report

IMAGE = np.full((36, 64, 3), 128, np.uint8)


class Shows(Check):
    """Draws a picture and a point of a curve."""

    section, why = Section.SKELETON, "a test"

    def first_step(self, run, step):
        self.draw(run, "card", IMAGE)
        self.plot(run, {"curve (log)": 0.5})
        yield self.passed("all is well")


def shown(fit, logger, *others):
    return fit(Healthy(), [Shows()], logger=[logger, *others], max_steps=2, limit_val_batches=0)


def test_csv_gets_the_curves(fit, tmp_path):
    logger = CSVLogger(tmp_path)
    shown(fit, logger)
    text = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    assert "Shows/curve log" in text
    assert "train_accuracy" in text


def test_weights_and_biases(fit, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    given = []
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="recipe", settings=wandb.Settings(init_timeout=30))
    log = logger.log_metrics
    logger.log_metrics = lambda metrics, step=None: (given.append(metrics), log(metrics, step))[1]
    shown(fit, logger)
    wandb.finish()
    names = [name for metrics in given for name in metrics]
    assert any("card" in name for name in names)
    assert any("curve log" in name for name in names)
    assert "0 report" in names
    assert list(tmp_path.rglob("*.wandb")), "offline, in a local folder"
    assert list(tmp_path.rglob("card*.png"))


def test_mlflow(fit, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow asks for a database otherwise
    logger = MLFlowLogger("recipe", tracking_uri=f"file:{tmp_path / 'runs'}")
    shown(fit, logger)
    run = logger.experiment.get_run(logger.run_id)
    assert any("curve log" in name for name in run.data.metrics)
    assert list((tmp_path / "runs").rglob("*card*.png"))
    assert "all is well" in next((tmp_path / "runs").rglob("0 report.md")).read_text()


class CometExperiment:
    """Keeps what it is given."""

    def __init__(self):
        self.given = []

    def log_image(self, image, name, step):
        self.given.append(name)

    def log_text(self, text, step, metadata):
        self.given.append(metadata["name"])


class CometLogger(Logger):
    """Has those methods of Comet's that are used; Comet's own wants a key."""

    name, version, save_dir = "comet", "0", None

    def __init__(self):
        super().__init__()
        self.experiment = CometExperiment()

    def log_metrics(self, metrics, step=None):
        self.experiment.given += metrics

    def log_hyperparams(self, *args, **kwargs):
        pass


def test_comet(fit):
    logger = CometLogger()
    shown(fit, logger)
    assert [name for name in logger.experiment.given if "Shows" in name or "report" in name] == [
        "2.99 Shows/card",
        "2.99 Shows/curve log",
        "0 report",
    ]


def test_inputs_are_drawn_for_those_who_have_no_tensorboard(fit):
    logger, look = CometLogger(), VisualizeInputs()
    fit(Healthy(), [look], logger=logger, max_steps=2)
    assert [finding.status for finding in look.findings] == [Status.PASSED]
    drawn = [name for name in logger.experiment.given if "VisualizeInputs" in name]
    assert any(name.endswith("train") for name in drawn)
    assert any(name.endswith("val") for name in drawn)


class Failing(CSVLogger):
    """Fails at what is ours."""

    def log_metrics(self, metrics, step=None):
        if any("Shows" in name for name in metrics):
            msg = "no room"
            raise OSError(msg)
        super().log_metrics(metrics, step)


def test_one_that_fails_costs_a_line_and_nothing_of_the_others(fit, tmp_path):
    good = CSVLogger(tmp_path, name="good")
    with pytest.warns(UserWarning, match="no room"):
        trainer = shown(fit, Failing(tmp_path, name="bad"), good)
    assert trainer.global_step == 2
    assert "Shows/curve log" in (tmp_path / "good" / "version_0" / "metrics.csv").read_text()


class Recording(Logger):
    """Somebody's own."""

    name, version = "mine", 0

    def __init__(self):
        super().__init__()
        self.names = set()

    def log_metrics(self, metrics, step=None):
        self.names |= set(metrics)

    def log_hyperparams(self, *args, **kwargs):
        pass


def test_a_logger_of_somebody_else_gets_nothing_but_its_own(fit):
    logger = Recording()
    shown(fit, logger)
    assert not [name for name in logger.names if "Shows" in name]


def test_the_report_lies_in_the_run_s_folder(fit, tmp_path, capsys):
    shown(fit, CSVLogger(tmp_path))
    path = tmp_path / "lightning_logs" / "version_0" / "recipe.json"
    assert json.loads(path.read_text())["findings"]
    assert "recipe.json" in capsys.readouterr().out


def test_a_path_is_printed_only_if_the_file_was_written(fit, tmp_path, capsys, monkeypatch):
    def full(*_):
        msg = "no space left"
        raise OSError(msg)

    monkeypatch.setattr(report, "write_json", full)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shown(fit, CSVLogger(tmp_path))
    printed = capsys.readouterr().out
    assert "all is well" in printed or "Shows" in printed
    assert "recipe.json" not in printed
