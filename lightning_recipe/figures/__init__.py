"""Values in, a `Picture` out, drawn by Pillow: the only package that draws."""
