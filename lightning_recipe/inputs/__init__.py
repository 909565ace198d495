"""What kind of data a tensor holds, and what belongs to it: the machinery of VisualizeInputs."""
