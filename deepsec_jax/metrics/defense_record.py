"""The input of a defense metric: outputs of the raw and the defended model on the same clean images."""

import jax
import jax.numpy as jnp

from deepsec_jax.answers import as_labels
from deepsec_jax.jit import jit_per_class
from deepsec_jax.metrics.record import Answers, classify
from deepsec_jax.model_traits import gives_confidences
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Logits
from deepsec_jax.pytree import Struct, static
from deepsec_jax.randomness import is_randomised

NO_CONFIDENCES = "the raw or the defended model gives votes or flags, no confidences"
"""The reason why CCV and COS of such a model are NaN."""


class DefenseRecord(Struct):
    """Outputs of a raw and of a defended model on N clean images; a read-only pytree.

    For a randomised model outputs are means over draws, and ``correct`` is a share of draws.  Rows are
    independent: join the records of batches by ``jax.tree.map(lambda *parts: jnp.concatenate(parts), ...)``.

    Attributes:
        labels: true classes [N].
        logits_raw: logits of the raw model [N, K].
        logits: logits of the defended model [N, K], [N, K+1] if it rejects; its own number of columns if it
            has no confidences.
        probabilities_raw: softmax of the raw model's logits [N, K].
        probabilities: softmax of the defended model's logits of the classes [N, K].
        correct_raw: share of draws in which the raw model's largest logit is the label's [N]; 0 or 1 on a
            deterministic model.
        correct: the same of the defended model [N].
        rejected: share of draws in which the defended model rejects the clean image [N]; NaN if it cannot,
            None if not measured.
        no_answer_raw: share of draws in which the raw model gives no answer (NaN or +inf) to the clean image,
            which is not correct [N]; None if not measured.
        no_answer: the same of the defended model [N].
        confidences: whether ``probabilities`` are confidences; False for vote shares (RC) and flags,
            static.
    """

    labels: Labels
    logits_raw: Logits
    logits: Logits
    probabilities_raw: jax.Array
    probabilities: jax.Array
    correct_raw: jax.Array
    correct: jax.Array
    rejected: jax.Array | None = None
    no_answer_raw: jax.Array | None = None
    no_answer: jax.Array | None = None
    confidences: bool = static(True)


def defense_record_of(
    raw: Classifier,
    defended: Classifier,
    images: Images,
    labels: Labels,
    *,
    raw_draws: Keys | None = None,
    draws: Keys | None = None,
    confidences: bool | None = None,
) -> DefenseRecord:
    """Return the outputs of both models on clean images.

    Args:
        raw: the model before the defense.
        defended: the model with the defense.
        images: clean images [N, H, W, C] in [0, 1].
        labels: true classes [N].
        raw_draws: keys [D, N] over which a randomised raw model is averaged.
        draws: keys [D, N] over which a randomised defended model is averaged.
        confidences: whether the softmax of both models' logits is a confidence; default the models' own
            declaration (:func:`deepsec_jax.model_traits.gives_confidences`).

    Raises:
        ValueError: a randomised model without draws, or confidences over different classes.
    """
    for model, keys, name in ((raw, raw_draws, "raw_draws"), (defended, draws, "draws")):
        if keys is None and is_randomised(model):
            raise ValueError(f"the model is randomised: pass {name}= keys [draws, {len(images)}]")
    if confidences is None:
        confidences = gives_confidences(raw) and gives_confidences(defended)
    before = _outputs(raw, images, labels, raw_draws)
    after = _outputs(defended, images, labels, draws)
    if confidences and after.probabilities.shape != before.probabilities.shape:
        raise ValueError(
            f"the raw model has {before.probabilities.shape[1]} classes, the defended one "
            f"{after.probabilities.shape[1]}: pass confidences=False, their confidences cannot be compared"
        )
    return DefenseRecord(
        labels=as_labels(labels), logits_raw=before.logits, logits=after.logits,
        probabilities_raw=before.probabilities, probabilities=after.probabilities,
        correct_raw=before.correct, correct=after.correct, rejected=after.rejected,
        no_answer_raw=before.no_answer, no_answer=after.no_answer, confidences=confidences,
    )  # fmt: skip


@jit_per_class
def _outputs(model: Classifier, images: Images, labels: Labels, draws: Keys | None) -> Answers:
    """Return a model's outputs.

    One program per model: in a common program both could round differently, and a defense that changes
    nothing would change bits.
    """
    return classify(model, images, labels, None, draws)


def both_correct(record: DefenseRecord) -> jax.Array:
    """Return [N]: the smaller share of correct draws of both models, for ``summarise``.

    1 where both deterministic models classify the image correctly, else 0.
    """
    return jnp.minimum(record.correct_raw, record.correct)


def if_confident(record: DefenseRecord, values: jax.Array) -> jax.Array:
    """Return the values [N], or NaN for every image if the defended model gives no confidences."""
    return values if record.confidences else jnp.full_like(values, jnp.nan)
