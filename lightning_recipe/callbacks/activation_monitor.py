"""Common mistakes: units that are off for ever, and signals that vanish or explode on their way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from lightning_recipe.callback import Check
from lightning_recipe.callbacks import _signal as signal
from lightning_recipe.callbacks._attention import attended
from lightning_recipe.callbacks._faint import drawn_small, faint, spreads
from lightning_recipe.callbacks._loss_course import Course
from lightning_recipe.callbacks._plateau import Plateau
from lightning_recipe.callbacks._signal import AT_LEAST, BOUNDED, CUT_OFF, LOOP, Depth, State
from lightning_recipe.callbacks._untrained import is_as_drawn
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.figures.depth import across_depth
from lightning_recipe.finding import Section
from lightning_recipe.record.step import Need, Reduced
from lightning_recipe.show import loggers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lightning_recipe.finding import Finding, Outcome
    from lightning_recipe.record.events import Event
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

DIFFERENCES = {"add", "sub", "rsub", "radd", "iadd", "isub", "add_", "sub_", "mul", "rmul", "neg"}
"""Functions that the argument of a hinge is made by."""
TRIES = 6
"""Looks, at most, at which the step is run again to see whether examples differ."""
COLLECT = {"stack", "cat", "unsqueeze"}
"""Functions that keep the states of a loop for later."""
FUNCTIONS: dict[str, nn.Module] = {"tanh": nn.Tanh(), "sigmoid": nn.Sigmoid()}
"""Bounded functions, and what they are as modules."""


class ActivationMonitor(Check):
    """Looks at what layers put out, and at the gradients that come back to them, and judges the extremes.

    Each verdict needs three looks in a row, after the first steps, and a training loss that agrees:

    - `dead`: a ReLU puts out nothing but zeros; or more than `zeros` of them, and the loss is above 0.7 of the first:
      `advice` if it is below 0.95 of it, for units that are seldom on may be all that is needed;
      or the gradient of most weights is exactly 0, as where ReLU is called as a function;
    - `units_dead`: more than half of the units of a ReLU put out 0 for whole batches, while the others don't, and the
      loss is above 0.95 of the first; `advice` above 0.7;
    - `saturated`: the mean slope of a tanh or sigmoid between two layers, or of a recurrent state, is below `slope` of
      the steepest, or of a state below three times that from the beginning, and the loss is above 0.7 of the first;
    - `saturated_as_drawn`: most of the hidden tanh and sigmoid, and two at least, have a mean slope below 0.2 of the
      steepest from the first look on, with weights as they were drawn, whatever the loss does;
    - `vanishing`, `exploding`: in a network of at least four layers, the gradient of the first, in norms of its weight,
      is smaller than that of the last by more than `factor`, or what the last puts out is larger by as much, and the
      loss is, after 100 steps, what it was (after 25, if it is 100 times `factor`; gradients that vanished while the
      loss stood still may be larger by then); or, as where weights were drawn too
      small, what the last puts out for different examples differs less by as much. Or outputs grow by as much from the
      beginning, to a standard deviation above 100, and the loss began more than ten times too high;
    - `attention_at_one_place`: the largest weight of a row, on average, is above 0.9 in half of the attentions, with
      weights as they were drawn; or above 0.3, and scores are multiplied by the root of the size of a head; `advice`
      where they are divided by it, and what enters is large;
    - `attention_on_padding`: half of the attentions spend more than half of their weight on the padding of sequences,
      told by an embedding's `padding_idx`, or by a token at the ends of sequences and nowhere else; `advice` from a
      tenth on;
    - `mask_without_effect`: a mask of the batch, or a causal one, leaves the scores of a softmax about 0 where it is to
      hide something, as filled with -1e-9, or multiplied by it.

    Args:
        zeros: Share of zeros, 0 to 1, in what an activation puts out.
        slope: Share of the steepest slope, 0 to 1.
        factor: Between the first layer and the last.
        strict: Stop the run when something failed.

    Raises:
        ValueError: If a share is not between 0 and 1, or the factor is not above 1.

    Source:
        A. Karpathy, Yes you should understand backprop (2016): "vanishing gradients on sigmoids", "dying ReLUs",
        "exploding gradients in RNNs". Tried on 93 bugs and 116 healthy programs, zeros over 90 % found 8 and accused
        none; gradients of the first and the last layer that differ 100 times found 8 and accused one; a
        loss that stands still above 0.7 of the first found 11 and accused none.

    Legitimate:
        - Scores of normalised queries and keys, cosines, which are multiplied to be sharper.
        - Units that are sparse on purpose, in sparse autoencoders and mixtures of experts, while the loss falls.
        - Networks that were trained before, whose units may be sparse or flat from the beginning.
        - A single hidden layer that is flat by large inputs, as where features are hashed.
        - Gates, and sigmoids at the output: only what goes into another layer is judged.
        - Hinges, as of margins in the loss, which are 0 for all that has been learnt.
        - GELU, SiLU and others that are never quite flat; zeros of dropout, masks and padding.
        - Several networks that take turns: nothing is compared across depth.

    Cost:
        At each look, five numbers of what each layer puts out, and the norms of gradients and weights, on their device;
        the first step once more, where there is a softmax or an attention in it, and up to six more of a deep network
        with small weights whose loss does not fall.

    Pictures:
        - `depth`: Standard deviation of what each layer puts out, and its gradient, from first layer to last, at
          the first look and the last. All within about a factor of ten is well; a slope down or up is not.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> monitor = ActivationMonitor()
        >>> trainer = Trainer(callbacks=[monitor], barebones=True, max_steps=30)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> monitor.findings[0].status
        <Status.PASSED: 'passed'>

    """

    section = Section.MISTAKES
    sentence = 13
    why = "what is off or flat lets no gradient through, so that the layers before it stay as they are"
    needs = Need.WIRING | Need.OUTPUTS | Need.GRADIENTS | Need.UPDATES
    explains: ClassVar = {
        "dead": (
            *("PredictionDynamicsLogger/*", "UpdateRatioMonitor/too_small", "ActivationMonitor/vanishing"),
            *("InputIndependenceCheck/input_ignored", "BatchMixingDetector/constant_output", "Baselines/*"),
            *("OverfitOneBatch/cannot_tell_examples_apart", "OverfitOneBatch/no_gradient"),
        ),
        "units_dead": ("PredictionDynamicsLogger/*", "Baselines/*"),
        "cut": ("PredictionDynamicsLogger/*", "UpdateRatioMonitor/too_small", "Baselines/*"),
        "saturated": (
            *("PredictionDynamicsLogger/*", "UpdateRatioMonitor/too_small", "ActivationMonitor/vanishing"),
            *("OverfitOneBatch/cannot_tell_examples_apart", "OverfitOneBatch/stuck", "Baselines/*"),
            "InputIndependenceCheck/places_unread",
        ),
        "saturated_as_drawn": (
            *("ActivationMonitor/saturated", "ActivationMonitor/vanishing", "ActivationMonitor/exploding"),
            *("Baselines/*", "OverfitOneBatch/*", "PredictionDynamicsLogger/*", "UpdateRatioMonitor/too_small"),
        ),
        "attention_at_one_place": ("Baselines/*", "OverfitOneBatch/*"),
        "attention_on_padding": ("Baselines/*",),
        "mask_without_effect": ("Baselines/*", "CausalityCheck/sees_future"),
        "vanishing": (
            *("PredictionDynamicsLogger/*", "UpdateRatioMonitor/too_small", "Baselines/*"),
            *("OverfitOneBatch/cannot_tell_examples_apart", "OverfitOneBatch/stuck", "OverfitOneBatch/no_gradient"),
            "InputIndependenceCheck/input_ignored",
        ),
        "exploding": ("PredictionDynamicsLogger/*", "Baselines/*", "InitLossCheck/too_high"),
    }
    patience = 3

    def __init__(
        self, *, zeros: float = 0.9, slope: float = 0.05, factor: float = 1000.0, strict: bool = False
    ) -> None:
        super().__init__(strict=strict)
        if not (0 < zeros < 1 and 0 < slope < 1 < factor):
            msg = f"shares between 0 and 1, and a factor above 1 expected, got {zeros:g}, {slope:g} and {factor:g}"
            raise ValueError(msg)
        self.zeros, self.slope, self.factor = zeros, slope, factor

    def before_training(self, run: Run) -> Iterator[Finding]:  # noqa: ARG002
        """Begin anew with each fit."""
        self._course = Course()
        self._first: tuple[int, list[Depth]] | None = None
        self._last: tuple[int, list[Depth]] | None = None
        self._given, self._flat, self._sparse = set[str](), set[str](), set[str]()
        self._grows = self._stuck = False
        self._plateau = Plateau()
        self._tries = 0
        self._attention: list[Outcome] = []  # what is told of it: at several looks, as all else
        yield from ()

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Measure, and judge."""
        self._course.look(run, step)
        layers = depths(step, {id(p): name for name, p in run.module.named_parameters()})
        kinds = activations(step)
        if layers:
            self._last = (run.step, layers)
            if self._first is None:
                self._first = self._last
                self._begin(run, step, kinds, layers)
        yield from map(self.found, self._attention)
        if self._stuck and (drawn := signal.drawn_flat(kinds, run.step, layers_before(step))) is not None:
            yield self.found(drawn)
        norms = [norm for norm in step.gradients.values() if not math.isnan(norm)]
        if run.step < AT_LEAST or any(math.isinf(norm) for norm in norms):
            return
        judged = {name: seen for name, seen in kinds.items() if name not in self._given}
        course, alone = self._course, len(run.trainer.optimizers) == 1
        off = signal.dead(judged, course, self.zeros) or signal.cut(layers, others=any(norms), course=course)
        flat = signal.saturated(judged, course, self.slope, self._flat)
        plateau = self._plateau.look(layers, course, self.factor)
        deep = signal.across(layers, course, self.factor, drawn=self._grows) if alone and not off else None
        if alone and not deep and (deep := self._faint(run, step, layers, off=off is not None)):
            off = None  # where all examples look the same, units are off for all
        if alone and not off and not deep:
            deep = signal.vanishing(layers, course, signal.EXTREME * self.factor) or plateau
        dense = {name: seen for name, seen in judged.items() if name not in self._sparse}
        units = None if off or deep else signal.units_off(dense, course)
        for outcome in (off, units, flat, deep):
            if outcome is not None:
                yield self.found(outcome)

    def _begin(self, run: Run, step: Step, kinds: signal.Activations, layers: list[Depth]) -> None:
        """See what is extreme at the first look: given, if the network had learnt something before, else as drawn."""
        learnt = self._learnt(run)
        self._attention = attended(run, step, drawn=not learnt)
        if learnt:
            self._given = signal.extremes(kinds, self.zeros, self.slope)
            self._sparse = {name for name, (_, numbers) in kinds.items() if numbers.off > 0}
        else:
            self._flat = signal.flat_states(kinds, signal.STATES * self.slope)
            self._grows = signal.grown(layers, self.factor) is not None
            self._stuck = signal.drawn_flat(kinds, run.step, layers_before(step)) is not None

    def _faint(self, run: Run, step: Step, layers: list[Depth], *, off: bool) -> Outcome | None:
        """See whether examples differ in what the last layer puts out, at a few looks, while the loss does not fall."""
        if len(layers) < signal.DEPTH or not self._course.points or self._course.fell_to(signal.NOTHING):
            return None
        names = [layer.name for layer in layers]
        late = not off and signal.learnt_nothing(layers, self._course)
        if self._tries >= TRIES or not (late or drawn_small(run, step, names)):
            return None
        found = faint(spreads(run, step, names), self._course, self.factor, late=late)
        self._tries += 1 if found else TRIES // 2
        return found

    def _learnt(self, run: Run) -> bool:
        """Whether the network had learnt something before: what is sparse then is so on purpose, or from training."""
        return not all(is_as_drawn(p) for p in run.module.parameters())

    def end(self, run: Run) -> Iterator[Finding]:
        """There is no silence."""
        if self._first is None or self._last is None:
            yield self.skipped("no layer was seen to put out something, and get a gradient")
            return
        (begin, first), (now, last) = self._first, self._last
        if not self.findings:
            zeros = f"{len(last)} layers put out values with standard deviations from "
            stds = [layer.std for layer in last if math.isfinite(layer.std)]
            yield self.passed(zeros + (f"{min(stds):.2g} to {max(stds):.2g}" if stds else "nobody knows"))
        if loggers.is_written(run.trainer) and len(first) > 1:
            looks = {f"step {begin}": first, f"step {now}": last}
            panels = {
                "std of outputs": {name: [layer.std for layer in layers] for name, layers in looks.items()},
                "gradient / weight": {name: [layer.gradient for layer in layers] for name, layers in looks.items()},
            }
            self.draw(run, "depth", pixels(across_depth(panels)))


def depths(step: Step, names: Mapping[int, str]) -> list[Depth]:
    """The layers with a weight that was trained, in the order of their first calls; without embeddings.

    Args:
        step: What a step did.
        names: Of the parameters, by their ids: one that two modules have is known by its first name.

    """
    found: dict[str, Depth] = {}
    for event in step.events:
        if event.kind != "module" or event.module is None or isinstance(event.module, nn.Embedding | nn.EmbeddingBag):
            continue
        own = [names[id(p)] for p in event.module.parameters() if p.ndim > 1 and id(p) in names]
        known = [n for n in own if not math.isnan(step.gradients.get(n, math.nan)) and step.updates[n].before > 0]
        if known and event.name not in found:
            gradient = max(step.gradients[name] / step.updates[name].before for name in known)
            std = step.outputs[event.name].std if event.name in step.outputs else math.nan
            found[event.name] = Depth(event.name, std, gradient)
    return list(found.values())


def activations(step: Step) -> dict[str, tuple[nn.Module, Reduced]]:
    """Activations in train mode that go into other layers, by name: gates, outputs and what is masked are no such."""
    found: dict[str, tuple[nn.Module, Reduced]] = {}
    for key, calls in step.repeated().items():
        kind = FUNCTIONS.get(calls[0].name) if calls[0].kind == "function" else calls[0].module
        if key not in step.outputs or kind is None:
            continue
        takers = _takers(step, calls[-1])
        modules = [taker for taker in takers if taker.kind == "module"]
        others = {taker.name for taker in takers if taker.kind != "module"}
        if isinstance(kind, BOUNDED) and modules and others <= COLLECT:
            found[key] = (State() if isinstance(kind, nn.Tanh) and len(calls) >= LOOP else kind, step.outputs[key])
        elif isinstance(kind, CUT_OFF) and (modules == takers or not _is_hinge(step, calls[0])):
            found[key] = (kind, step.outputs[key])
        elif isinstance(kind, nn.RNNBase | nn.RNNCellBase) and signal.is_bounded(kind):
            found[key] = (State(), step.outputs[key])
    return found | _called_as_functions(step)


def layers_before(step: Step) -> dict[str, int]:
    """After how many layers each function and module is called: a function by one name after several."""
    before = {
        key: {made.name for call in calls for number in call.inputs if (made := step.producer(number)) is not None}
        for key, calls in step.repeated().items()
    }
    return {key: max(1, len(names)) for key, names in before.items()}


def _takers(step: Step, event: Event) -> list[Event]:
    return [taker for number in event.outputs for taker in step.consumers(number)]


def _called_as_functions(step: Step) -> dict[str, tuple[nn.Module, Reduced]]:
    """Layers after which ``torch.relu`` has nothing to let through, and nothing else takes what they put out."""
    found: dict[str, tuple[nn.Module, Reduced]] = {}
    for event in step.events:
        if event.kind == "module" and event.name in step.outputs and step.outputs[event.name].largest <= 0:
            takers = [taker for number in event.outputs for taker in step.consumers(number)]
            if takers and all(taker.kind == "function" and taker.name in {"relu", "relu_"} for taker in takers):
                found.setdefault(f"the ReLU after {event.name}", (nn.ReLU(), Reduced(1.0, 0.0, 0.0)))
    return found


def _is_hinge(step: Step, activation: Event) -> bool:
    """Whether it is a term of the loss, which is 0 for all that has been learnt: of a difference, and the end of it.

    An activation takes what a layer has put out, goes into another, or is compared with targets by a loss.
    """
    made_by = [step.producer(number) for number in activation.inputs]
    if not any(event is not None and event.name in DIFFERENCES for event in made_by):
        return False
    waiting, seen = list(activation.outputs), set(activation.outputs)
    while waiting:
        for event in step.consumers(waiting.pop()):
            if event.kind == "loss" or (event.module is not None and any(True for _ in event.module.parameters())):
                return False
            waiting += [number for number in event.outputs if number not in seen]
            seen.update(event.outputs)
    return True
