"""Transfer: images made on one model and judged on another."""

from collections.abc import Callable
from typing import Any, ClassVar

from deepsec_jax.attacks.cost import Cost, cost
from deepsec_jax.attacks.fields import an_attack
from deepsec_jax.attacks.model_checks import check_model
from deepsec_jax.protocols import Attack, Classifier, Images, Key, Keys, Labels
from deepsec_jax.pytree import Struct, field
from deepsec_jax.randomness import is_randomised


class Transfer(Struct):
    """Make the images on ``surrogate`` instead of the model of the call.

        Transfer(attack, surrogate)(model, x, labels) = attack(surrogate, x, labels)

    Success is judged on the model of the call.  The surrogate is a part of the attack and traced: other
    weights do not recompile, and the inner attack's compiled code is shared. ``Transfer(Restarts(attack),
    surrogate)`` keeps the restart that is best on the surrogate. ``Restarts(Transfer(attack, surrogate))``
    keeps the one that is best on the model of the call, and so queries that model.

    Attributes:
        attack: any attack; its hyperparameters and, if random, its key are used on the surrogate.
        surrogate: the attacker's classifier: a callable pytree in evaluation mode, from the same images to
            logits over the same classes.
    """

    attack: Attack = field(check=an_attack)
    surrogate: Classifier = field()

    version: ClassVar[int] = 1

    @property
    def targeted(self) -> bool:
        """Whether ``labels`` are targets, as for the inner attack."""
        return bool(getattr(self.attack, "targeted", False))

    @property
    def needs_key(self) -> bool:
        """Whether the inner attack or the surrogate draws random numbers."""
        return bool(getattr(self.attack, "needs_key", False)) or is_randomised(self.surrogate)

    @property
    def fit(self) -> Callable[..., "Transfer"]:
        """Fit the inner attack to training images on the surrogate; absent if it needs no fit.

        Called by ``prepare``, like ``fit(model, images, *, key, ...)`` of an attack.
        """
        attack: Any = self.attack
        inner = attack.fit  # AttributeError: this attack needs no fit

        def fitted(model: Classifier, images: Any, *, key: Key, **options: Any) -> "Transfer":
            del model
            return self.replace(attack=inner(self.surrogate, images, key=key, **options))

        return fitted

    def targets(
        self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Labels | None:
        """Return the inner attack's targets on the surrogate, int [B], or None.

        An attack that finds its own target (LLC, R+LLC, ILLC) uses the surrogate's least likely class.
        """
        del model
        return self.attack.targets(self.surrogate, x, labels, key=key)

    def cost(self, classes: int, entries: int) -> Cost | None:
        """Return the calls of the surrogate per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        return cost(self.attack, classes=classes, entries=entries)

    def __call__(
        self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Images:
        """Return the inner attack's images on the surrogate; ``model`` is ignored.

        The inner attack checks arrays, key and surrogate.  There is no jit around it: it would convert the
        surrogate's scalars to float32 like hyperparameters, and images could differ in the last bit.
        """
        check_model(model)
        return self.attack(self.surrogate, x, labels, key=key)
