"""Checks in the field: what each refuses, what jax may put in a field, and that every field has one."""

from dataclasses import fields
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepsec_jax import attacks, field_checks
from deepsec_jax.attacks import ATTACKS, PGD
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.catalog import Card, UnknownName
from deepsec_jax.defenses import DEFENSES
from deepsec_jax.field_checks import count, each, flag, function, integer, not_zero, one_of, positive, share
from deepsec_jax.pytree import Struct, field, static

NOT_YET = object()
"""What jax puts in a field while it looks at a structure."""


class Mine(Struct):
    """An attack of one's own: no check is called, no name is entered anywhere."""

    push: float = 0.1
    rounds: int = static(3, check=count)
    nesterov: bool = static(False)
    tries: int = static(2)
    extra: int = static(0)
    sign: float = field(1.0, check=not_zero)

    card: ClassVar[Card] = Card("Mine", "t", "r", "untargeted", "budget")
    targeted: ClassVar[bool] = False
    targets = label_targets

    @attack_call
    def __call__(self, model, x, labels, keys):
        return jnp.clip(x + self.push * self.rounds, min=0.0, max=1.0)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rounds", 0, "must be an integer of at least 1, got 0"),
        ("rounds", 2.0, "must be an integer of at least 1, got 2.0"),
        ("rounds", True, "must be an integer of at least 1, got True"),
        ("nesterov", 7, "must be True or False, got 7"),
        ("tries", 0, "must be an integer of at least 1, got 0"),
        ("extra", -1, "must be an integer of at least 0, got -1"),
        ("push", -0.1, "must be finite and at least 0, got -0.1"),
        ("push", "0.1", "must be a number, got '0.1'"),
        ("push", np.array([0.1, np.nan]), "must be finite and at least 0, got nan"),
        ("sign", 0, "must be finite and not 0, got 0"),
    ],
)
def test_a_new_attacks_fields_are_checked_without_another_line(name, value, said):
    with pytest.raises(ValueError, match="Mine") as refused:
        Mine(**{name: value})
    assert str(refused.value) == f"Mine.{name} {said}"
    with pytest.raises(ValueError, match="Mine"):
        Mine().replace(**{name: value})


def test_a_class_that_is_no_algorithm_is_checked_where_it_says_so_and_nowhere_else():
    class Scores(Struct):
        threshold: float = float("inf")
        parts: int = static(2, check=count)

    assert Scores(threshold=-1.0).threshold == -1.0  # as of a detector
    with pytest.raises(ValueError, match=r"Scores\.parts must be an integer"):
        Scores(parts=0)


def test_what_a_class_checks_of_several_fields_comes_after_the_fields():
    class Both(Struct):
        low: int = static(1, check=count)
        high: int = static(2, check=count)

        def __post_init__(self):
            if self.high / self.low < 1:
                raise ValueError(f"Both.high must be at least {self.low}, got {self.high}")

    assert Both(2, 3).high == 3
    for values, said in (((0, 2), "Both.low must be an integer"), ((3, 2), "Both.high must be at least 3")):
        with pytest.raises(ValueError, match=said):
            Both(*values)


@pytest.mark.parametrize("placeholder", [None, NOT_YET, True, jax.ShapeDtypeStruct((), jnp.float32)])
def test_what_jax_puts_in_a_traced_field_passes(placeholder):
    for kind in ATTACKS.values():
        leaves, structure = jax.tree.flatten(kind())
        held = jax.tree.unflatten(structure, [placeholder] * len(leaves))
        assert all(part is placeholder for part in vars(held).values() if part is NOT_YET)
    held = jax.tree.map(lambda leaf: placeholder, attacks.WorstCase((PGD(), attacks.JSMA())))
    assert len(held.attacks) == 2


def test_traced_numbers_and_arrays_on_a_device_are_not_looked_at(monkeypatch):
    values = jax.jit(lambda eps: Mine(push=eps).push)(-1.0)
    here = jnp.float32(-1.0)
    assert values == -1.0 and float(Mine(push=here).push) == -1.0
    for look in ("__array__", "__float__", "__bool__", "__int__", "item", "tolist"):
        monkeypatch.setattr(type(here), look, lambda *_: pytest.fail("waited for the device"))
    assert Mine(push=here).push is here and PGD(eps=here).eps is here
    monkeypatch.undo()
    assert jax.vmap(lambda attack: attack.push * 2, in_axes=(Mine(push=0, sign=None),))(
        Mine(push=jnp.arange(3.0))
    ).shape == (3,)


@pytest.mark.parametrize("kind", [*ATTACKS.values(), *DEFENSES.values(), attacks.AutoAttack])
def test_every_field_of_every_algorithm_has_a_check(kind):
    checked = {name for name, _ in kind._checks}
    assert checked == {each.name for each in fields(kind)}
    made = kind()
    assert made.replace() == made
    for each_field in fields(kind):
        if not each_field.metadata.get("pytree_node", True):
            with pytest.raises((ValueError, UnknownName)) as refused:
                made.replace(**{each_field.name: "?"})
            said = str(refused.value)
            assert said.startswith((f"{kind.__name__}.{each_field.name} must be ", "unknown loss '?'"))
            assert "'?'" in said and len(said.splitlines()) == 1


def test_attacks_inside_attacks():
    for build, said in (
        (lambda: attacks.Restarts(PGD), "Restarts.attack must be an attack, got PGD: give an object such as"),
        (lambda: attacks.Restarts("pgd"), "Restarts.attack must be an attack, got 'pgd'"),
        (lambda: attacks.Square(start=0.3), "Square.start must be an attack, got 0.3"),
        (lambda: attacks.WorstCase(PGD()), "WorstCase.attacks must be a tuple of attacks, got one"),
        (lambda: attacks.Cascade(()), "Cascade.attacks is empty: give at least one attack"),
        (lambda: PGD(rule="momentum"), "PGD.rule must be a step rule, got 'momentum'"),
        (lambda: PGD(loss=3), "PGD.loss must be a function or one of logit_gap"),
    ):
        with pytest.raises(ValueError, match=r"must be|is empty") as refused:
            build()
        assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (count, [1, 10, np.int64(3)], [0, -1, 1.0, True, "1", None]),
        (integer(0, 2), [0, 2], [-1, 3, 1.5]),
        (flag, [True, False], [0, 1, None, "yes"]),
        (one_of("a", "b"), ["a", "b"], ["c", "", None, 1]),
        (each(count, least=1), [(1, 2)], [(), (0,), 1, "12"]),
        (function, [len], ["len", 1]),
        (positive, [0.1, 3, np.float32(1)], [0, -1, float("nan"), float("inf"), "1"]),
        (share, [0, 1, 0.5, np.array([0.0, 1.0])], [-0.1, 1.1, np.array([0.5, 2.0])]),
        (field_checks.proper_share, [0, 0.99], [1, -1]),
        (field_checks.text, ["a"], [1, None]),
        (field_checks.optional(count), [None, 1], [0]),
    ],
    # A function's own text has its address, and two processes must agree on the names of tests.
    ids=(
        "count", "integer", "flag", "one_of", "each", "function", "positive", "share", "proper_share", "text",
        "optional",
    ),
)  # fmt: skip
def test_each_check(check, good, bad):
    for value in good:
        assert np.all(check(value) == value) if value is not None else check(value) is None
    for value in bad:
        with pytest.raises(ValueError, match=r"must be .*got "):
            check(value)
