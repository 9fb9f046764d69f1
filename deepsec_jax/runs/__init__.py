"""Run directories: cells as folders, a plan, and a runner; knows no attack, no model and no jax."""
