"""Common mistakes: "you didn't use bias=False ... when using BatchNorm, or conversely forget to include it"."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lightning_recipe.callback import Check
from lightning_recipe.callbacks._bias_wiring import cancelled, is_interchanged, is_tied, output_layers
from lightning_recipe.finding import Section, listed
from lightning_recipe.losses.references import FAR, NotComparableError, offset, references
from lightning_recipe.record.modules import registered
from lightning_recipe.record.step import Need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.finding import Finding
    from lightning_recipe.record.step import LossCall, Step
    from lightning_recipe.run import Run


class BiasCheck(Check):
    """Judges biases that have no effect, and an output layer that lacks one, by the order in which modules are called.

    - A linear or convolutional layer whose output goes to a BatchNorm and nowhere else has a bias, which the BatchNorm
      subtracts again with the mean: `advice`. Not if the bias is frozen, the BatchNorm runs on its running statistics
      or was trained before, anything stands between the two, or one of them is called elsewhere, too.
    - The layer whose outputs a loss compares with the targets has no bias, although a constant alone would remove more
      than `bias_share` of the loss: `advice`, since the layers before can learn one; `warning` where the mean of
      numbers lies more than 10 of their standard deviations from 0, which training does not make up for. Not if its
      weights are tied to an embedding, as in language models, or frozen.
    - A norm begins with weights of 0 and biases of 1, the reverse of what is usual: `warning`. It puts out the same for
      all that enters it, and no gradient passes. With biases of 0, too, it is the end of a residual branch.

    Args:
        bias_share: Share of the loss without knowledge that a constant must remove, 0 to 1; see `InitLossCheck`.
        strict: Stop the run when something failed.

    Raises:
        ValueError: If `bias_share` is not between 0 and 1.

    Source:
        A. Karpathy, most common neural net mistakes (2018): "you didn't use bias=False for your Linear/Conv2d layer
        when using BatchNorm, or conversely forget to include it for the output layer. This one won't make you
        silently fail, but they are spurious parameters".

    Legitimate:
        - A bias before a BatchNorm that will be folded into the layer or removed later.
        - An output layer without bias whose targets are centred by design, as residuals are.
        - Norms that begin with weights of 0 and biases of 0, as in residual branches.

    Cost:
        The order of calls in the first step: less than a second step takes.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = BiasCheck()
        >>> trainer = Trainer(callbacks=[check], barebones=True, max_steps=1)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> check.findings[0].message
        'no bias is without effect, and the output layer head has one'

    """

    section = Section.MISTAKES
    sentence = 4
    why = (
        "a bias that a BatchNorm subtracts again is a parameter without effect; an output layer without one can't shift"
    )
    needs = Need.LOSSES | Need.WIRING
    explains: ClassVar = {
        "output_without_bias": ("InitLossCheck/output_bias",),
        "norm_interchanged": ("ActivationMonitor/*", "OverfitOneBatch/*", "InputIndependenceCheck/input_ignored"),
    }

    def __init__(self, *, bias_share: float = 0.45, strict: bool = False) -> None:
        super().__init__(strict=strict)
        if not 0 < bias_share < 1:
            msg = f"bias_share must lie between 0 and 1, got {bias_share}"
            raise ValueError(msg)
        self.bias_share = bias_share

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Judge how norms begin."""
        norms = {name: module for name, module in run.module.named_modules() if is_interchanged(module)}
        if norms:
            yield self.warning(
                f"{listed(norms)} {'begins' if len(norms) == 1 else 'begin'} with weights of 0 and biases of 1 "
                "(expected: the reverse): the same comes out whatever enters, and no gradient passes",
                code="norm_interchanged",
                subject=", ".join(norms),
                fix="nn.init.ones_(norm.weight) and nn.init.zeros_(norm.bias)",
                norms=len(norms),
            )

    def first_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Judge the order of calls in the first step."""
        if not step.events:
            unseen = f"{step.compiled[0]} is compiled" if step.compiled else "no call of a module was seen"
            yield self.skipped(f"{unseen}, so that the order of layers is not known")
            return
        found = list(self._before_norm(step))
        outputs = output_layers(step)
        for call, name, layer in outputs:
            weight = registered(layer, "weight")
            frozen = weight is not None and not weight.requires_grad
            if layer.bias is None and not frozen and not is_tied(layer, run.module):
                found += self._without_bias(step, call, name)
        if not found:
            names = " and ".join(dict.fromkeys(name for _, name, layer in outputs if layer.bias is not None))
            has = f", and the output layer {names} has one" if names else ""
            found = [self.passed(f"no bias is without effect{has}")]
        yield from found

    def _before_norm(self, step: Step) -> Iterator[Finding]:
        pairs = cancelled(step)
        if pairs:
            count = sum(size for *_, size in pairs)
            named = listed(f"{name} (before {norm})" for name, norm, _ in pairs)
            what = f"{len(pairs)} layers have" if len(pairs) > 1 else "a layer has"
            yield self.advice(
                f"{what} a bias that the next BatchNorm subtracts again: {named}; {count} parameters without effect",
                code="before_norm",
                subject=", ".join(name for name, *_ in pairs),
                fix="bias=False in these layers: the BatchNorm has a bias of its own",
                layers=len(pairs),
                parameters=count,
            )

    def _without_bias(self, step: Step, call: LossCall, name: str) -> Iterator[Finding]:
        try:
            found = references(call, step.batch_size)
        except NotComparableError:
            return
        if found.needs_bias(self.bias_share):
            far = offset(call, found)
            yield (self.warning if far >= FAR else self.advice)(
                f"the output layer {name} has no bias, and the targets of {call.name} ({call.where}) are not centred: "
                f"the loss starts at {found.measured:.4g}, a constant alone reaches {found.best_constant:.4g}",
                code="output_without_bias",
                subject=name,
                fix=f"bias=True in {name}; InitLossCheck says which value to start from",
                **found.evidence,
            )
