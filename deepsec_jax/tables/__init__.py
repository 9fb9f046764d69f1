"""Tables: figures beside the paper's, and one renderer per format; independent of attacks, models and jax."""
