"""Results in the formats of other benchmarks: AttackBench's JSON and RobustBench's ``model_info``."""

from deepsec_jax.exchange.attackbench import attackbench, attackbench_name
from deepsec_jax.exchange.robustbench import robustbench

__all__ = ["attackbench", "attackbench_name", "robustbench"]
