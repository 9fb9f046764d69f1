"""One look at the model before the first cell: what is found is printed, and kept with the cells."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepsec_jax.data import Dataset


def look_at(model: Any, dataset: "Dataset", who: str, *, gradients: bool = True) -> list[str]:
    """Return what is wrong with a model or the images that it is asked about, and print it.

    Args:
        model: a pytree callable in evaluation mode.
        dataset: whose first test images are looked at.
        who: what the model is called.
        gradients: whether attacks will follow its gradients.
    """
    from deepsec_jax.attacks import check_model_outputs
    from deepsec_jax.attacks.model_outputs import ROWS
    from deepsec_jax.data import unit_images

    images, labels = unit_images(dataset.test.images[:ROWS]), dataset.test.labels[:ROWS]
    found = check_model_outputs(model, images, labels, gradients=gradients)
    for finding in found:
        print(f"warning: {who}: {finding}", flush=True)
    return found


def follow_gradients(attacks: Iterable[Any]) -> bool:
    """Tell whether one of the attacks at least follows the model's gradients."""
    from deepsec_jax.attacks import Square

    return any(not isinstance(attack, Square) or attack.guided for attack in attacks)
