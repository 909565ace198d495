"""Recipe, section 3: "Adam is safe"; updates of about a thousandth of the weights."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from lightning_recipe.callback import Check
from lightning_recipe.callbacks import _rounded_away as rounding
from lightning_recipe.callbacks import _update_ratios as ratios
from lightning_recipe.callbacks._decay_in_adam import decay_in_adam
from lightning_recipe.callbacks._eps import damped, damping
from lightning_recipe.callbacks._loss_course import Course
from lightning_recipe.callbacks._penalised import Penalties
from lightning_recipe.callbacks._untrained import Unmoved, is_as_drawn
from lightning_recipe.callbacks._update_ratios import ADAMS, AT_LEAST, PLATEAU, Layer, Look
from lightning_recipe.callbacks._vanished import Table, vanished
from lightning_recipe.finding import Section
from lightning_recipe.record.step import Need
from lightning_recipe.schedule import highest, rate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.optim import Optimizer

    from lightning_recipe.finding import Finding, Outcome
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

DECOUPLED = {"Adafactor", "Lamb", "LAMB", "Lion", "Muon", "SGDW", "AdamWScheduleFree", "SGDScheduleFree"}
"""Optimisers that take weight decay, times the rate, off the weights; others add it to the gradient."""
LEARNT = 0.01
"""Of `smallest`: what is too small for weights that have learnt something before, and are to change little."""


class UpdateRatioMonitor(Check):
    """Compares what the optimiser's steps change with the weights that they change, and judges the extremes.

    Only weights with two dimensions or more, in norms of the whole weight, and of embeddings decay. Each verdict needs
    three looks in a row, and a training loss that agrees:

    - `too_large`: the median update was above `largest` at three looks, and the loss is no lower than at first, rose
      and did not come down far, or the weights are not finite any more;
    - `too_small`: it is below `smallest`, and so small that all steps of the run together are less than a tenth of the
      weights, while the loss stands still. A hundredth of that for weights that have learnt something before.
      `advice` where it is only some layers, with a thousandth of the rate of others, that stay as they were drawn;
    - `eps_outweighs`: the `eps` of an Adam or RMSprop is more than ten times what it is added to, the root of the
      squared gradients, in nine of ten elements of weights that were drawn, and all steps of the run together are less
      than a tenth of the weights, or the loss stands still and updates are below `smallest`;
    - `weight_decay_outweighs`: decay is most of what moves the weights, which shrank, and what was learnt is lost; or
      next to nothing is left of them, by a penalty in the loss; or nothing of an embedding, whose decay is larger than
      its gradient, while the loss is above half of the first; or nothing of some weights, while their gradient points
      along themselves, as that of a penalty does; `advice` where that is a norm, as of a group lasso;
    - `decay_in_adam`: weights shrink by half by a decay of 0.01 or more that Adam adds to the gradient, as if it were
      AdamW: `advice`;
    - `rounded_away`: 16-bit weights of which more than 90 % of the elements have a gradient and stay as they are;
      `advice` where the loss falls nevertheless. Half of them is enough if they stay so for 50 steps, in a network that
      is trained from scratch. Once the loss is below half of the first, it takes two looks in a row, and is `advice`;
      below a tenth of it nothing is said but where three quarters are so large that no step of Adam can move them, and
      stay while the loss goes on falling, and, as `advice`, where half of all elements are, or those of embeddings that
      were just drawn stay, a quarter of which is as large; nor of other optimisers than torch's, which may keep what is
      rounded away;
    - `never_moves`: weights with a gradient and a rate that no step changes.

    Looks below half of the highest rate, as in a warm-up and at the end of a schedule, and steps whose gradients were
    not finite, which a GradScaler leaves out, tell nothing.

    Args:
        largest: Update to weight above which an update tears at the weights.
        smallest: Update to weight below which it hardly moves them.
        strict: Stop the run when something failed.

    Raises:
        ValueError: If not 0 < `smallest` < `largest`.

    Source:
        A. Karpathy, CS231n, Neural Networks Part 3 (2015): "A rough heuristic is that this ratio should be somewhere
        around 1e-3." A. Karpathy, A Recipe for Training Neural Networks (2019): "Adam with a learning rate of 3e-4";
        "screwed up the settings for regularization strengths".

    Legitimate:
        - Layers that begin at zero, as of LoRA: their first updates are large against what they are.
        - Fine-tuning with rates of 1e-5: updates are small, and the loss falls. Converged training.
        - An `eps` of 1e-3, or of 1, with a rate to go with it, or gradients as large.
        - Frozen parts; groups with a rate of 0.
        - Small penalties in the loss; layers that nothing uses; what a group lasso takes to 0.

    Cost:
        At each look a copy of the weights, and three norms for each of them, on their device.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> monitor = UpdateRatioMonitor()
        >>> trainer = Trainer(callbacks=[monitor], barebones=True, max_steps=30)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> monitor.findings[0].status
        <Status.PASSED: 'passed'>

    """

    section = Section.OVERFIT
    sentence = 2
    why = "updates of a thousandth of the weights train; much smaller ones change nothing, much larger ones destroy"
    needs = Need.GRADIENTS | Need.UPDATES
    explains: ClassVar = {
        "too_large": (
            *("PredictionDynamicsLogger/*", "ActivationMonitor/*", "OverfitOneBatch/optimiser_unstable", "Baselines/*"),
            "InputIndependenceCheck/input_ignored",
        ),
        "too_small": ("PredictionDynamicsLogger/frozen", "Baselines/*"),
        "eps_outweighs": (
            *("PredictionDynamicsLogger/frozen", "OverfitOneBatch/learning_rate_too_low"),
            *("OverfitOneBatch/optimiser_slow", "UpdateRatioMonitor/too_small", "Baselines/*"),
        ),
        "weight_decay_outweighs": (
            *("PredictionDynamicsLogger/*", "ActivationMonitor/*", "Baselines/*"),
            "InputIndependenceCheck/input_ignored",
        ),
        "decay_in_adam": ("Baselines/*",),
        "rounded_away": (
            *("PredictionDynamicsLogger/frozen", "OverfitOneBatch/learning_rate_too_low"),
            *("OverfitOneBatch/optimiser_slow", "Baselines/*"),
        ),
    }
    patience = 3

    def __init__(self, *, largest: float = 0.1, smallest: float = 1e-4, strict: bool = False) -> None:
        super().__init__(strict=strict)
        if not 0 < smallest < largest:
            msg = f"0 < smallest < largest expected, got {smallest:g} and {largest:g}"
            raise ValueError(msg)
        self.largest, self.smallest = largest, smallest

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Begin anew with each fit; by hand, the loss is known by its backward only."""
        self._looks: list[Look] = []
        self._tables: list[tuple[int, dict[str, Table]]] = []
        self._penalties = Penalties()
        self._course = Course()
        self._peaks = run.peak_rates
        self._unmoved = Unmoved(AT_LEAST)
        self._from_scratch = False
        self.needs = type(self).needs | (Need(0) if run.module.automatic_optimization else Need.WIRING)
        yield from ()

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Measure, show, and judge what all looks say together."""
        looks, course = self._looks, self._course
        course.look(run, step)
        if not all(math.isfinite(change.norm) for change in step.updates.values()):
            if outcome := ratios.too_large(looks, course, self.largest, broken=True):
                yield self.found(outcome)
            return
        layers = self._layers(run, step)
        parameters, embeddings = dict(run.module.named_parameters()), _embeddings(run)
        penalised = self._penalties.look(run.step, layers, parameters, run.horizon, course)
        tables = {name: layers.pop(name) for name in list(layers) if name in embeddings}
        if tables and all(math.isfinite(table.gradient) for table in tables.values()):
            self._tables.append((run.step, {name: Table(one.weight, one.decay) for name, one in tables.items()}))
        lost = vanished(self._tables, course) if self._tables else None
        look = Look(run.step, layers)
        if (alone := lost or penalised) and not layers:
            yield self.found(alone)
        if not look.layers or not all(math.isfinite(layer.gradient) for layer in look.layers.values()):
            return
        self._looks.append(look)
        self._plot(run, look)
        smallest = self.smallest
        if look.ratio < smallest and not self._as_drawn(run, look):
            smallest *= LEARNT
        self._unmoved.look(run.step, {name: parameters[name] for name in (*layers, *tables)}, self._sizes(run))
        if len(self._looks) == 1:
            self._from_scratch = self._unmoved.watches and self._as_drawn(run, look)
        decay = lost or ratios.decay_outweighs(looks, course) or ratios.shrunk(looks, course) or penalised
        in_adam = decay_in_adam(looks, course, run.trainer.optimizers)
        for outcome in (
            decay or ratios.too_large(looks, course, self.largest) or in_adam,
            damped(
                looks,
                course,
                damping(run.trainer.optimizers),
                self.smallest,
                run.horizon,
                lambda: self._as_drawn(run, look),
            )
            or self._rounded_away(run)
            or ratios.group_too_small(looks, course, lambda name: is_as_drawn(parameters[name]), run.horizon)
            or ratios.too_small(looks, course, smallest, run.horizon),
            ratios.never_moves(looks),
        ):
            if outcome is not None:
                yield self.found(outcome)

    def _rounded_away(self, run: Run) -> Outcome | None:
        if not all(type(optimizer).__module__.startswith("torch.optim") for optimizer in run.trainer.optimizers):
            return None
        known = (self._looks, self._course, self._unmoved)
        scratch = self._unmoved if self._from_scratch else None
        return (
            rounding.out_of_reach(*known)
            or rounding.rounded_away(self._looks, self._course, scratch)
            or rounding.partly_out_of_reach(*known)
            or (rounding.tables_out_of_reach(self._course, scratch, _embeddings(run)) if scratch else None)
        )

    def _sizes(self, run: Run) -> dict[str, float]:
        """How far the largest steps move an element of a parameter, of those that Adam steps."""
        peaks = {
            id(p): self._peak(i, j, group)
            for i, optimizer in enumerate(run.trainer.optimizers)
            for j, group in enumerate(optimizer.param_groups)
            if type(optimizer).__name__ in ADAMS
            for p in group["params"]
        }
        return {name: peaks[id(p)] for name, p in run.module.named_parameters() if id(p) in peaks}

    def _layers(self, run: Run, step: Step) -> dict[str, Layer]:
        weights = {n: p for n, p in run.module.named_parameters() if p.ndim > 1}
        groups = {
            id(p): (optimizer, group, self._peak(i, j, group))
            for i, optimizer in enumerate(run.trainer.optimizers)
            for j, group in enumerate(optimizer.param_groups)
            for p in group["params"]
        }
        layers = {}
        for name, change in step.updates.items():
            gradient = step.gradients.get(name, math.nan)
            if name not in weights or math.isnan(gradient):
                continue
            optimizer, group, peak = groups.get(id(weights[name]), (None, {}, math.nan))
            now = rate(group)
            layers[name] = Layer(
                change.norm,
                change.before,
                math.sqrt(len(weights[name]) / 3),
                gradient,
                now,
                _decay(optimizer, group, now, change.before, change.norm, gradient),
                change.rounded,
                not now < PLATEAU * peak and now != 0,
            )
        return layers

    def _peak(self, optimizer: int, group: int, settings: dict[str, Any]) -> float:
        """The highest rate of a parameter group; one that was added later has its own."""
        known = self._peaks[optimizer] if optimizer < len(self._peaks) else []
        rates = [settings.get("initial_lr", math.nan), *known[group : group + 1], rate(settings)]
        return highest(float(one) for one in rates)

    def _as_drawn(self, run: Run, look: Look) -> bool:
        """Whether all weights are as they were initialised; updates this small have not changed that."""
        return all(is_as_drawn(p) for name, p in run.module.named_parameters() if name in look.layers)

    def _plot(self, run: Run, look: Look) -> None:
        """A few curves: the median, the first layer, and the last."""
        names = list(self._looks[0].layers)
        few = {name: look.layers[name].ratio for name in (names[0], names[-1]) if name in look.layers}
        values = {"median": look.ratio} | few
        curves = {f"update to weight, {name} (log10)": math.log10(v) for name, v in values.items() if 0 < v < math.inf}
        self.plot(run, curves)

    def end(self, run: Run) -> Iterator[Finding]:  # noqa: ARG002
        """There is no silence."""
        known = [look.ratio for look in self._looks if math.isfinite(look.ratio)]
        if self.findings:
            return
        if self._looks and not known:
            yield self.skipped("no step was seen at half of the highest rate of the run, or more, as in a warm-up")
        elif not known:
            yield self.skipped("no step was seen to update a weight with two dimensions or more")
        else:
            middle = statistics.median(known)
            yield self.passed(f"an update is {middle:.1g}x the weights (median of {len(known)} looks)", ratio=middle)


def _embeddings(run: Run) -> set[str]:
    """The names of their tables."""
    own = {id(p) for m in run.module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) for p in m.parameters()}
    return {name for name, p in run.module.named_parameters() if id(p) in own}


def _decay(  # noqa: PLR0913, PLR0917 - the numbers of one weight
    optimizer: Optimizer | None, group: dict[str, Any], rate: float, weight: float, change: float, gradient: float
) -> float:
    """Share of weight decay in what moves a weight: of the update if taken off the weight, else of the gradient."""
    strength = float(group.get("weight_decay") or 0)
    if not strength:
        return 0.0
    name = type(optimizer).__name__
    if group.get("decoupled_weight_decay") or name in DECOUPLED or name.endswith("W"):
        own = rate * strength * weight
        return min(1.0, own / change) if change else 0.0
    own = strength * weight
    return own / (own + gradient) if own + gradient else 0.0
