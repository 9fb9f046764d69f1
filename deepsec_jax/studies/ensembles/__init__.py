"""Ensembles of defenses: the paper's Tables IX and XVIII, and attacks on the ensembles themselves."""
