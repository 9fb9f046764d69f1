"""Image sets as arrays, and the candidate sets that attacks are run on."""

from deepsec_jax.data.candidates import Candidates as Candidates
from deepsec_jax.data.candidates import candidates_name as candidates_name
from deepsec_jax.data.candidates import draw_candidates as draw_candidates
from deepsec_jax.data.candidates import make_candidates as make_candidates
from deepsec_jax.data.candidates import stored_candidates as stored_candidates
from deepsec_jax.data.candidates import training_sample as training_sample
from deepsec_jax.data.datasets import DataError as DataError
from deepsec_jax.data.datasets import Dataset as Dataset
from deepsec_jax.data.datasets import Split as Split
from deepsec_jax.data.datasets import unit_images as unit_images
from deepsec_jax.data.table import DATASETS as DATASETS
from deepsec_jax.data.table import load as load
