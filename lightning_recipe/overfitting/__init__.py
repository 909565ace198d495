"""A short fit of a copy on one batch, and what it shows: the machinery of OverfitOneBatch."""
