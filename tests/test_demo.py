"""The demo, as a user runs it, in a process of its own; with mistakes in this one: to start another takes as long."""

import json
import subprocess
import sys

from lightning_recipe.demo import main


def found(folder):
    (path,) = folder.rglob("recipe.json")
    return json.loads(path.read_text(encoding="utf-8"))["findings"]


def test_demo_passes_and_ends_in_the_command(tmp_path):
    command = [sys.executable, "-m", "lightning_recipe.demo", "--dir", str(tmp_path), "--epochs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)  # noqa: S603
    findings = found(tmp_path)
    assert {f["status"] for f in findings} <= {"passed", "skipped"}
    assert {f["check"] for f in findings if f["status"] == "skipped"} <= {"CausalityCheck"}, "digits are no sequence"
    assert done.stdout.strip().splitlines()[-3].startswith("TensorBoard tensorboard --logdir ")


def test_broken_demo_shows_what_failing_looks_like(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["demo", "--dir", str(tmp_path), "--broken"])
    main()
    accused = {f["check"]: f["status"] for f in found(tmp_path) if f["status"] in {"failed", "warning"}}
    assert accused == {
        "InitLossCheck": "failed",
        "OverfitOneBatch": "warning",
        "BatchMixingDetector": "failed",
        "PredictionDynamicsLogger": "warning",
    }
