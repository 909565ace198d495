"""A. Karpathy's "A Recipe for Training Neural Networks", made executable for PyTorch Lightning."""

from lightning_recipe.callback import Check, FailedCheckError, RecipeCallback, findings
from lightning_recipe.finding import Finding, Section, Status

__all__ = ["Check", "FailedCheckError", "Finding", "RecipeCallback", "Section", "Status", "findings"]
