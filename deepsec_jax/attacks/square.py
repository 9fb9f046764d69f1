"""Square: random search with square-shaped changes, in L-inf or L2, without gradients."""

from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from deepsec_jax.attacks.ascent import split_keys
from deepsec_jax.attacks.best_so_far import at_steps, per_row
from deepsec_jax.attacks.call import attack_call, call_and_count, label_targets
from deepsec_jax.attacks.compaction import rows_where, while_live
from deepsec_jax.attacks.cost import Cost, Counted, cost, uses_gradients
from deepsec_jax.attacks.fields import an_attack, norm_of
from deepsec_jax.attacks.geometry import Norm, at_least_float32, project, stored_in_ball
from deepsec_jax.attacks.gradient import forward, value_and_gradient
from deepsec_jax.attacks.layer_losses import of_logits
from deepsec_jax.attacks.losses import Loss, max_margin, ranked, succeeded
from deepsec_jax.attacks.pyramids import first_pyramids, moved_mass
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, share
from deepsec_jax.model_traits import classes_of
from deepsec_jax.protocols import Attack, Classifier, Images, Keys, Labels, Logits, Scalar
from deepsec_jax.pytree import Struct, field, static

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10,000, after which the share of the image in a square is halved (the authors' values)."""


class Square(Struct):
    """Set a random square to the edge of the ball, and keep it if the loss increased.

        x_0 = x + eps s,   s = +-1, drawn by column and channel
        x'  = x_i, but x + eps s_c in a square of h x h pixels, s_c = +-1, drawn by channel x_{i+1} = x' if
        loss(x') > loss(x_i) else x_i,   h^2 = p H W, p falling as queries are spent

    In L2 x_0 is a grid of 5 x 5 small pyramids.  A query removes the change of one square of h x h pixels and
    adds it to another one as a pyramid of random signs; the total length stays eps (``pyramids.py``).

    Rows have separate draws; all images are clipped to [0, 1].  A row ends with its first success.  Without
    one the image with the highest loss is returned, or the clean one if the model answers none (NaN).  At
    most ``queries`` forwards.

    For a randomised model a higher loss or a success may be chance.  Attack its expectation (``EOT``), and
    spend all queries (``stops=False``), since single draws may be correct where the expectation is fooled.

    If a surrogate's gradient is only partly useful, as PD's (docs/adaptive-attacks.md): ``start`` at the
    images that it found (``FixedImages``), let half of the squares take their signs from it (``guided``),
    and draw their sides at random (``shrinking=False``), so that large squares stay possible.

    Attributes:
        eps: radius of the ball, in units of the [0, 1] pixel range; a number, or one per image, [B].
        norm: "linf" or "l2", static.
        queries: maximum number of forwards, including that of x_0, static.
        share: initial p, as a share of the pixels.
        start: attack with the same goal that returns x_0; its forwards and gradients are counted.
        guided: whether half of the squares, at random, take the signs of the loss's gradient at x_i; then
            every query needs a gradient, static.
        shrinking: False draws h from 1 to its largest value for every square, static.
        stops: False spends all queries and returns the successful image with the highest loss, static.
        targeted: ``labels`` are targets to reach, static.
        loss: loss to maximise, or its name (:mod:`deepsec_jax.attacks.losses`), static.

    References:
        Andriushchenko, Croce, Flammarion, Hein, "Square Attack: a query-efficient black-box adversarial
        attack via random search", ECCV 2020, arXiv:1912.00049.
    """

    eps: Scalar = 0.3
    norm: Norm = static("linf", check=norm_of())
    queries: int = static(1000, check=count)
    share: Scalar = field(0.8, check=share)
    start: Attack | None = field(None, check=an_attack)
    guided: bool = static(False)
    shrinking: bool = static(True)
    stops: bool = static(True)
    targeted: bool = static(False)
    loss: Loss | str = static(max_margin, check=of_logits)

    card: ClassVar[Card] = Card(
        name="Square",
        title="Random search by squares",
        reference="Andriushchenko et al., ECCV 2020, arXiv:1912.00049",
        goal="untargeted",
        kind="budget",
    )
    targets = label_targets
    needs_key: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.norm == "l2" and self.guided:
            raise ValueError("Square.guided takes signs of pixels, which L2 has not: set guided=False")

    @property
    def uses_gradients(self) -> bool:
        """Whether it, or its start, uses gradients of the model."""
        return self.guided or (self.start is not None and uses_gradients(self.start))

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        calls = float(self.queries)
        own = Cost(0.0, calls, exact=False) if self.guided else Cost(calls, 0.0, exact=False)
        first = cost(self.start, classes=classes, entries=entries) or Cost(0.0, 0.0)
        return Cost(own.forwards + first.forwards, own.gradients + first.gradients, exact=False)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Counted:
        streams = split_keys(keys)
        rows = x.shape[0]
        begun = self._first(model, x, labels, keys)
        state = _State(
            x=x, labels=labels, keys=streams.attack, model_keys=streams.model,
            eps=jnp.broadcast_to(jnp.asarray(self.eps, jnp.float32), (rows, 1, 1, 1)),
            x_adv=begun.x,
            gradient=jnp.zeros(x.shape, jnp.float32) if self.guided else None,
            loss=jnp.full(rows, -jnp.inf, jnp.float32), success=jnp.zeros(rows, bool),
            asked=jnp.zeros(rows, jnp.int32),
        )  # fmt: skip

        def live(state: _State) -> jax.Array:
            left = state.asked < self.queries
            return left & ~state.success if self.stops else left

        def step(state: _State) -> _State:
            return rows_where(live(state), _asked(self, model, state), state)

        last = while_live(step, live, state)
        asked, nothing = last.asked.astype(jnp.float32), jnp.zeros(rows, jnp.float32)
        forwards, gradients = (nothing, asked) if self.guided else (asked, nothing)
        found = jnp.where(per_row(last.success | (last.loss > -jnp.inf)), last.x_adv, x)
        return Counted(found, begun.forwards + forwards, begun.gradients + gradients)

    def _first(self, model: Classifier, x: Images, labels: Labels, keys: Any) -> Counted:
        """Return x_0 in the dtype of ``x``, and what it cost."""
        nothing = jnp.zeros(x.shape[0], jnp.float32)
        begun = first_image(self, model, x, labels, keys)
        if begun is not None:
            return begun
        if self.norm == "l2":
            return Counted(
                _at_length(x, self.eps * first_pyramids(keys, x.shape), self.eps), nothing, nothing
            )
        shape = (1, x.shape[2], x.shape[3])
        half = jnp.float32(0.5)  # a Python 0.5 would be drawn with 64 bits under jax_enable_x64
        heads = jax.vmap(lambda key: jax.random.bernoulli(key, half, shape))(keys)
        signs = jnp.where(heads, jnp.float32(1.0), jnp.float32(-1.0))
        return Counted(_at_edge(x, signs, self.eps), nothing, nothing)


def first_image(attack: Any, model: Classifier, x: Images, labels: Labels, keys: Any) -> Counted | None:
    """Return the images of a search's ``start`` in the dtype of ``x``, and their cost; None without a start.

    Raises:
        ValueError: start and search have two goals.
    """
    if attack.start is None:
        return None
    if bool(getattr(attack.start, "targeted", False)) != attack.targeted:
        name = type(attack).__name__
        raise ValueError(f"{name}.start and {name}.targeted have two goals: give them one")
    own = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, 1)
    begun, counted = call_and_count(attack.start, model, x, labels, key=own)
    if counted is not None:
        return counted
    price = cost(attack.start, classes=classes_of(model, x), entries=x[0].size) or Cost(0.0, 0.0)
    nothing = jnp.zeros(x.shape[0], jnp.float32)
    return Counted(begun, nothing + price.forwards, nothing + price.gradients)


class _State(NamedTuple):
    x: Images
    labels: Labels
    keys: Keys | None
    model_keys: Keys | None
    eps: jax.Array  # float32 [B, 1, 1, 1]
    x_adv: Images  # in the dtype of x
    gradient: Images | None  # float32, of the loss at x_adv
    loss: jax.Array  # float32 [B], of x_adv, higher is better for the attacker
    success: jax.Array
    asked: jax.Array  # int32 [B], queries so far


def _asked(attack: Square, model: Classifier, state: _State) -> _State:
    """Return the state after one more query of every row; the first is x_0 itself."""
    side = _side(attack, state.asked, state.x.shape[1], state.x.shape[2])
    keys: Any = state.keys  # attack_call ensures that there are keys
    own = jax.vmap(jax.random.fold_in)(keys, state.asked)
    proposal = _pyramid_moved if attack.norm == "l2" else _square_set
    proposed = jnp.where(per_row(state.asked > 0), proposal(attack, state, own, side), state.x_adv)
    model = at_steps(model, state.model_keys, state.asked)

    def judged(logits: Logits) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Return the loss for the gradient, and the rank and success by which images are compared."""
        logits = open_logits(model, logits, state.labels, targeted=attack.targeted)
        values = (-1.0 if attack.targeted else 1.0) * of_logits(attack.loss)(logits, state.labels)
        values = values.astype(jnp.float32)
        return values, (ranked(values, logits), succeeded(logits, state.labels, targeted=attack.targeted))

    if state.gradient is None:
        _, (loss, success) = judged(forward(model, proposed))
        gradient = None
    else:
        point = at_least_float32(proposed)
        _, (loss, success), found = value_and_gradient(
            lambda at: judged(model(at.astype(state.x.dtype))), point
        )
        gradient = jnp.where(jnp.isfinite(found), found, 0.0)
    success &= ~jnp.isnan(loss)
    takes = jnp.where(success == state.success, loss > state.loss, success)
    new = state._replace(x_adv=proposed, gradient=gradient, loss=loss, success=success)
    return rows_where(takes, new, state)._replace(asked=state.asked + 1)


def _square_set(attack: Square, state: _State, keys: Keys, side: jax.Array) -> Images:
    """Return the images with a random square at the edge of the ball."""
    inside, signs, follows = jax.vmap(partial(_square, attack, state.x.shape))(keys, side)
    if state.gradient is not None:
        signs = jnp.where(per_row(follows) & (state.gradient != 0), jnp.sign(state.gradient), signs)
    return jnp.where(inside, _at_edge(state.x, signs, state.eps), state.x_adv)


def _pyramid_moved(attack: Square, state: _State, keys: Keys, side: jax.Array) -> Images:
    """Return the images with the change of one square moved to another one, in the ball and the box."""
    delta = state.x_adv.astype(jnp.float32) - state.x.astype(jnp.float32)
    return _at_length(state.x, moved_mass(keys, delta, side, state.eps), state.eps)


def _at_length(x: Images, delta: Images, eps: Scalar) -> Images:
    """Return x + delta inside the L2 ball and the box, in the dtype of ``x``."""
    clean = x.astype(jnp.float32)
    return stored_in_ball(project(clean + delta, clean, eps, "l2"), x, eps, "l2")


def _at_edge(x: Images, signs: jax.Array, eps: Scalar) -> Images:
    """Return x + eps signs inside the box, in the dtype of ``x``."""
    clean = x.astype(jnp.float32)
    return stored_in_ball(project(clean + eps * signs, clean, eps, "linf"), x, eps, "linf")


def _side(attack: Square, asked: jax.Array, height: int, width: int) -> jax.Array:
    """Return the side of each row's next square, or the largest possible side, int32 [B]."""
    halved = jnp.zeros(asked.shape, jnp.float32)
    if attack.shrinking:
        spent = asked.astype(jnp.float32) * (10_000.0 / attack.queries)
        halved = jnp.sum(spent[:, None] > jnp.array(HALVINGS, jnp.float32)[None], axis=1, dtype=jnp.float32)
    pixels = attack.share * (height * width) * jnp.exp2(-halved)
    return jnp.clip(jnp.round(jnp.sqrt(pixels)).astype(jnp.int32), 1, min(height, width))


def _square(
    attack: Square, shape: tuple[int, ...], key: jax.Array, side: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the pixels of a random square, bool [H, W, 1], its signs [1, 1, C], and whether it is guided."""
    height, width, channels = shape[1:]
    # One call for all of them: separate calls would each compile a generator.
    drawn = jax.random.uniform(key, (4 + channels,), jnp.float32)

    def below(number: jax.Array, end: jax.Array) -> jax.Array:
        return jnp.minimum((number * end.astype(jnp.float32)).astype(jnp.int32), end - 1)

    if not attack.shrinking:
        side = 1 + below(drawn[0], side)
    top, left = below(drawn[1], height - side + 1), below(drawn[2], width - side + 1)
    row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
    inside = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
    signs = jnp.where(drawn[4:] < 0.5, -1.0, 1.0)[None, None]
    return inside, signs, drawn[3] < 0.5
