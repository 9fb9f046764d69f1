"""R+FGSM: a random step, then FGSM with the rest of eps."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.attacks.ascent import ascend
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.cost import Cost, of_steps
from deepsec_jax.attacks.losses import Loss, find_loss, logit_gap
from deepsec_jax.attacks.parts import Steepest
from deepsec_jax.catalog import Card
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, static


class RFGSM(Struct):
    """A random sign step of length alpha, then a gradient sign step of length eps - alpha.

        x' = clip(x + alpha sign(N(0, 1)), 0, 1)
        x_adv = clip(x' + (eps - alpha) sign(grad loss(x', y)), 0, 1)

    One gradient per example.  ``eps`` is the total: the ball is FGSM's.  (In the paper's Table XIII "eps" is
    the rest eps - alpha.)

    Attributes:
        eps: L-inf radius of both steps together; a number, or one per image, [B].
        alpha: length of the random step, at most eps; likewise.
        targeted: ``labels`` are targets to reach, static.
        loss: loss to maximise, or its name (:mod:`deepsec_jax.attacks.losses`), static.

    References:
        Tramer et al., "Ensemble Adversarial Training: Attacks and Defenses", ICLR 2018, arXiv:1705.07204.
    """

    eps: Scalar = 0.3
    alpha: Scalar = 0.15
    targeted: bool = static(False)
    loss: Loss | str = static(logit_gap, check=find_loss)

    card: ClassVar[Card] = Card(
        name="R+FGSM",
        title="Random step, then fast gradient sign",
        reference="Tramer et al., ICLR 2018, arXiv:1705.07204",
        goal="untargeted",
        kind="budget",
        stronger_than=("rllc",),
    )
    needs_key: ClassVar[bool] = True
    targets = label_targets

    def __post_init__(self) -> None:
        check_alpha(self)

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes, entries
        return of_steps(1, self.loss)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        return random_then_gradient(
            model, x, labels, keys, eps=self.eps, alpha=self.alpha, targeted=self.targeted, loss=self.loss
        )


def fair_signs(keys: Keys, shape: tuple[int, ...]) -> Images:
    """Return +1 or -1 with equal probability for every entry, [B, *shape]: the sign of a standard normal.

    One random byte gives eight signs; drawing normals would take a tenth of the time of a small model's
    gradient.
    """
    size = math.prod(shape)
    octets = jax.vmap(lambda key: jax.random.bits(key, (-(-size // 8),), jnp.uint8))(keys)
    bits = jnp.unpackbits(octets, axis=1)[:, :size].astype(jnp.float32)
    return (2.0 * bits - 1.0).reshape(keys.shape[0], *shape)


def check_alpha(attack: "RFGSM | object") -> None:
    """Raise ValueError where a concrete alpha exceeds a concrete eps."""
    eps, alpha = getattr(attack, "eps", None), getattr(attack, "alpha", None)
    concrete = int | float | np.generic | np.ndarray
    if not (isinstance(eps, concrete) and isinstance(alpha, concrete)):
        return
    # The call refuses two arrays of different shapes.
    comparable = np.ndim(eps) == 0 or np.ndim(alpha) == 0 or np.shape(eps) == np.shape(alpha)
    if comparable and np.any(np.asarray(alpha, np.float32) > np.asarray(eps, np.float32)):
        raise ValueError(f"{type(attack).__name__}.alpha must be at most eps {eps}, got {alpha}")


def random_then_gradient(
    model: Classifier,
    x: Images,
    labels: Labels,
    keys: Keys | None,
    *,
    eps: Scalar,
    alpha: Scalar,
    targeted: bool,
    loss: Loss | str,
) -> Images:
    """Return the R+FGSM images of a batch; shared with R+LLC."""

    def random_signs(keys: Keys | None, x: Images, eps: Scalar, norm: str) -> Images:
        assert keys is not None  # needs_key: the call refuses None
        return jnp.clip(x + alpha * fair_signs(keys, x.shape[1:]), min=0.0, max=1.0)

    return ascend(
        model, x, labels, keys,
        eps=eps, step_size=eps - alpha, steps=1, norm="linf",
        targeted=targeted, loss=loss, start=random_signs, rule=Steepest(),
    )  # fmt: skip
