"""Which outputs depend on which inputs, charted by backprop and confirmed by changing inputs."""
