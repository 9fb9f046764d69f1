"""Attacks as text: parsing of an attack's ``repr``."""

import ast
from collections.abc import Mapping
from typing import Any

from deepsec_jax.attacks import parts
from deepsec_jax.attacks.layer_losses import FeatureDistance
from deepsec_jax.attacks.losses import LOSSES
from deepsec_jax.attacks.table import ATTACKS
from deepsec_jax.catalog import lookup
from deepsec_jax.protocols import Attack

PARTS = (parts.Steepest, parts.Momentum, parts.Cosine, parts.at_input, parts.in_ball, FeatureDistance)
HINT = "give text such as 'PGD(eps=0.1)'"


def parse(text: str) -> Attack:
    """Return the attack with this ``repr``.

        parse("Restarts(attack=PGD(eps=0.1, loss=dlr), n=5)")
        parse(repr(attack)) == attack

    Nothing is executed, so the text may be untrusted.

    Args:
        text: a call of an attack's class, as :func:`repr` prints it.  Fields are numbers, texts, True, False,
            None, tuples, names of losses, starts and step rules, or such calls.  Attacks that hold arrays or
            models (``Perturbation``, ``Transfer``) cannot be read back.

    Raises:
        UnknownName: an unknown name; the error lists near matches.
        ValueError: not such a call.
    """
    try:
        expression = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{text!r} is not an attack ({error.msg}): {HINT}") from None
    value = _value(expression, _names())
    if not hasattr(value, "targets"):
        raise ValueError(f"{text!r} is not an attack: {HINT}")
    attack: Attack = value
    return attack


def _names() -> Mapping[str, Any]:
    from deepsec_jax import attacks  # for its combinators; a circular import at module level

    exported = {name: part for name, part in vars(attacks).items() if hasattr(part, "targets")}
    classes = {attack.__name__: attack for attack in ATTACKS.values()}
    return exported | classes | {part.__name__: part for part in PARTS} | LOSSES


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, names)
    if isinstance(node, ast.Tuple):
        return tuple(_value(part, names) for part in node.elts)
    if isinstance(node, ast.Name):
        return lookup(names, node.id, "name in an attack's text")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        made = lookup(names, node.func.id, "attack")
        if all(word.arg for word in node.keywords):  # no **fields
            given = {str(word.arg): _value(word.value, names) for word in node.keywords}
            return made(*(_value(part, names) for part in node.args), **given)
    raise ValueError(f"cannot read {ast.unparse(node)!r} in an attack's text: {HINT}")
