"""Adversarial images of one model, judged on others: the paper's Tables VIII and XVII."""
