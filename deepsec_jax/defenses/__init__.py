"""Defenses: recipes that make a classifier harder to attack, or a detector beside it.

None stands yet.  Each will be one file, named as in :data:`DEFENSES`, whose class has
``fit(base, data, *, key) -> classifier`` (a pytree callable like any model) and
``surrogate(classifier)``, what an adaptive attacker differentiates.  In the order of the paper:
``nat eat pat dd igr eit rt pd te rc`` and the detectors ``lid fs magnet``.
"""

DEFENSES: dict[str, type] = {}
"""The table of defenses: the paper's names in lower case, in the paper's order."""
