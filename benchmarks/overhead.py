"""What the recipe costs: bare fits against fits with ``recipe()``, in turn, in one run.

Run ``python benchmarks/overhead.py``; ``--short`` only proves that it runs. Each round fits the same module by itself,
with the recipe, with its section on data alone, with what a user would otherwise attach (`LearningRateMonitor` and
`DeviceStatsMonitor`), and by itself once more, in an order drawn for each round. After the start they take turns,
`BLOCK` steps at a time, since the speed of a shared machine changes from second to second. Two clocks: the wall's, and
that of the processor, which does not see what else the machine does.

- start-up: the first `START_UP` steps, in seconds more than bare. Aim: at most 20 s.
- first epoch: from there to its end, while data are looked at as they pass, and looks are many.
- steady state: all epochs behind it; the ratio of a pair, its median over the rounds, the smallest and the largest.
  Aim: at most 1.02. What the second bare fit differs by is the error of all. The time inside the callbacks' own hooks
  is counted, too, as a share of the bare fit's; of the section on data it is to be at most 0.5 %.
- memory: the most that a process held at the start and after it, each fit in a process of its own, in copies of the
  module with its gradients and Adam's state. Aim: at most one copy more, and none after the start.

If neural_net_checklist is installed (``pip install --no-deps neural_net_checklist``), its checks of the same kind (loss
at initialisation, independence of the batch, overfitting a batch) are timed too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import random
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, DeviceStatsMonitor, LambdaCallback, LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer import call
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import AugmentationCheck, DataProfile, HardExamples, SeedCheck, SplitCheck, recipe
from lightning_recipe.callback import STEP_HOOKS
from lightning_recipe.trial import time_budget
from lightning_recipe.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES = 10
START_UP = 50  # steps
BLOCK = 25  # steps at a time
EPOCHS = 3
PHASES = ("start", "first epoch", "steady")
MEGABYTE = 2**20
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}  # or each thread has its memory from elsewhere, which takes longer
KEPT = {f"MALLOC_{name}_THRESHOLD_": str(2**30) for name in ("TRIM", "MMAP")}
"""Has malloc keep what is freed. Else chance decides whether the system hands out the same pages anew at each step:
bare fits of the CNN, each in a process of its own, had 600 to 2,000 page faults a step, up to a tenth of its time."""


class Turns:
    """Lets one of several fits run at a time, each in a thread of its own."""

    def __init__(self, fits: list[str]) -> None:
        self.order = deque(fits)
        self.changed = threading.Condition()

    def wait(self, fit: str) -> None:
        """Until it is this one's turn."""
        with self.changed:
            self.changed.wait_for(lambda: self.order[0] == fit)

    def pause(self, fit: str) -> None:
        """Let all others go first."""
        with self.changed:
            self.order.rotate(-1)
            self.changed.notify_all()
        self.wait(fit)

    def leave(self, fit: str) -> None:
        """Be over."""
        with self.changed:
            self.order.remove(fit)
            self.changed.notify_all()


class Classifier(LightningModule):
    """Any net with logits for ten classes, and Adam; takes the time of its own steps.

    It keeps its last batches: to let go of their memory takes 11 microseconds, which are not those of a hook just
    because FirstNonFinite keeps one of them longer than Lightning does.
    """

    def __init__(self, net: nn.Module, pause: Callable[[], None]) -> None:
        super().__init__()
        self.net = net
        self.pause = pause
        self.original = id(self)
        self.clocks: list[tuple[float, float]] = []  # when it began, paused, went on, paused, ...
        self.steps = 0
        self.let_go_late = deque[object](maxlen=3)
        self.phases = ["start"]  # of each span between

    def forward(self, x: Tensor) -> Tensor:
        """Inputs to logits."""
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross entropy; logged, as users do. Steps of a check's copy belong to the turn that it is made in."""
        if id(self) == self.original:
            if self.steps >= START_UP and (self.steps - START_UP) % BLOCK == 0:
                self.take_turns()
            self.steps += 1
            self.let_go_late.append(batch)
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def on_train_epoch_end(self) -> None:
        """Stop the clocks before any callback concludes."""
        if self.current_epoch + 1 < EPOCHS:
            self.take_turns(PHASES[-1])
        else:
            self.read_clocks()
            self.pause()

    def take_turns(self, phase: str = "") -> None:
        """Let all others go first; in the first epoch until told otherwise."""
        self.read_clocks()
        self.pause()
        self.phases.append(phase or PHASES[min(self.current_epoch, 1) + 1])
        self.read_clocks()

    def read_clocks(self) -> None:
        """Wall and processor, in seconds."""
        self.clocks.append((time.perf_counter(), time.process_time()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), 1e-3)


class Batches(NamedTuple):
    """A size, and examples with their labels for as many batches as are asked for; none twice, all to be learnt.

    Else the checks of the data had something to tell, which takes time.
    """

    size: int
    inputs: Tensor
    labels: Tensor


def patterns(size: int, batches: int, *shape: int, of: Tensor) -> Batches:
    """Noise of a shape, upon which each class has its pattern."""
    labels = torch.randint(CLASSES, (size * batches,))
    return Batches(size, torch.randn(len(labels), *shape) + of[labels], labels)


class Transformer(nn.Module):
    """A small encoder over tokens (N, 32)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True)
        self.embedding = nn.Embedding(100, width)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens to logits."""
        logits: Tensor = self.head(self.encoder(self.embedding(tokens)).mean(1))
        return logits


def mlp(batches: int) -> tuple[nn.Module, Batches]:
    """Three layers; so small that Lightning's own cost of a step is most of it."""
    hidden = 256
    return nn.Sequential(
        nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES)
    ), patterns(64, batches, 784, of=0.1 * torch.randn(CLASSES, 784))


def cnn(batches: int) -> tuple[nn.Module, Batches]:
    """Two convolutions with BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, CLASSES),
    ), patterns(32, batches, 3, 32, 32, of=0.3 * torch.randn(CLASSES, 3, 1, 1))  # fmt: skip


def transformer(batches: int) -> tuple[nn.Module, Batches]:
    """Two layers over 32 tokens, of which each class has ten that are more frequent."""
    labels = torch.randint(CLASSES, (16 * batches,))
    tokens, own = torch.randint(100, (len(labels), 32)), torch.rand(len(labels), 32) < 1 / CLASSES
    tokens[own] = (10 * labels[:, None] + tokens % 10)[own]
    return Transformer(), Batches(16, tokens, labels)


def large(batches: int) -> tuple[nn.Module, Batches]:
    """Parameters of 100 MB, so that a copy is seen among all else that a process holds."""
    width = 2900
    return nn.Sequential(
        nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    ), patterns(8, batches, width, of=0.1 * torch.randn(CLASSES, width))


ATTACHED: dict[str, Callable[[], list[Callback]]] = {
    "bare": list,
    "recipe()": recipe,
    "data": lambda: [DataProfile(), SplitCheck(), HardExamples(), SeedCheck(), AugmentationCheck()],
    "monitors": lambda: [LearningRateMonitor("step"), DeviceStatsMonitor(cpu_stats=True)],
    "bare again": list,
}


class Hooks:
    """Adds up the seconds that callbacks' hooks take, and what is called after each step, after the start, by phase."""

    def __init__(self, enter: Callable[..., None], hear: Callable[..., None]) -> None:
        self.enter, self.hear = enter, hear
        self.seconds: dict[Trainer, Counter[str]] = defaultdict(Counter)

    def __call__(self, trainer: Trainer, hook_name: str, *arguments: Any, **keywords: Any) -> None:
        """Instead of Lightning's function that enters a hook of all callbacks of a trainer."""
        start = time.process_time()
        self.enter(trainer, hook_name, *arguments, **keywords)
        if hook_name in STEP_HOOKS:
            self.add(trainer, time.process_time() - start)

    def hears(self, watch: Watch, *arguments: Any) -> None:
        """Instead of the watch's own method, which is called after each training step."""
        start = time.process_time()
        self.hear(watch, *arguments)
        self.add(watch.run.trainer, time.process_time() - start)

    def add(self, trainer: Trainer, seconds: float) -> None:
        """Of a step after the start."""
        epoch = trainer.current_epoch
        if epoch or trainer.fit_loop.epoch_loop.batch_idx >= START_UP:
            self.seconds[trainer][PHASES[min(epoch, 1) + 1]] += seconds


HOOKS = Hooks(call._call_callback_hooks, Watch.hears)  # noqa: SLF001 - there is no other place that sees all callbacks
call._call_callback_hooks = HOOKS  # noqa: SLF001


def hears(watch: Watch, outputs: Any, batch: Any) -> None:
    """Stands in place of the watch's method."""
    HOOKS.hears(watch, outputs, batch)


Watch.hears = hears  # type: ignore[method-assign]
time_budget.time = SimpleNamespace(monotonic=time.thread_time)  # while other fits run, no time passes for this one


def fit(make: str, attached: str, steps: int, turns: Turns | None = None) -> dict[str, float]:
    """Seconds of one fit: at the start and afterwards, by both clocks; and in hooks, afterwards."""
    turns = turns or Turns([attached])
    turns.wait(attached)
    try:
        return _fit(make, attached, steps, lambda: turns.pause(attached))
    finally:
        turns.leave(attached)


def _fit(make: str, attached: str, steps: int, pause: Callable[[], None]) -> dict[str, float]:
    torch.set_num_threads(1)  # of each thread
    seed_everything(0, verbose=False)
    net, (size, inputs, labels) = globals()[make](steps // EPOCHS)
    module = Classifier(net, pause)
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=EPOCHS, accelerator="cpu", callbacks=ATTACHED[attached](), logger=TensorBoardLogger(folder),
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip
        module.read_clocks()
        trainer.fit(module, DataLoader(TensorDataset(inputs, labels), size, shuffle=True))
    spans = list(zip(module.phases, module.clocks[::2], module.clocks[1::2], strict=True))
    hooks = HOOKS.seconds.pop(trainer, Counter())
    return {f"{phase} hooks": hooks[phase] for phase in PHASES} | {
        f"{phase} {clock}": sum(after[i] - before[i] for of, before, after in spans if of == phase)
        for phase in PHASES
        for i, clock in enumerate(("wall", "processor"))
    }


def fit_in_turn(make: str, names: list[str], steps: int) -> dict[str, dict[str, float]]:
    """The same of several fits, in blocks of steps."""
    turns = Turns(names)
    with contextlib.redirect_stdout(io.StringIO()), ThreadPoolExecutor(len(names)) as threads:
        fits = {name: threads.submit(fit, make, name, steps, turns) for name in names}
    return {name: done.result() for name, done in fits.items()}


def time_all(make: str, rounds: int, steps: int, *, warm_up: bool = True) -> None:
    """Print the ratios of one net."""
    names = list(ATTACHED)
    if warm_up:
        fit_in_turn(make, names, EPOCHS * (START_UP + BLOCK))
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in ATTACHED}
    for i in range(rounds):
        for name, measured in fit_in_turn(make, random.Random(i).sample(names, len(names)), steps).items():
            seen[name].append(measured)
        now = {n: seen[n][-1]["steady processor"] / seen["bare"][-1]["steady processor"] for n in names[1:]}
        print(f"  round {i + 1}: " + ", ".join(f"{name} x{ratio:.3f}" for name, ratio in now.items()), flush=True)
    for name in names[1:]:
        pairs = list(zip(seen[name], seen["bare"], strict=True))
        for clock in ("processor", "wall"):
            more = median(full[f"start {clock}"] - bare[f"start {clock}"] for full, bare in pairs)
            bare_ms = 1000 * median(bare[f"steady {clock}"] for _, bare in pairs) / (steps - steps // EPOCHS)
            said = []
            for phase in PHASES[1:]:
                own, of = f"{phase} hooks", f"{phase} processor"
                hooks = median((full[own] - bare[own]) / bare[of] for full, bare in pairs)
                ratios = sorted(full[f"{phase} {clock}"] / bare[f"{phase} {clock}"] for full, bare in pairs)
                span = f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
                said.append(f"{phase} x{median(ratios):.3f} ({span}), in hooks x{1 + hooks:.4f}")
            print(
                f"{make:12} {name:10} {clock:10} {'; '.join(said)}; of {bare_ms:.2f} ms a step; start-up {more:+.2f} s",
                flush=True,
            )


def measure_memory(make: str, attached: str, steps: int) -> dict[str, float]:
    """Megabytes that this process held at most, at the start and after it."""
    peaks = {"start": 0.0, "steady": 0.0}
    state, over = {"phase": "start"}, threading.Event()
    process = psutil.Process()

    def later(*arguments: Any) -> None:
        if arguments[-1] == steps // 2:
            state["phase"] = "steady"

    def watch() -> None:
        while not over.wait(0.002):
            peaks[state["phase"]] = max(peaks[state["phase"]], process.memory_info().rss / MEGABYTE)

    ATTACHED["watched"] = lambda: [*ATTACHED[attached](), LambdaCallback(on_train_batch_start=later)]
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    fit(make, "watched", EPOCHS * max(steps, START_UP + 2))
    over.set()
    watcher.join()
    return peaks


def compare_memory(make: str, steps: int) -> None:
    """Print how much more a process holds with the recipe than without."""
    net, _ = globals()[make](1)
    copy = 4 * sum(p.numel() * p.element_size() for p in net.parameters()) / MEGABYTE  # gradients, and two moments
    held = {}
    for attached in ("bare", "recipe()"):
        command = [sys.executable, __file__, "--memory", make, attached, "--steps", str(steps)]
        given = {name: value for name, value in os.environ.items() if name not in KEPT}
        done = subprocess.run(command, env=given, capture_output=True, text=True, check=True)  # noqa: S603
        held[attached] = json.loads(done.stdout.splitlines()[-1])
    for phase in ("start", "steady"):
        bare, full = (held[name][phase] for name in ("bare", "recipe()"))
        print(
            f"memory {phase:6} bare {bare:5.0f} MB, recipe() {full:5.0f} MB: {(full - bare) / copy:+.2f} copies of the "
            f"module with its optimiser ({copy:.0f} MB)"
        )


def compare_checklist() -> None:
    """Time the same checks as another package does them, by hand and outside of fit."""
    try:
        from neural_net_checklist import torch_diagnostics as checklist  # noqa: PLC0415
    except ImportError:
        print("neural_net_checklist is not installed: not compared")
        return
    for make in ("mlp", "cnn"):
        seed_everything(0, verbose=False)
        _, batch = globals()[make](1)
        batch = batch.inputs, batch.labels
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            checklist.assert_balanced_classification_cross_entropy_loss_at_init(
                globals()[make](1)[0], batch, num_classes=CLASSES
            )
            checklist.assert_forward_batch_independence(lambda make=make: globals()[make](1)[0], batch)
            checklist.assert_backward_batch_independence(lambda make=make: globals()[make](1)[0], batch)
            checklist.assert_overfit_to_batch(globals()[make](1)[0], batch)
        print(f"{make:12} neural_net_checklist, the same four checks: {time.perf_counter() - start:.2f} s")


def main() -> None:
    """Print a row for each net and clock."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="only prove that it runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3000, help="of all epochs together")
    parser.add_argument("--nets", nargs="+", default=["mlp", "cnn", "transformer"])
    parser.add_argument("--only", nargs="+", default=list(ATTACHED), help="what is attached, besides nothing")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    malloc = ONE_ARENA if options.memory else ONE_ARENA | KEPT
    if not malloc.items() <= os.environ.items():  # which is read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | malloc)  # noqa: S606
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.memory:
        print(json.dumps(measure_memory(*options.memory, options.steps)))
        return
    for name in ATTACHED.keys() - {*options.only, "bare"}:
        del ATTACHED[name]
    rounds, steps = (1, EPOCHS * (START_UP + 10)) if options.short else (options.rounds, options.steps)
    for make in ("mlp",) if options.short else options.nets:
        time_all(make, rounds, steps, warm_up=not options.short)
    compare_memory("mlp" if options.short else "large", START_UP + 10)
    compare_checklist()


if __name__ == "__main__":
    main()
