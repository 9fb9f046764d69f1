"""Run directories: cells as folders, a plan, and a runner; independent of attacks, models and jax."""
