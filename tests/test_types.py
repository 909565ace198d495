"""Types are checked by a test, which takes a minute, so that it runs beside others and not before them all."""

import subprocess
import sys
from pathlib import Path


def test_types_are_right():
    run = subprocess.run(
        [sys.executable, "-m", "mypy"], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
