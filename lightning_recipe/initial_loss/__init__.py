"""What the loss at initialisation is compared with, and what to say of it: the machinery of InitLossCheck."""
