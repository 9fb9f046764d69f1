"""Detectors: which adversarial images they flag, and how many clean ones."""
