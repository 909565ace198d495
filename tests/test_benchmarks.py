"""The benchmarks of the costs run; what they measure is no test's business."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "overhead.py"


def test_overhead_runs_in_its_short_form():
    command = [sys.executable, str(SCRIPT), "--short"]
    script = runpy.run_path(str(SCRIPT))
    environment = os.environ | script["ONE_ARENA"] | script["KEPT"]  # or it starts itself once more, with these
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600)  # noqa: S603
    printed = done.stdout
    row = r"^mlp +(\S+(?: again)?) +(processor|wall) +first epoch x[\d.]+ .*; steady x[\d.]+ .*start-up [+-][\d.]+ s"
    rows = re.findall(row, printed, re.MULTILINE)
    names = ("recipe()", "data", "monitors", "bare again")
    assert rows == [(name, clock) for name in names for clock in ("processor", "wall")]
    assert re.findall(r"^memory (\w+) .*copies", printed, re.MULTILINE) == ["start", "steady"]


def test_streams_runs_in_its_short_form():
    command = [sys.executable, str(SCRIPT.with_name("streams.py")), "--short"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)  # noqa: S603
    assert re.findall(r"^(\w+) +holds \d+, \d+, \d+ MB", done.stdout, re.MULTILINE) == ["bare", "checks"]
