"""Random noise against one step along the gradient: noise must not fool a model better."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepsec_jax.answers import as_labels
from deepsec_jax.attacks import FGSM
from deepsec_jax.attacks.ascent import at_step
from deepsec_jax.attacks.indicators import fools
from deepsec_jax.attacks.losses import logit_gap
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.batches import OnBatch, in_batches, silent
from deepsec_jax.evaluation.defense_cells import DefendedModel
from deepsec_jax.jit import jit_per_class
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels
from deepsec_jax.randomness import example_keys
from deepsec_jax.runs.cells import Cell
from deepsec_jax.runs.runner import Job
from deepsec_jax.studies.defenses.inconsistencies import paired
from deepsec_jax.studies.run import Run
from deepsec_jax.studies.security.cells import Makers
from deepsec_jax.studies.security.gating.gate import Gate
from deepsec_jax.studies.security.gating.sign import ROWS, sign_job
from deepsec_jax.studies.security.gating.tried import tried
from deepsec_jax.studies.security.worst import Threat, largest_linf, worst_case
from deepsec_jax.tables.table import Finding

KIND = "noise"
"""Kind of these cells."""

DRAWS = 20
"""Number of noises per image, of which the worst one counts."""

NOISE = "noise ahead of the gradient"

REMEDY = "attack without gradients, --attacks square rays, or through another surrogate"


def noise_arrays(
    model: Classifier,
    surrogate: Classifier | None,
    images: np.ndarray,
    labels: np.ndarray,
    clean: np.ndarray,
    *,
    eps: float,
    key: Key,
    batch_size: int,
    on_batch: OnBatch = silent,
) -> dict[str, np.ndarray]:
    """Return whether noise and one step fool the first :data:`ROWS` correctly classified images.

    Args:
        model: the model.
        surrogate: what the step differentiates; None for the model itself.
        images: clean images [N, H, W, C].
        labels: true classes [N].
        clean: share of draws in which the clean image is classified correctly [N].
        eps: radius in L-inf.
        key: root of the random numbers.
        batch_size: images per call.
        on_batch: called with numbers of images.

    Returns:
        ``rows``, the indices of these images, and ``noise`` and ``one_step``, float32, 1 where it fools.
    """
    chosen = np.flatnonzero(clean > 0.5)[:ROWS]
    keys = example_keys(key, len(images))[chosen] if len(chosen) else None

    def found(rows: np.ndarray) -> dict[str, Any]:
        assert keys is not None
        x, y = jnp.asarray(images[chosen[rows]]), as_labels(labels[chosen[rows]])
        through = model if surrogate is None else surrogate
        noise, step = noise_and_step(model, through, x, y, keys[rows], eps)
        return {"noise": noise, "one_step": step}

    size = max(1, min(batch_size, len(chosen)))
    nothing = dict.fromkeys(("noise", "one_step"), np.zeros(0, np.float32))
    return {"rows": chosen.astype(np.int32), **nothing, **in_batches(found, len(chosen), size, on_batch)}


@jit_per_class
def noise_and_step(
    model: Classifier, surrogate: Classifier, x: Images, labels: Labels, keys: Keys, eps: Any
) -> tuple[jax.Array, jax.Array]:
    """Return whether the worst of :data:`DRAWS` noises and one step of FGSM fool the model, float32 [B].

    Each entry of the noise is -eps or eps.  A randomised model chooses the worst noise and is judged with
    different draws.
    """
    of_noise, of_model, asked = jax.vmap(partial(jax.random.split, num=3), out_axes=1)(keys)

    def one(
        worst: tuple[jax.Array, jax.Array], number: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        here = jax.vmap(jax.random.fold_in, in_axes=(0, None))(of_noise, number)
        signs = jax.vmap(partial(jax.random.rademacher, shape=x.shape[1:], dtype=x.dtype))(here)
        noisy = jnp.clip(x + eps * signs, min=0.0, max=1.0)
        drawn = at_step(model, of_model, number)
        loss = logit_gap(open_logits(drawn, drawn(noisy), labels, targeted=False), labels)
        loss = jnp.where(jnp.isnan(loss), -jnp.inf, loss)
        better = loss > worst[1]
        return (
            jnp.where(better[:, None, None, None], noisy, worst[0]),
            jnp.where(better, loss, worst[1]),
        ), None

    start = (x, jnp.full(x.shape[0], -jnp.inf, x.dtype))
    (noisy, _), _ = lax.scan(one, start, jnp.arange(DRAWS))
    stepped = FGSM(eps=eps)(surrogate, x, labels, key=of_model)
    fooled = [fools(model, each, labels, asked).astype(jnp.float32) for each in (noisy, stepped)]
    return fooled[0], fooled[1]


def noise_job(
    makers: Makers, run: Run, defended: DefendedModel | None, *, n: int, seed: int, preset: str
) -> Job:
    """Return the job that compares noise with one step at the largest usual radius in L-inf.

    Args:
        makers: of the other jobs.
        run: the undefended model and its data.
        defended: the defended model; None for the undefended one.
        n: number of images, of which at most :data:`ROWS` are used.
        seed: of images and noise.
        preset: of the section's attacks.
    """
    threat = largest_linf(run.channels)
    attack = {"name": "noise", "preset": preset, "draws": DRAWS, "eps": threat.eps}
    about = {"kind": KIND, "version": 1, "attack": attack}
    return sign_job(
        makers, run, defended, partial(noise_arrays, eps=threat.eps), about,
        n=n, seed=seed, gradients=DRAWS + 2, bytes_per_image=12,
    )  # fmt: skip


def noise_gates(arrays: Mapping[str, np.ndarray], cells: Sequence[Cell], threat: Threat) -> list[Gate]:
    """Return the gate that noise closes; open if some attack finds what noise finds.

    Args:
        arrays: of :func:`noise_arrays`.
        cells: finished cells of the model.
        threat: radius of the noise.
    """
    rows, noise = arrays["rows"], arrays["noise"]
    worst = worst_case(cells, threat, first=tried(cells, threat))
    if worst is not None:
        rows, noise = rows[rows < len(worst.robust)], noise[rows < len(worst.robust)]
        only = int(((noise > 0.5) & (worst.robust[rows] > 0.5)).sum())
        if only > max(1, 0.01 * len(rows)):
            text = f"{threat.label}: {only} of n = {len(rows)} images fall to random noise only"
            return [Gate(Finding(NOISE, text), True, REMEDY)]
    pair = paired(arrays["noise"], arrays["one_step"])
    if not pair.above:
        return []
    text = (
        f"{threat.label}: the worst of {DRAWS} random noises fools {100 * pair.gap:.0f} points more of n = "
        f"{len(arrays['noise'])} images than FGSM"
    )
    return [Gate(Finding(NOISE, text), False, REMEDY)]
