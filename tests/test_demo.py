"""The demo, as a user runs it: in a process of its own."""

import json
import subprocess
import sys


def demo(folder, *arguments):
    command = [sys.executable, "-m", "lightning_recipe.demo", "--dir", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)  # noqa: S603
    (path,) = folder.rglob("recipe.json")
    return done.stdout, json.loads(path.read_text(encoding="utf-8"))["findings"]


def test_demo_passes_and_ends_in_the_command(tmp_path):
    printed, findings = demo(tmp_path, "--epochs", "2")
    assert {f["status"] for f in findings} <= {"passed", "skipped"}
    assert {f["check"] for f in findings if f["status"] == "skipped"} <= {"CausalityCheck"}, "digits are no sequence"
    assert printed.strip().splitlines()[-3].startswith("TensorBoard tensorboard --logdir ")


def test_broken_demo_shows_what_failing_looks_like(tmp_path):
    _, findings = demo(tmp_path, "--broken")
    accused = {f["check"]: f["status"] for f in findings if f["status"] in {"failed", "warning"}}
    assert accused == {
        "InitLossCheck": "failed",
        "OverfitOneBatch": "warning",
        "BatchMixingDetector": "failed",
        "PredictionDynamicsLogger": "warning",
    }
