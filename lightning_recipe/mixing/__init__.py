"""Which outputs depend on which examples: the machinery of BatchMixingDetector."""
