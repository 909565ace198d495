"""What is drawn of short fits on one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_recipe.figures import experiments

if TYPE_CHECKING:
    from lightning_recipe.callbacks._overfit_progress import Trial
    from lightning_recipe.figures.picture import Picture


def pictures(trial: Trial) -> dict[str, Picture]:
    """The loss curves with the floor, and labels beside predictions at the end of the fit that came nearest."""
    nearest = min(trial.fits, key=lambda fit: fit.losses[-1])
    own, *others = trial.fits
    curves = {f"your {own.optimizer}": own.losses} | {fit.optimizer: fit.losses for fit in others}
    drawn = {"loss": experiments.loss_curves(curves, trial.lowest(own))}
    calls = nearest.last.loss_calls if nearest.last is not None else []
    if calls and trial.floors(own) and calls[0].arguments.keys() >= {"input", "target"}:
        drawn["labels and predictions"] = experiments.labels_and_predictions(calls[0].name, calls[0].arguments)
    return drawn
