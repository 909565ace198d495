"""Recipe, section 2: "visualize just before the net"."""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003 - LightningCLI reads the types of arguments at run time
from typing import TYPE_CHECKING, Any, Literal

from lightning_recipe.callback import RecipeCallback
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.figures.inputs import input_card, input_span, summary
from lightning_recipe.figures.kinds import Kind, recognise
from lightning_recipe.figures.scale import statistics
from lightning_recipe.finding import Section
from lightning_recipe.losses.targets import Answers, answers, is_target
from lightning_recipe.record.names import column_names, sample_rate
from lightning_recipe.record.tensors import leading_size
from lightning_recipe.show import loggers
from lightning_recipe.trial.isolation import isolated
from lightning_recipe.trial.time_budget import TimeBudget

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lightning.pytorch import LightningModule, Trainer

    from lightning_recipe.finding import Finding
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

MAX_CARDS = 6
"""Inputs of a network that are drawn, for training and validation: as many cards as TensorBoard has on a page."""
LOOP = 5
"""Calls of a module in a step from which on only the first is drawn: it is called in a loop, such as one over time."""


class VisualizeInputs(RecipeCallback):
    """Draws the tensors that entered the network, as they entered it, each example with its target and prediction.

    Seen in the real step: after transfer, precision and any augmentation in ``training_step``. Images, volumes, masks,
    sequences, audio, token ids, tables and anything else are told apart by shape, dtype and values; where a tensor has
    a second reading, the finding names it. The finding also gives shape, dtype, mean, std, range and share of NaN; the
    card, what black and white stand for. Training and validation share these, so that a difference in scale is seen:
    the range only ever widens over a run. Their cards lie side by side, ``<input> train`` and ``<input> val``: do they
    look alike? Of a module that is called up to four times in a step, such as an encoder of two views, the inputs of
    each call are drawn. What an untrained network says is not. Of a ``torch.distributions`` object that the network
    returns, quantiles over time or the mean are drawn.

    The first training batch and the first validation batch (the one of the sanity check) are drawn, then the first
    batch of at most nine more epochs up to the last, ever further apart, as long as that takes no more than `max_share`
    of the run's time.

    Args:
        max_examples: Examples drawn at most.
        keep_examples: Whether examples are drawn; without, the finding has their shapes and ranges.
        every_n_epochs: Epochs in between are never drawn.
        max_share: Share of the run's time, 0 to 1, that pictures after the first may take; 1 is no limit.
        mean: Mean that the images were normalised with, one value or one for each channel: draws ``x * std + mean``.
        std: Standard deviation, likewise.
        decode: Makes text of a list of token ids, such as the ``decode`` of a tokenizer.
        box_format: How boxes are written; without it, as most of them lie within the image, and the card says which.
        sample_rate: Of sounds, per second; without it, one that is in the batch.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "the unambiguously correct place to visualize your
        data is immediately before your y_hat = model(x) ... this is the only source of truth".

    Raises:
        ValueError: If `max_examples` or `every_n_epochs` is less than 1, or `max_share` not between 0 and 1.

    Legitimate:
        - Augmentation: training and validation examples may look different, as long as you meant it.
        - Images normalised with the mean and standard deviation of a data set look odd: give them as `mean` and `std`,
          and they are undone in the picture.
        - Tokens are numbers until you give `decode`, such as your tokenizer's.
        - A tensor taken for something that it is not: the finding names the second reading. Nothing depends on it.

    Cost:
        A card of each input and stage, for at most ten epochs of a run, and at most `max_share` of its time. Steps in
        between are not looked at.

    Pictures:
        - `<input> train`: What entered in training. Look for upside-down or mirrored targets, labels that do not
          belong, colours exchanged, an augmentation that destroys what is to be recognised, padding everywhere, the
          same example again and again, values far from zero.
        - `<input> val`: What entered in validation; it should look like training, in the same shades.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> from lightning.pytorch.loggers import TensorBoardLogger
        >>> look = VisualizeInputs()
        >>> with TemporaryDirectory() as folder:
        ...     Trainer(max_steps=1, logger=TensorBoardLogger(folder), default_root_dir=folder, callbacks=[look],
        ...             enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ...             ).fit(BoringModel())
        lightning_recipe: 1 passed...
        >>> look.findings[0].message
        'drew x: rows (1, 32), float32, mean ..., std ...'

    """

    section = Section.SKELETON
    sentence = 10
    every_n_steps = None
    why = "what enters the network is the only source of truth: mistakes in loading and augmenting show here or nowhere"

    def __init__(  # noqa: PLR0913 - three say how much to draw, five what can't be known
        self,
        *,
        max_examples: int = 4,
        keep_examples: bool = True,
        every_n_epochs: int = 1,
        max_share: float = 0.0003,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        decode: Callable[..., Any] | None = None,
        box_format: Literal["xyxy", "xywh", "cxcywh"] | None = None,
        sample_rate: float | None = None,
    ) -> None:
        super().__init__()
        if max_examples < 1 or every_n_epochs < 1:
            msg = f"max_examples and every_n_epochs must be at least 1, not {max_examples} and {every_n_epochs}"
            raise ValueError(msg)
        if not 0 <= max_share <= 1:
            msg = f"max_share must lie between 0 and 1, got {max_share}"
            raise ValueError(msg)
        self.max_examples = max_examples
        self.keep_examples = keep_examples
        self.every_n_epochs = every_n_epochs
        self.max_share = max_share
        self.mean = mean
        self.std = std
        self.decode = decode
        self.box_format = box_format
        self.sample_rate = sample_rate
        self._time = TimeBudget(max_share)
        self._spans: dict[tuple[str, str], tuple[float, float]] = {}  # black and white of an input of a kind
        self._drawn: set[str] = set()  # stages

    # -- when

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with each fit."""
        super().setup(trainer, pl_module, stage)
        self._spans, self._drawn, self._time = {}, set(), TimeBudget(self.max_share)

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Say once why there will be no pictures."""
        yield from self._no_pictures(run)

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Draw the first batch of an epoch, and say once what that was."""
        found = list(self._draw(run, step, "train"))
        if not self.findings:
            yield from found

    def validation(self, run: Run, step: Step) -> Iterator[Finding]:
        """Draw the first batch, of the sanity check too: so both cards are there within seconds."""
        yield from self._no_pictures(run)
        if not self.done:
            list(self._draw(run, step, f"val {run.loader}" if run.loader else "val"))

    def _no_pictures(self, run: Run) -> Iterator[Finding]:
        if not loggers.take_pictures(run.trainer):
            self.done = True
            yield self.skipped(
                "fast_dev_run writes no pictures"
                if run.trainer.fast_dev_run  # type: ignore[attr-defined]
                else "the trainer has no logger that takes pictures, such as a TensorBoardLogger"
            )

    # -- what

    def _draw(self, run: Run, step: Step, stage: str) -> Iterator[Finding]:
        """Write a card for each input; the finding tells of them."""
        if stage in self._drawn and not self._time.is_enough():
            return
        if self.findings and not loggers.is_written(run.trainer):  # another process draws
            return
        self._drawn.add(stage)
        with self._time.spent():
            if not step.net_calls:
                yield self.skipped(f"no call of a module with parameters was seen in the first {stage} step")
            elif not step.inputs:
                name = step.net_calls[0].name or "the network"
                yield self.skipped(f"no tensor of one shape entered {name} from outside")
            else:
                yield self._cards(run, stage, step)

    def _cards(self, run: Run, stage: str, step: Step) -> Finding:
        sizes = {tensor.shape[0] for tensor in step.inputs.values() if tensor.ndim}
        in_batch = leading_size(step.batch)  # not outvoted by hidden states, which have layers in front
        examples = in_batch if in_batch in sizes else leading_size(step.inputs)
        told = []
        filled = {name: tensor for name, tensor in step.inputs.items() if tensor.numel()} or step.inputs
        filled |= step.views(LOOP)
        filled = {name: tensor for name, tensor in filled.items() if not is_target(name, tensor, step)} or filled
        names = short_names(filled)
        for name, tensor in list(filled.items())[:MAX_CARDS]:
            reading = recognise(tensor, examples)
            measured = statistics(tensor)
            key = (name, reading.kind)
            low, high = input_span(tensor, reading, measured, self.mean, self.std)
            before = self._spans.get(key, (low, high))
            self._spans[key] = (min(low, before[0]), max(high, before[1]))
            told.append(summary(name, tensor, reading, measured))
            if not self.keep_examples or not loggers.is_written(run.trainer):
                continue
            rows = examples if reading.kind is Kind.GRAPH else tensor.shape[0] if tensor.ndim else 0
            known = answers(step, rows or 0)
            with isolated():
                picture = input_card(
                    f"{stage} {names[name]}",
                    tensor,
                    reading,
                    known if run.step else Answers(known.target, None, known.ignored),  # untrained, it says noise
                    max_examples=self.max_examples,
                    span=self._spans[key],
                    mean=self.mean,
                    std=self.std,
                    decode=self.decode,
                    rate=self.sample_rate or sample_rate(step.batch),
                    names=column_names(step.batch, tensor) if reading.kind is Kind.TABULAR else (),
                    box_format=self.box_format,
                    nodes=examples or 0,
                )
            self.draw(run, f"{names[name]} {stage}", pixels(picture))
        left = len(filled) - MAX_CARDS
        more = f"; {left} more inputs are not drawn" if left > 0 else ""
        more += f"; {empty} are empty" if (empty := sum(not x.numel() for x in step.inputs.values())) else ""
        did = "drew" if self.keep_examples else "saw"
        return self.passed(f"{did} {'; '.join(told)}{more}", inputs=len(step.inputs), examples=examples or 0)


def short_names(inputs: Iterable[str]) -> dict[str, str]:
    """What follows the last dot of each name, as long as they differ: TensorBoard cuts long titles.

    Example:
        >>> short_names(["model.net.image", "model.net.text"]), short_names(["a.x", "b.x"])
        ({'model.net.image': 'image', 'model.net.text': 'text'}, {'a.x': 'a.x', 'b.x': 'b.x'})

    """
    ends = [name.rpartition(".")[2] for name in inputs]
    return {name: end if ends.count(end) == 1 else name for name, end in zip(inputs, ends, strict=True)}
