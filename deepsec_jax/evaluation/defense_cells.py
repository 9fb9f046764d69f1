"""The cells of a defense: on clean test images, and on a sample under attack.

A config of both kinds has ``kind``, ``version``, ``data`` and ``model`` (the undefended one, as in a cell of
an attack).  Its ``defense`` has ``name`` of the preset row, ``preset`` kind, ``class``, ``settings``,
``versions``, ``recipe`` and ``base``.  It also has ``weights`` (digests of the models), ``images`` (a hash
over the test split) and ``draws`` (of a randomised model).

A cell of kind ``utility`` on a part of the test split also has that part's ``n`` and ``seed``.  A cell of
kind ``robustness`` also has ``knowledge``, ``attack``, ``eps``, ``n`` and ``seed``; that of the undefended
model has no ``defense``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from deepsec_jax.attacks import PGD, Square, preset
from deepsec_jax.attacks.settings import described
from deepsec_jax.catalog import versions
from deepsec_jax.defenses import Defended
from deepsec_jax.evaluation.judge import draws_of
from deepsec_jax.hashing import hash_tree
from deepsec_jax.model_traits import gives_confidences, rejects
from deepsec_jax.protocols import Classifier
from deepsec_jax.randomness import is_randomised
from deepsec_jax.runs.cells import KINDS, MODEL_INPUTS, ROBUSTNESS, UTILITY

UNDEFENDED, REPLAYED, WHITE_BOX, ADAPTIVE = "undefended", "replayed", "white_box", "adaptive"
"""The attacker's knowledge: PGD on the undefended model, judged there; the same images judged on the defended
model; PGD on the defended model; the strongest attack, through the defense's surrogate.
"""


LOSSES = ("max_margin", "dlr")
"""Losses of the joint attack on model and detector, in order."""

FIRST = 0.125
"""Length of its first step, in radii; longer with few steps."""

DECAY = 0.75
"""Decay of its momentum.  Under a linear detector the joint attack with 100 such steps reaches nine tenths of
the optimal margin (linear programming) from most starts; without momentum it rarely reaches eight tenths."""

WEIGHTS = (1.0, 3.0, 0.3, 10.0)
"""Detector weights of the joint attack, cycled over restarts; the best one differs by detector and image."""

SQUARES, GUIDED, ON = "squares", "guided squares", ", all queries"
"""The final search of the adaptive attack.  ``SQUARES`` is Square as published.  ``GUIDED`` is for a model
without a gradient: the surrogate's gradient guides it.  With ``ON`` it uses all queries, also after the
surrogate is fooled: for a random model, since single draws may be correct if the expectation is fooled."""


@dataclass(frozen=True)
class DefendedModel:
    """A defended model, and its description for tables.

    Attributes:
        about: ``name``, ``preset``, ``class``, ``settings``, ``versions``, ``recipe``, ``base``.
        classifier: the defended model, in evaluation mode.
        surrogate: what an adaptive attacker differentiates.
        confidences: whether its confidences are comparable with those of the undefended model: it has
            confidences (:func:`deepsec_jax.model_traits.gives_confidences`) and does not reject.
        differentiable: whether the defended model has a gradient of its own.
        training: ``test_accuracy``, ``history`` and further figures of the training.
        folder: its path.
        findings: of :func:`deepsec_jax.attacks.check_model_outputs` about it and the surrogate.
    """

    about: dict[str, Any]
    classifier: Classifier
    surrogate: Classifier
    confidences: bool = True
    differentiable: bool = True
    training: Mapping[str, Any] | None = None
    folder: str = ""
    findings: tuple[str, ...] = ()

    @property
    def rejects(self) -> bool:
        """Whether the defended model can reject an image."""
        return rejects(self.classifier)

    @cached_property
    def weights(self) -> str:
        """Digest of the defended model."""
        return digest(self.classifier)

    @cached_property
    def surrogate_weights(self) -> str:
        """Digest of the surrogate."""
        return digest(self.surrogate)


def subject_of(defended: Defended, folder: str = "") -> DefendedModel:
    """Return the subject of a defended model's folder."""
    card, saved = defended.card, defended.saved
    about = {
        "name": card["name"], "preset": card["preset"], "class": card["class"],
        "settings": card["settings"], "versions": card["versions"], "base": card["base"],
        "recipe": saved.recipe.to_dict(),
    }  # fmt: skip
    # A detector leaves confidences unchanged or rejects: CCV and COS would look perfect.
    confidences = gives_confidences(defended.classifier) and not rejects(defended.classifier)
    differentiable = bool(getattr(defended.defense, "differentiable", True))
    return DefendedModel(
        about, defended.classifier, defended.surrogate, confidences, differentiable, saved.figures, folder
    )


@dataclass(frozen=True)
class Threat:
    """The threat model: the L-inf ball and the effort of the attacks.

    Attributes:
        eps: radius, in units of the [0, 1] pixel range.
        n: images of the sample.
        seed: of the sample and of all attacks.
        steps: of each run of the adaptive attack.
        restarts: its runs towards other classes, the nearest first; with a detector also the joint attack's
            runs per loss.
        queries: of the final search; 0 for none.
    """

    eps: float
    n: int = 1000
    seed: int = 0
    steps: int = 100
    restarts: int = 5
    queries: int = 1000


@dataclass(frozen=True)
class Subset:
    """A random part of the clean test images, if all would take too long.

    Attributes:
        n: number of images.
        seed: of the draw.
    """

    n: int
    seed: int = 0


def default_eps(channels: int) -> float:
    """Return the usual radius: 0.3 for grey images, 8/255 for colour images."""
    return 0.3 if channels == 1 else 8 / 255


def paper_pgd(dataset: str, eps: float, *, channels: int | None = None) -> PGD:
    """Return PGD with the paper's settings for a data set; the step size is scaled with eps."""
    pgd: Any = preset("pgd", dataset, "paper", channels=channels)
    same = pgd.eps == eps
    scaled: PGD = pgd if same else pgd.replace(eps=eps, step_size=pgd.step_size * eps / pgd.eps)
    return scaled


def losses_for(classes: int) -> tuple[str, ...]:
    """Return the losses of the joint attack; DLR needs three classes."""
    return LOSSES if classes > 2 else LOSSES[:1]


def search_for(subject: DefendedModel) -> str:
    """Return the final search of the adaptive attack on a defended model."""
    search = SQUARES if subject.differentiable else GUIDED
    return search + ON if is_randomised(subject.surrogate) else search


def is_exact(subject: DefendedModel) -> bool:
    """Tell whether fooling the surrogate fools the model: it is the model itself, and is deterministic."""
    return subject.surrogate_weights == subject.weights and not is_randomised(subject.classifier)


def digest(model: Classifier) -> str:
    """Return 16 hex digits over a model's structure and weights."""
    return str(hash_tree(model).hexdigest()[:16])


@dataclass(frozen=True)
class Question:
    """Common entries of all configs of one evaluation.

    Attributes:
        data: data set name.
        model: ``name`` of the undefended model, and further known facts.
        raw: the undefended model's digest.
        raw_draws: number of draws for judging it.
        images: hash of the test split.
        classes: number of classes.
        channels: of an image.
    """

    data: str
    model: dict[str, Any]
    raw: str
    raw_draws: int
    images: str
    classes: int
    channels: int

    def utility(self, subject: DefendedModel, part: Subset | None = None) -> dict[str, Any]:
        """Return the config of a defense on clean test images, all or a part."""
        drawn = {} if part is None else {"n": part.n, "seed": part.seed}
        return {**self._shared(UTILITY), **self._defended(subject), **drawn}

    def under(self, knowledge: str, subject: DefendedModel | None, threat: Threat) -> dict[str, Any]:
        """Return the config of one kind of knowledge; that of the undefended model has no subject."""
        if subject is None:
            return self.undefended(threat)
        found: dict[str, Any] = getattr(self, knowledge)(subject, threat)
        return found

    def undefended(self, threat: Threat) -> dict[str, Any]:
        """Return the config of PGD on the undefended model."""
        return {
            **self._shared(ROBUSTNESS), "knowledge": UNDEFENDED, "weights": {"raw": self.raw},
            "draws": self.raw_draws, **self._pgd(threat),
        }  # fmt: skip

    def replayed(self, subject: DefendedModel, threat: Threat) -> dict[str, Any]:
        """Return the config of the undefended model's adversarial images on a defended one."""
        mine = self._defended(subject)
        return {**self._shared(ROBUSTNESS), "knowledge": REPLAYED, **mine, **self._pgd(threat)}

    def white_box(self, subject: DefendedModel, threat: Threat) -> dict[str, Any]:
        """Return the config of PGD on a defended model."""
        mine = self._defended(subject)
        return {**self._shared(ROBUSTNESS), "knowledge": WHITE_BOX, **mine, **self._pgd(threat)}

    def adaptive(self, subject: DefendedModel, threat: Threat) -> dict[str, Any]:
        """Return the config of the adaptive attack on a defended model."""
        mine = self._defended(subject, surrogate=subject.surrogate_weights)
        attack = self.cascade(
            threat, joint=rejects(subject.surrogate), search=search_for(subject), stops=is_exact(subject)
        )
        return {**self._shared(ROBUSTNESS), "knowledge": ADAPTIVE, **mine, **_attacked(attack, threat)}

    def model_inputs(self, subject: DefendedModel, threat: Threat) -> dict[str, Any]:
        """Return the config of a defended model's inputs for a few images of the adaptive attack."""
        made = self.adaptive(subject, threat)
        shared = {name: value for name, value in made.items() if name != "knowledge"}
        return {**shared, "kind": MODEL_INPUTS, "version": KINDS[MODEL_INPUTS].version}

    def cascade(
        self, threat: Threat, *, joint: bool = False, search: str = SQUARES, stops: bool = True
    ) -> dict[str, Any]:
        """Return a description of the adaptive attack: ``joint`` on model and detector, then ``search``."""
        aims = min(threat.restarts, self.classes - 1)
        detector = {
            "step_size": threat.eps * max(FIRST, 5.0 / threat.steps), "rule": "cosine", "decay": DECAY,
            "losses": list(losses_for(self.classes)), "weights": list(WEIGHTS), "confident": 1,
        }  # fmt: skip
        queries = {"search": search, "queries": threat.queries} if threat.queries else {}
        return {
            "name": "cascade", "class": "Cascade",
            "hyperparameters": {
                "attack": "APGD", "norm": "linf", "eps": threat.eps, "steps": threat.steps,
                "restarts": threat.restarts, "aims": aims, "rounds": -(-threat.restarts // aims),
                "stops": stops, **(detector if joint else {}), **queries,
            },
            "versions": versions([PGD, Square] if queries else [PGD]),
        }  # fmt: skip

    def _shared(self, kind: str) -> dict[str, Any]:
        return {
            "kind": kind, "version": KINDS[kind].version, "data": self.data, "model": self.model,
            "images": self.images,
        }  # fmt: skip

    def _defended(self, subject: DefendedModel, **others: str) -> dict[str, Any]:
        return {
            "defense": subject.about,
            "weights": {"raw": self.raw, "defended": subject.weights, **others},
            "draws": draws_of(subject.classifier),
        }

    def _pgd(self, threat: Threat) -> dict[str, Any]:
        pgd = paper_pgd(self.data, threat.eps, channels=self.channels)
        return _attacked({"name": "pgd", **described(pgd)}, threat)


def _attacked(attack: dict[str, Any], threat: Threat) -> dict[str, Any]:
    return {"attack": attack, "eps": threat.eps, "n": threat.n, "seed": threat.seed}
