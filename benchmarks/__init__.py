"""Measurements of the package: see README.md."""
