"""Predictions on a fixed batch, again and again: the machinery of PredictionDynamicsLogger."""
