"""What one step did: observed as it happens, kept as values."""
