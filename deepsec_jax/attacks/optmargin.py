"""OptMargin: the closest image with a misclassified neighbourhood."""

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.ascent import split_keys
from deepsec_jax.attacks.best_so_far import as_stored, at_steps, reached, shortfall, squared_l2
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.constant_search import (
    Problem,
    Progress,
    first_problem,
    search_constant,
    starting_images,
)
from deepsec_jax.attacks.cost import Cost, Counted
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.attacks.tanh_space import AdamState, adam_start, adam_step, from_tanh, to_tanh
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, optional, positive
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Logits, Scalar
from deepsec_jax.pytree import Struct, field, static
from deepsec_jax.randomness import typed_key


class OptMargin(Struct):
    """CW2 on ``copies`` noisy copies together; success requires all copies.

        minimise over w   ||x_adv - x||_2^2 + c sum over i of max(shortfall(z(x_adv + v_i)), 0),
        x_adv = (tanh(w) + 1) / 2

    The noises v_i of an image are orthogonal, drawn once from its key, each of L2 norm
    ``noise`` x sqrt(size of the image); the last one is zero.  A noisy copy is not clipped to the box.
    At most search_steps x steps x copies gradients per example, and ``copies`` forwards.

    Attributes:
        noise: root mean square of a noise vector, in units of the [0, 1] pixel range.
        learning_rate: Adam's, in tanh space.
        c: first constant; with c above 50 a run starts half-way to grey, not at the clean image.
        copies: number of copies including the clean one, static.
        search_steps: number of constants, static.
        steps: Adam steps per constant, static.
        abort_early: end a run that improves by less than 0.01 % over a tenth of its steps, static.
        targeted: ``labels`` are targets to reach, static.
        at_once: copies that the model gets together, static; default all.  With fewer, memory is that of
            these, and the backward pass repeats each forward pass.

    References:
        He, Li, Song, "Decision Boundary Analysis of Adversarial Examples", ICLR 2018.
    """

    noise: Scalar = 0.3
    learning_rate: Scalar = 0.2
    c: Scalar = field(0.02, check=positive)
    copies: int = static(20, check=count)
    search_steps: int = static(4, check=count)
    steps: int = static(1000, check=count)
    abort_early: bool = static(True)
    targeted: bool = static(False)
    at_once: int | None = static(None, check=optional(count), only_memory=True)

    card: ClassVar[Card] = Card(
        name="OptMargin",
        title="The closest image with a margin in random directions",
        reference="He et al., ICLR 2018 (openreview.net/forum?id=BkpiPMbA-); on CW2, arXiv:1608.04644",
        goal="untargeted",
        kind="minimum-norm",
    )
    needs_key: ClassVar[bool] = True
    targets = label_targets

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes, entries
        steps = float(self.search_steps * self.steps)
        return Cost(float(self.copies), self.copies * steps, exact=False)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Counted:
        assert keys is not None  # needs_key: the call refuses None
        noise = copies_noise(keys, x.shape[1:], copies=self.copies, noise=self.noise)
        problem = first_problem(x, labels, split_keys(keys).model, self.c, fixed=noise)
        method = _Descent(self, model)
        solved = method.judged(method.logits(x, problem), labels)
        (best,), calls = search_constant(
            method, problem, solved,
            search_steps=self.search_steps, steps=self.steps, abort_early=self.abort_early,
        )  # fmt: skip
        gradients = self.copies * calls.astype(jnp.float32)
        return Counted(best.x, jnp.full_like(gradients, float(self.copies)), gradients)


def copies_noise(keys: Keys, shape: tuple[int, ...], *, copies: int, noise: Scalar) -> jax.Array:
    """Return OptMargin's noises for these keys of the call, float32 [B, copies, *shape].

    Args:
        keys: one key per row, those of the attack's call.
        shape: of an image, (H, W, C).
        copies: number of copies; the last noise is zero.
        noise: root mean square of each of the others.
    """
    size = math.prod(shape)

    def one(key: jax.Array) -> jax.Array:
        vectors = jax.random.normal(key, (size, copies), jnp.float32)
        # More copies than dimensions cannot be orthogonal; then they are only scaled.
        if copies <= size:
            vectors = jnp.linalg.qr(vectors)[0]
        vectors = vectors / jnp.linalg.norm(vectors, axis=0, keepdims=True)
        vectors = vectors.at[:, -1].set(0.0)
        directions: jax.Array = (noise * math.sqrt(size) * vectors.T).reshape(copies, *shape)
        return directions

    attack_keys = split_keys(typed_key(keys)).attack
    assert attack_keys is not None
    return jax.vmap(one)(attack_keys)


class _Descent(NamedTuple):
    attack: OptMargin
    model: Classifier

    def start(self, problem: Problem) -> AdamState:
        return adam_start(to_tanh(starting_images(problem)))

    def logits(self, x_adv: Images, problem: Problem) -> Logits:
        """Return the logits of all noisy copies, [B, copies, K]."""
        noises, keys = problem.fixed.astype(x_adv.dtype), problem.model_keys
        if keys is not None:  # every copy has its own draw
            keys = jax.vmap(lambda key: jax.random.split(key, self.attack.copies))(keys)
        width = self.attack.at_once
        if width is None or width >= self.attack.copies:
            return self._of_copies(x_adv, noises, keys, problem.calls)

        @jax.checkpoint  # the activations of these copies only
        def of_one(x_adv: Images, copy: tuple[jax.Array, Keys | None]) -> Logits:
            noise, key = jax.tree.map(lambda leaf: leaf[:, None], copy)
            return self._of_copies(x_adv, noise, key, problem.calls)[:, 0]

        copies = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), (noises, keys))
        every = lax.map(lambda copy: of_one(x_adv, copy), copies, batch_size=None if width == 1 else width)
        return jnp.moveaxis(every, 0, 1)

    def _of_copies(self, x_adv: Images, noises: jax.Array, keys: Keys | None, calls: jax.Array) -> Logits:
        """Return the logits [B, n, K] of x_adv with noises [B, n, H, W, C] under keys [B, n]."""
        rows, copies, *shape = noises.shape
        noisy = (x_adv[:, None] + noises).reshape(rows * copies, *shape)
        steps = calls if keys is None else jnp.repeat(calls, copies)
        model = at_steps(self.model, None if keys is None else keys.reshape(-1), steps)
        return model(noisy).reshape(rows, copies, -1)

    def judged(self, logits: Logits, labels: Labels) -> jax.Array:
        """Return bool [B]: every copy reaches the goal."""
        every = self.per_copy(reached, logits, labels)
        return jnp.all(every, axis=1)

    def per_copy(self, function: Callable[..., jax.Array], logits: Logits, labels: Labels) -> jax.Array:
        """Return ``function(logits, labels)`` of every copy, [B, copies]."""
        rows, copies, classes = logits.shape
        flat, labels = logits.reshape(rows * copies, classes), jnp.repeat(labels, copies)
        flat = open_logits(self.model, flat, labels, targeted=self.attack.targeted)
        return function(flat, labels, targeted=self.attack.targeted).reshape(rows, copies)

    def advance(self, state: AdamState, problem: Problem) -> Progress:
        x, labels = problem.x, problem.labels

        def objective(w: Images) -> tuple[jax.Array, tuple[Images, jax.Array, jax.Array]]:
            x_adv = as_stored(from_tanh(w), x)
            distance = squared_l2(x_adv.astype(jnp.float32) - x.astype(jnp.float32))
            logits = self.logits(x_adv, problem)
            hinges = jnp.maximum(self.per_copy(shortfall, logits, labels), 0.0)
            values = distance + problem.c * jnp.sum(hinges, axis=1)
            return values, (x_adv, self.judged(logits, labels), distance)

        state, values, (x_adv, success, distance) = adam_step(state, objective, self.attack.learning_rate)
        return Progress(state, x_adv, success, (distance,), values, jnp.zeros_like(success))
