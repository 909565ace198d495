"""The files in docs/examples run as the page that shows them says."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_recipe import recipe

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
TEST = (EXAMPLES / "test_model.py").read_text(encoding="utf-8")


def test_lightning_cli(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = EXAMPLES / "lightning_cli.yaml"
    settings = [
        "--trainer.max_epochs=1",
        "--trainer.log_every_n_steps=5",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]
    monkeypatch.setattr(sys, "argv", ["train.py", "fit", f"--config={config}", *settings])
    runpy.run_path(str(EXAMPLES / "train.py"), run_name="__main__")
    folder = tmp_path / "lightning_logs" / "version_0"
    found = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["findings"]
    names = {type(callback).__name__ for callback in recipe()}
    assert {finding["check"] for finding in found} == names
    assert "failed" not in {finding["status"] for finding in found}
    used = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["trainer"]["callbacks"]
    arguments = {callback["class_path"].rpartition(".")[-1]: callback["init_args"] for callback in used}
    assert arguments["InitLossCheck"]["warn_ratio"] == 3
    assert [name for name, given in arguments.items() if given.get("strict")] == ["BatchMixingDetector"]


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """By pytest, in one process: on the file as it is, and on one with a model that mixes examples."""
    folder = tmp_path_factory.mktemp("tests")
    healthy = "import DigitsNet, loaders"
    assert healthy in TEST
    (folder / "test_model.py").write_text(TEST, encoding="utf-8")
    broken = TEST.replace(healthy, "import BrokenDigitsNet as DigitsNet, loaders")
    (folder / "test_broken.py").write_text(broken, encoding="utf-8")
    files = ["test_model.py", "test_broken.py::test_examples_do_not_mix"]
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=short", "-p", "no:cacheprovider", *files]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as in this process, see conftest.py
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    return done.stdout


def test_a_healthy_model_passes(printed):
    assert printed.count("PASSED test_model.py::") == 2, printed


def test_a_model_that_mixes_fails_and_is_named(printed):
    assert "1 failed, 2 passed" in printed
    assert "FAILED test_broken.py::test_examples_do_not_mix" in printed
    message = "BatchMixingDetector: outputs leak across the batch"
    assert f"FailedCheckError: {message}" in printed
    assert "between `features` and `head`" in printed
