"""Attacks on one model: how strong they are and what they cost (the paper's Tables III and XIV)."""
