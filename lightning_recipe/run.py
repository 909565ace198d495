"""What the run will be: its length, its learning rates now and to the end, its loaders and the sizes of its batches."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning.fabric.utilities.data import sized_len
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import (
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_recipe.ranks import Ranks
from lightning_recipe.record.tensors import leading_size, tensors
from lightning_recipe.schedule import LONGEST, Schedule, foresee, highest, rates_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import LightningModule, Trainer
    from torch.optim import Optimizer


@dataclass
class Run:
    """A fit that has begun.

    Attributes:
        trainer: The trainer of the run.
        batch: The first training batch, as ``training_step`` receives it; None before.
        step: Batches that have been trained on, the x axis of Lightning's loggers.
        loss: Mean training loss of the batches shortly before a look; NaN where there was none.
        resumed: Whether training goes on from a checkpoint or an earlier fit.
        loader: Index of the validation loader that is looked at.
        val_batch: Index of its batch that is looked at.
        interrupted: Whether an exception ended training.
        ranks: The processes that train together.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> Run(Trainer(barebones=True, max_steps=100)).horizon
        100.0

    """

    trainer: Trainer
    batch: Any = None
    step: int = 0
    loss: float = math.nan
    resumed: bool = False
    loader: int = 0
    val_batch: int = 0
    interrupted: bool = False
    ranks: Ranks = field(default_factory=Ranks)

    @property
    def module(self) -> LightningModule:
        """The user's module."""
        module: LightningModule = self.trainer.lightning_module
        return module

    def overrides(self, hook: str) -> bool:
        """Whether the module has a hook of its own, in place of that of either of Lightning's packages."""
        return not getattr(self.module, hook).__module__.startswith(
            ("lightning.pytorch.core.", "pytorch_lightning.core.")
        )

    # -- its ranks

    @property
    def shard(self) -> tuple[int, int]:
        """Which share of the data this rank is given, and how many there are.

        Ranks that hold parts of one model have the same.
        """
        known = self.trainer.distributed_sampler_kwargs or {}
        return known.get("rank", self.trainer.global_rank), known.get("num_replicas", self.trainer.world_size)

    def gather(self, name: str, mine: Any, *, first: bool = False) -> list[Any]:
        """What has been seen under a name of each share of the data, in their order; see ``Ranks.gather``."""
        found: dict[int, Any] = {}
        for shard, seen in self.ranks.gather(name, self.step, (self.shard[0], mine), first=first):
            found.setdefault(shard, seen)
        return [found[shard] for shard in sorted(found)]

    # -- its length

    @property
    def batches_that_stepped(self) -> int:
        """The x axis of Lightning's own loggers and monitors; ``global_step`` counts every optimiser's steps."""
        return int(self.trainer.fit_loop.epoch_loop._batches_that_stepped)  # noqa: SLF001 - its monitors read it too

    @property
    def batches_begun(self) -> Any:
        """Lightning's own count, which goes on: `ready` training batches so far, the present one included."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.total

    @property
    def batches_per_epoch(self) -> float:
        """Training batches in an epoch; infinity if nobody knows."""
        return float(self.trainer.num_training_batches)

    @property
    def steps_per_epoch(self) -> float:
        """Batches in an epoch after which weights are updated; Lightning updates after the last one, too."""
        batches = self.batches_per_epoch
        return batches if math.isinf(batches) else math.ceil(batches / self.trainer.accumulate_grad_batches)

    @property
    def epochs(self) -> float:
        """Epochs to the planned end; infinity where only ``max_steps`` ends it, or nothing does."""
        most = self.trainer.max_epochs
        return math.inf if most is None or most < 0 else float(most)

    @property
    def horizon(self) -> float:
        """Batches that will have been trained on at the planned end; infinity if nobody knows.

        ``max_steps`` counts the steps of all optimisers. How many of them a batch takes is known once there was one;
        until then one is expected in automatic optimisation, and one of each optimiser by hand.
        """
        ends = [self.epochs * self.steps_per_epoch] if self.epochs else [0.0]
        if self.trainer.max_steps >= 0:
            done, taken = self.batches_that_stepped, self.trainer.global_step
            by_hand = not self.module.automatic_optimization if self.trainer.optimizers else False
            each = taken / done if done and taken else float(len(self.trainer.optimizers)) if by_hand else 1.0
            ends.append(self.trainer.max_steps / each)
        return min(ends)

    @property
    def limited(self) -> bool:
        """Whether an epoch is cut short, as by ``overfit_batches`` and ``fast_dev_run``: it is a trial."""
        limit = self.trainer.limit_train_batches
        return isinstance(limit, int) or limit < 1

    @property
    def may_end_earlier(self) -> bool:
        """Whether EarlyStopping or ``max_time`` may end it before its planned end."""
        names = {kind.__name__ for callback in self.trainer.callbacks for kind in type(callback).mro()}  # type: ignore[attr-defined]
        return not names.isdisjoint({"EarlyStopping", "Timer"})

    # -- its learning rates

    @property
    def rates(self) -> list[list[float]]:
        """The present learning rate of each parameter group, by optimiser; NaN where there is none, as in Adafactor."""
        return [rates_of(optimizer) for optimizer in self.trainer.optimizers]

    @property
    def rate(self) -> float:
        """The largest learning rate of now; NaN where there is none."""
        return highest(rate for group in self.rates for rate in group)

    @property
    def peak_rates(self) -> list[list[float]]:
        """The highest learning rate that each parameter group will have, by optimiser, as far as can be simulated.

        Schedulers that are stepped by hand are taken to be stepped as Lightning would; those that Lightning is not told
        of, to reach the rate that they began from, as after a warm-up.
        """
        optimizers, schedules = self.trainer.optimizers, self.schedules(by_hand=True)
        known = {id(getattr(config.scheduler, "optimizer", None)) for config in self.trainer.lr_scheduler_configs}
        begun = [
            [0.0 if id(o) in known else float(group.get("initial_lr", 0.0)) for group in o.param_groups]
            for o in optimizers
        ]
        return [
            [max(*rates, first) for *rates, first in zip(*schedule.rates, firsts, strict=True)]
            for schedule, firsts in zip(schedules, begun, strict=True)
        ]

    def schedules(self, interval: str | None = None, reach: float = 1.0, *, by_hand: bool = False) -> list[Schedule]:
        """The rates of each optimiser to the end of the run: its schedulers stepped on a copy, as Lightning will.

        Args:
            interval: "epoch" or "step": as if all schedulers were stepped so, each time. By default as they are.
            reach: How far to look, in lengths of the run.
            by_hand: Step those of manual optimisation, too, as if it were automatic.

        Example:
            >>> from lightning.pytorch import Trainer
            >>> Run(Trainer(barebones=True)).schedules()
            []

        """
        optimizers = range(len(self.trainer.optimizers))
        return [self.schedule_of(i, interval, reach, by_hand=by_hand) for i in optimizers]

    def schedule_of(
        self, index: int, interval: str | None = None, reach: float = 1.0, *, by_hand: bool = False
    ) -> Schedule:
        """The same of one optimiser."""
        optimizer = self.trainer.optimizers[index]
        configs = [c for c in self.trainer.lr_scheduler_configs if getattr(c.scheduler, "optimizer", None) is optimizer]
        schedule = Schedule(index, configs, steps=[self.batches_that_stepped], rates=[self.rates[index]])
        automatic = self.module.automatic_optimization
        schedule.known = not configs or (automatic and not any(config.reduce_on_plateau for config in configs))
        configs = [config for config in configs if (automatic or by_hand) and not config.reduce_on_plateau]
        schedule.complete = not configs or not math.isinf(self.horizon)

        def copies() -> tuple[Optimizer, list[Any]]:
            # parameters are shared, and no state is copied: schedules don't touch them; a method may be a schedule
            shared = [p for group in optimizer.param_groups for p in group["params"]] + [self.module, self.trainer]
            memo: dict[int, Any] = {id(one): one for one in shared} | {id(optimizer.state): {}}
            return copied_optimizer(optimizer, memo), [copy.deepcopy(config.scheduler, memo) for config in configs]

        steps = [self._stepped_at(c.interval, c.frequency, reach) for c in configs]
        if interval is not None:
            steps = [self._stepped_at(interval, 1, reach) for _ in configs]
        try:
            with isolate_rng(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                foresee(schedule, copies, steps)
        except Exception:  # noqa: BLE001 - something that can't be copied
            schedule.known = False
        return schedule

    def planned_steps(self, config: Any) -> Sequence[int]:
        """After how many batches trained on Lightning will step a scheduler, from now to the end of the run."""
        return self._stepped_at(config.interval, config.frequency, 1.0)

    def _stepped_at(self, interval: str, frequency: int, reach: float) -> Sequence[int]:
        """The same, `reach` times as far; of a run whose end is not known, the first `LONGEST`.

        With ``interval="epoch"`` Lightning counts epochs; with "step" the batches of each epoch, and passes over those
        after which gradients are accumulated. Every `frequency`-th count it steps.
        """
        now, each, end = self.batches_that_stepped, self.steps_per_epoch, self.horizon * reach
        if not each or (interval == "epoch" and math.isinf(each)):
            return ()
        if interval == "epoch":
            gap = int(frequency * each)
            first = (self.trainer.current_epoch // frequency + 1) * gap
            return range(first, first + LONGEST * gap if math.isinf(end) else int(end) + 1, gap)
        last = now + LONGEST if math.isinf(end) else int(end)
        together = self.trainer.accumulate_grad_batches
        if frequency == 1 or math.isinf(each):
            gap = math.lcm(together, frequency) // together
            return range(now + gap, last + 1, gap)
        batches = int(self.batches_per_epoch)
        counted = [b for b in range(frequency, batches + 1, frequency) if b % together == 0 or b == batches]
        steps = (begin + math.ceil(b / together) for begin in range(now, last, int(each)) for b in counted)
        return [step for step in steps if step <= last]

    # -- its data

    @property
    def loaders(self) -> list[Any]:
        """The training DataLoaders; several where batches are combined."""
        combined = self.trainer.fit_loop._combined_loader  # noqa: SLF001 - train_dataloader may be nested
        return list(getattr(combined, "flattened", []))

    @property
    def val_loaders(self) -> list[Any]:
        """The validation DataLoaders; none before validation has begun for the first time."""
        combined = self.trainer.fit_loop.epoch_loop.val_loop._combined_loader  # noqa: SLF001
        return list(getattr(combined, "flattened", []))

    @property
    def val_iterators(self) -> list[Any]:
        """Those of the validation that goes on; where loaders come one after the other, of the present one alone."""
        combined = self.trainer.fit_loop.epoch_loop.val_loop._combined_loader  # noqa: SLF001
        return list(getattr(getattr(combined, "_iterator", None), "iterators", []))

    @property
    def shuffled(self) -> bool | None:
        """Whether training examples are drawn at random; False if a DataLoader goes in order, None if nobody knows."""
        each = [_at_random(getattr(loader, "sampler", None)) for loader in self.loaders]
        return False if False in each or not each else None if None in each else True

    @property
    def batch_sizes(self) -> list[int]:
        """How many examples each training DataLoader puts into a batch, of those that decide it themselves."""
        return [size for loader in self.loaders if (size := _batch_size(loader)) is not None]

    def examples_in(self, batch: Any) -> int | None:
        """How many examples a batch holds: by the DataLoader if a tensor agrees, else the size most tensors share.

        Of graphs and molecules the most tensors have a row for each node; those of the targets agree with the
        DataLoader. The last batch of an epoch is shorter, though it may have as many features as others examples.
        """
        shapes, leading = [tensor.shape for _, tensor in tensors(batch)], leading_size(batch)
        shorter = any(shape == (leading,) for shape in shapes)
        agreed = [s for s in self.batch_sizes if any(s in shape[: 1 if shorter else 2] for shape in shapes)]
        return agreed[0] if agreed else leading


def copied_optimizer(optimizer: Optimizer, memo: dict[int, Any]) -> Optimizer:
    """A copy of an optimiser, all attributes included; its parameters are those that `memo` has for the original's.

    It is the object that `memo` has for the optimiser, if any, to which a copied module may refer.

    ``copy.deepcopy`` keeps three attributes only, without which LBFGS and others can't step.
    """
    duplicate: Optimizer = memo.setdefault(id(optimizer), object.__new__(type(optimizer)))
    kept = {name: value for name, value in vars(optimizer).items() if name != "step"}  # schedulers wrap it, and count
    duplicate.__dict__.update(copy.deepcopy(kept, memo))
    return duplicate


def _at_random(sampler: Any) -> bool | None:
    """Whether a sampler draws at random; None of one that is not PyTorch's own.

    Example:
        >>> _at_random(RandomSampler(range(4))), _at_random(SequentialSampler(range(4))), _at_random([2, 0])
        (True, False, None)
        >>> _at_random(DistributedSampler(range(4), num_replicas=2, rank=0, shuffle=False))
        False

    """
    if isinstance(sampler, DistributedSampler):
        return bool(sampler.shuffle)
    known = isinstance(sampler, SequentialSampler | RandomSampler | SubsetRandomSampler | WeightedRandomSampler)
    return not isinstance(sampler, SequentialSampler) if known else None


def _batch_size(loader: Any) -> int | None:
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if not isinstance(size, int):
        return None
    return min(size, sized_len(getattr(loader, "dataset", None)) or size)
