"""Values in, a matplotlib Figure out: the only package that draws."""
