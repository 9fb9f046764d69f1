"""Tables: figures beside the paper's, and one renderer per format; knows no attack, no model and no jax."""
