"""Experiments that leave no trace: on copies, on borrowed randomness, within a budget."""
