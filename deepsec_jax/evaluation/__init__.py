"""Evaluation: judging from outside, tables and reports."""

from deepsec_jax.evaluation.judge import Outcome as Outcome
from deepsec_jax.evaluation.judge import judge as judge
