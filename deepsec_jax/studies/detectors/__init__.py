"""Detectors: their detection of adversarial images and false positives on clean ones."""
