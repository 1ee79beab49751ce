"""The engine of JAX: transformations of functions of state."""
