"""The notebooks run, and what their readers see without running them is what they print today.

What each of them expects of the callbacks is asserted in its own cells, where its readers see it.
"""

import json
import os
import re
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lightning_recipe import Status

ROOT = Path(__file__).parent.parent
SECONDS = 300  # for a notebook; alone on two cores it takes a third of that or less
BYTES = 1_500_000
NAMES = r"[A-Z]\w+(?:,\s+[A-Z]\w+)*"  # one row of the closing table holds all that passed, over several lines
VERDICT = re.compile(rf"\b({'|'.join(Status)})[^\w\n]+({NAMES})")  # as printed, and as in the report's table
EXPLAINED = re.compile(rf"\b([A-Z]\w+)\s+\(({'|'.join(Status)})\)")  # of which another is the cause, below it
MARKUP = re.compile(r"\x1b\[[\d;]*m|<[^>]+>|\u00a0")  # colours, tags, and the spaces that widen columns
MACHINE = re.compile(r"(?<![\w.])/(work|tmp|root|home|usr|var|opt|Users)/|ipykernel_\d|\b[A-Z]:\\")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """What a cell printed or displayed, without its pictures."""
    for output in cell.outputs:
        yield output.get("text", "")
        yield from (value for kind, value in sorted(output.get("data", {}).items()) if kind.startswith("text/"))


def pictures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def verdicts(cell):
    """Pairs of a status and the name of a check, in the order in which a reader meets them."""
    rows = [row for text in texts(cell) for row in VERDICT.findall(MARKUP.sub("", text))]
    return [(status, name) for status, names in rows for name in re.split(r",\s+", names)]


def to_act_upon(cell):
    """What was found other than that all is well, and what that explains."""
    explained = [found for text in texts(cell) for found in EXPLAINED.findall(MARKUP.sub("", text))]
    return [verdict for verdict in verdicts(cell) if verdict[0] != Status.PASSED], explained


def well(cell):
    """What passed, and how often that is said; more checks may have come since."""
    return Counter(name for status, name in verdicts(cell) if status == Status.PASSED)


@pytest.fixture
def executed(path, tmp_path, monkeypatch):
    """A copy of the notebook, executed in an empty folder by a fresh kernel; a TensorBoard it started is ended."""
    copy = Path(shutil.copy(path, tmp_path))
    temporary = tmp_path / "temporary"  # where TensorBoard notes what is running, so as not to use another's
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    deadline = time.monotonic() + SECONDS
    notebook = read(copy)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
        timeout_func=lambda _: max(1, int(deadline - time.monotonic())),
    )
    try:
        client.execute()
    finally:
        for note in temporary.glob(".tensorboard-info/*.info"):
            os.kill(json.loads(note.read_text(encoding="utf-8"))["pid"], signal.SIGTERM)
    return notebook


def test_runs_and_says_what_is_committed(path, executed):
    for committed, fresh in zip(cells(read(path)), cells(executed), strict=True):
        assert "error" not in {output.output_type for output in fresh.outputs}, fresh.source
        assert to_act_upon(fresh) == to_act_upon(committed), fresh.source
        assert well(fresh) >= well(committed), fresh.source
        assert pictures(fresh) == pictures(committed), fresh.source
        if "%tensorboard " in fresh.source:
            assert any("<iframe" in text for text in texts(fresh)), list(texts(fresh))


def test_outputs_are_committed(path):
    code = cells(read(path))
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run it from the top"
    assert sum(bool(cell.outputs) for cell in code) > len(code) / 2
    assert any(verdicts(cell) for cell in code)
    assert path.stat().st_size < BYTES


def test_names_no_machine(path):
    for cell in read(path).cells:
        for text in [cell.source, *(texts(cell) if cell.cell_type == "code" else ())]:
            assert not MACHINE.search(text), MACHINE.search(text)
