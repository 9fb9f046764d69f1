"""Transfer: images made on one model, to be judged on another."""

from collections.abc import Callable
from typing import Any, ClassVar

from deepsec_jax.attacks.call import check_model
from deepsec_jax.protocols import Attack, Classifier, Images, Key, Keys, Labels
from deepsec_jax.pytree import Struct, is_randomised


class Transfer(Struct):
    """Make the images on ``surrogate``, whatever model the call is given: what an attacker without it can do.

        Transfer(attack, surrogate)(model, x, labels) = attack(surrogate, x, labels)

    Whoever judges does so on the model of the call.  The surrogate is a part of the attack, traced like any
    other: its weights do not recompile, and the inner attack's compiled code is shared.  ``Transfer(
    Restarts(attack), surrogate)`` keeps the restart that is best on the surrogate; ``Restarts(Transfer(
    attack, surrogate))`` the one that is best on the model of the call, and so asks that model.

    Attributes:
        attack: any attack; its hyperparameters and, if random, its key are used on the surrogate.
        surrogate: the classifier that the attacker has: a pytree callable in evaluation mode, from the same
            images to logits over the same classes.
    """

    attack: Attack
    surrogate: Classifier

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
        """Fit the inner attack to training images on the surrogate; not there if it is not fitted.

        Called as an attack's own ``fit(model, images, *, key, ...)``, by ``prepare``.
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

        An attack that finds its target itself (LLC, R+LLC, ILLC) looks at the model it has: it drives to
        the surrogate's least likely class, and no other class would be its success.
        """
        del model
        return self.attack.targets(self.surrogate, x, labels, key=key)

    def __call__(
        self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Images:
        """Return the inner attack's images on the surrogate; ``model`` is not asked.

        The inner attack checks arrays, key and surrogate.  There is no jit around it: one would hand the
        surrogate's scalars over as hyperparameters, in float32, and its images could differ in a bit.
        """
        check_model(model)
        return self.attack(self.surrogate, x, labels, key=key)
