"""Defended models: what a defense costs on clean images, and what it is worth under attack."""
