"""The promises of every attack, for attacks made of attacks: AutoAttack, many restarts, the smallest eps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images, make_linear

from deepsec_jax.attacks import APGD, PGD, AutoAttack, ManyRestarts, SmallestEps
from deepsec_jax.pytree import Struct

KEY = jax.random.key(2)
WHOLE = {
    "autoattack fast": AutoAttack(eps=0.03, steps=3, queries=6, version="fast"),
    "autoattack rand": AutoAttack(eps=0.03, steps=3, version="rand"),
    "autoattack standard": AutoAttack(eps=0.03, steps=3, queries=6),
    "autoattack plus": AutoAttack(eps=0.03, steps=3, queries=6, version="plus"),
    "many restarts": ManyRestarts(PGD(eps=0.03, step_size=0.01, steps=2), n=3, probe=2),
    "smallest eps": SmallestEps(APGD(eps=0.03, steps=3), largest=0.2, search_steps=3),
}
LONG = ("autoattack standard", "autoattack plus")


class Neighbour(Struct):
    """Planted: an attack whose rows move by what their neighbours are."""

    attack: object

    def __call__(self, model, x, labels, *, key):
        x_adv = self.attack(model, x, labels, key=key)
        return x_adv + 0.1 * (jnp.roll(x_adv, 1, axis=0) - x_adv)


def labels_of(model, x):
    return jnp.argmax(model(x), axis=-1).astype(jnp.int32)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in WHOLE]
)
def test_one_program_and_rows_that_do_not_see_each_other(name, compiles):
    attack, model, x = WHOLE[name], make_linear(seed=6), make_images(8, seed=8)
    labels, keys = labels_of(model, x), jax.random.split(KEY, 8)
    whole = attack(model, x, labels, key=keys)
    others, order = make_images(8, seed=9), np.array([5, 2, 7, 0, 1, 3, 4, 6])
    mixed = x[order].at[3:].set(others[3:])
    labels_mixed = labels[order].at[3:].set(labels_of(model, others)[3:])

    def among_others(attack):
        return attack(model, mixed, labels_mixed, key=keys[order])[:3]

    with compiles() as count:
        alone = among_others(attack)
        halved = jax.tree.map(lambda leaf: 0.5 * leaf, attack)
        halved(make_linear(seed=7), x, labels, key=jax.random.split(jax.random.key(3), 8))
        assert count(type(attack).__name__) == 0
    assert np.mean(np.abs(alone - whole[order[:3]]) > 1e-5) <= 0.01
    assert np.mean(np.abs(among_others(Neighbour(attack)) - whole[order[:3]]) > 1e-5) > 0.5
