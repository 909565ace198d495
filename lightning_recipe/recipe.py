"""The default list of callbacks."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from lightning_recipe.callback import Check, RecipeCallback
from lightning_recipe.callbacks.activation_monitor import ActivationMonitor
from lightning_recipe.callbacks.augmentation_check import AugmentationCheck
from lightning_recipe.callbacks.baselines import Baselines
from lightning_recipe.callbacks.batch_mixing_detector import BatchMixingDetector
from lightning_recipe.callbacks.bias_check import BiasCheck
from lightning_recipe.callbacks.causality_check import CausalityCheck
from lightning_recipe.callbacks.data_profile import DataProfile
from lightning_recipe.callbacks.evaluation_check import EvaluationCheck
from lightning_recipe.callbacks.first_non_finite import FirstNonFinite
from lightning_recipe.callbacks.gradient_flow_check import GradientFlowCheck
from lightning_recipe.callbacks.hard_examples import HardExamples
from lightning_recipe.callbacks.init_loss_check import InitLossCheck
from lightning_recipe.callbacks.input_independence_check import InputIndependenceCheck
from lightning_recipe.callbacks.loss_clip_check import LossClipCheck
from lightning_recipe.callbacks.loss_input_check import LossInputCheck
from lightning_recipe.callbacks.lr_schedule_check import LRScheduleCheck
from lightning_recipe.callbacks.mode_check import ModeCheck
from lightning_recipe.callbacks.normalization_check import NormalizationCheck
from lightning_recipe.callbacks.overfit_one_batch import OverfitOneBatch
from lightning_recipe.callbacks.prediction_dynamics_logger import PredictionDynamicsLogger
from lightning_recipe.callbacks.seed_check import SeedCheck
from lightning_recipe.callbacks.split_check import SplitCheck
from lightning_recipe.callbacks.stale_gradient_check import StaleGradientCheck
from lightning_recipe.callbacks.update_ratio_monitor import UpdateRatioMonitor
from lightning_recipe.callbacks.visualize_inputs import VisualizeInputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightning.pytorch.callbacks import Callback

DEFAULT: tuple[type[RecipeCallback], ...] = (
    DataProfile,
    SplitCheck,
    HardExamples,
    SeedCheck,
    EvaluationCheck,
    InitLossCheck,
    Baselines,
    InputIndependenceCheck,
    OverfitOneBatch,
    AugmentationCheck,
    VisualizeInputs,
    PredictionDynamicsLogger,
    BatchMixingDetector,
    CausalityCheck,
    UpdateRatioMonitor,
    LRScheduleCheck,
    ModeCheck,
    StaleGradientCheck,
    LossInputCheck,
    BiasCheck,
    LossClipCheck,
    NormalizationCheck,
    GradientFlowCheck,
    FirstNonFinite,
    ActivationMonitor,
)
"""In the order of the recipe."""


def recipe(
    *own: RecipeCallback,
    skip: Sequence[str] = (),
    strict: bool = False,
    verbose: bool = False,
    decode: Callable[..., Any] | None = None,
    keep_examples: bool = True,
) -> list[Callback]:
    """All callbacks with their defaults, in the order of the recipe: ``Trainer(callbacks=recipe())``.

    Args:
        own: Callbacks with arguments of your own; each takes the place of the default one of its class.
        skip: What to silence, by the keys that alarms print, with wildcards: a check, which is then left out
            (``"BiasCheck"``), a kind of finding (``"InitLossCheck/too_high"``), or one about a certain module
            (``"BiasCheck/before_norm@decoder.*"``).
        strict: Stop the run when a check fails; for continuous integration.
        verbose: Print what passed, was skipped or could be better as it arrives, too; by default the closing table
            says so.
        decode: Makes text of a list of token ids, such as the ``decode`` of a tokenizer; for all that draw tokens.
        keep_examples: Whether those that keep, draw or write examples may; without, they tell what they can by numbers.

    Raises:
        TypeError: If one of `own` is no callback of the recipe.
        ValueError: If a key in `skip` names no check.

    Example:
        >>> callbacks = recipe(OverfitOneBatch(max_steps=100), skip=["*Check", "*Monitor", "First*", "Hard*", "Base*"])
        >>> [type(callback).__name__ for callback in callbacks]
        ['DataProfile', 'OverfitOneBatch', 'VisualizeInputs', 'PredictionDynamicsLogger', 'BatchMixingDetector']

    """
    if foreign := [callback for callback in own if not isinstance(callback, RecipeCallback)]:
        msg = f"callbacks of the recipe expected, got {foreign[0]!r}"
        raise TypeError(msg)
    given = {type(callback): callback for callback in own}
    callbacks = [given[kind] if kind in given else kind() for kind in DEFAULT]
    callbacks += [callback for callback in own if type(callback) not in DEFAULT]
    names = [type(callback).__name__ for callback in callbacks]
    skip = [skip] if isinstance(skip, str) else list(skip)
    for key in skip:
        if not any(fnmatchcase(name, key.partition("/")[0]) for name in names):
            msg = f"{key!r} in skip names none of {', '.join(names)}"
            raise ValueError(msg)
    for callback in callbacks:
        callback.ledger.skip = tuple(skip)
        callback.verbose = callback.verbose or verbose
        if decode is not None and getattr(callback, "decode", ...) is None:
            callback.decode = decode  # type: ignore[attr-defined]
        if not keep_examples and hasattr(callback, "keep_examples"):
            callback.keep_examples = False
        if isinstance(callback, Check):
            callback.strict = callback.strict or strict
    left = [c for c in callbacks if not any(fnmatchcase(type(c).__name__, key) for key in skip)]
    left.sort(key=lambda callback: callback.tag(""))
    return [*left]
