"""Training: recipes, the one loop, and checkpoints that carry their recipe."""

from deepsec_jax.training.checkpoints import CheckpointError as CheckpointError
from deepsec_jax.training.checkpoints import Saved as Saved
from deepsec_jax.training.checkpoints import load_model as load_model
from deepsec_jax.training.checkpoints import load_network as load_network
from deepsec_jax.training.checkpoints import save_model as save_model
from deepsec_jax.training.loop import accuracy as accuracy
from deepsec_jax.training.loop import cross_entropy as cross_entropy
from deepsec_jax.training.loop import frozen as frozen
from deepsec_jax.training.loop import predictions as predictions
from deepsec_jax.training.loop import train as train
from deepsec_jax.training.recipe import RECIPES as RECIPES
from deepsec_jax.training.recipe import Recipe as Recipe
from deepsec_jax.training.recipe import recipe as recipe
