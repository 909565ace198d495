"""A. Karpathy's "A Recipe for Training Neural Networks", made executable for PyTorch Lightning."""

from lightning_recipe.callback import Check, RecipeCallback, findings
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
from lightning_recipe.finding import Finding, Section, Status
from lightning_recipe.recipe import recipe
from lightning_recipe.reporter import FailedCheckError

__all__ = [  # noqa: RUF022 - in the order of the recipe
    "recipe",
    "DataProfile",
    "SplitCheck",
    "HardExamples",
    "SeedCheck",
    "EvaluationCheck",
    "InitLossCheck",
    "Baselines",
    "InputIndependenceCheck",
    "OverfitOneBatch",
    "AugmentationCheck",
    "VisualizeInputs",
    "PredictionDynamicsLogger",
    "BatchMixingDetector",
    "CausalityCheck",
    "UpdateRatioMonitor",
    "LRScheduleCheck",
    "ModeCheck",
    "StaleGradientCheck",
    "LossInputCheck",
    "BiasCheck",
    "LossClipCheck",
    "NormalizationCheck",
    "GradientFlowCheck",
    "FirstNonFinite",
    "ActivationMonitor",
    "Check",
    "FailedCheckError",
    "Finding",
    "RecipeCallback",
    "Section",
    "Status",
    "findings",
]
