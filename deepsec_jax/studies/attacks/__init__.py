"""Attacks on one model: their strength and cost (the paper's Tables III and XIV)."""
