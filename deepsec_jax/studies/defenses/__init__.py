"""Defended models: the cost of a defense on clean images, and its robustness under attack."""
