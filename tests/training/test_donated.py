"""A training step takes over the memory of weights and moments; nothing that it took is used again."""

from contextlib import suppress
from dataclasses import replace

import jax
import pytest
import tiny

from deepsec_jax import models, training
from deepsec_jax.training import loop

RECIPE = replace(tiny.RECIPE, epochs=2)


@pytest.fixture(autouse=True)
def tiny_net(monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", tiny.TinyNet)


def arrays(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]


def watched_epochs(monkeypatch):
    """Return a list that gets, for every epoch, whether all kept arrays are still there."""
    keep_best, epochs = loop._keep_best, []

    def watched_best(*given):
        kept = keep_best(*given)
        epochs.append(not any(leaf.is_deleted() for leaf in arrays((given, kept))))
        return kept

    monkeypatch.setattr(loop, "_keep_best", watched_best)
    return epochs


def test_a_step_takes_over_its_state_and_kept_epochs_stay(tmp_path, monkeypatch):
    step, epochs = loop._step, watched_epochs(monkeypatch)

    def watched_step(graph, state, streams, optimizer_state, *others, **named):
        made = step(graph, state, streams, optimizer_state, *others, **named)
        assert all(leaf.is_deleted() for leaf in arrays((state, optimizer_state)))
        assert not any(leaf.is_deleted() for leaf in arrays((streams, others, made)))
        return made

    monkeypatch.setattr(loop, "_step", watched_step)
    training.train(RECIPE, tiny.dataset(), tmp_path / "model")
    assert epochs == [True, True]


def test_planted_steps_on_the_kept_arrays_are_noticed(tmp_path, monkeypatch):
    epochs = watched_epochs(monkeypatch)
    monkeypatch.setattr(loop.jnp, "copy", lambda leaf: leaf)
    with suppress(RuntimeError, ValueError):  # a deleted array is used, or is replaced in time
        training.train(RECIPE, tiny.dataset(), tmp_path / "model")
    assert epochs[0] is False
