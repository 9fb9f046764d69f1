"""LID: the estimator by brute force in float64, the regression by scikit-learn, a score that sees one row."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_linear
from few import RECIPE, digits  # noqa: F401
from flax import nnx
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from deepsec_jax import attacks, data, defenses, models, training
from deepsec_jax.defenses import Base, DefenseError
from deepsec_jax.defenses.detector import score_all
from deepsec_jax.defenses.detector_files import ARRAYS
from deepsec_jax.defenses.intrinsic_dimension import intrinsic_dimension, reference_of, squared_distances
from deepsec_jax.defenses.lid import LID, as_far, labelled_dimensions, regression, unfitted
from deepsec_jax.hashing import hash_tree

FEW = LID(k=10, minibatch=100, fpr=0.05)
SHAPES = {
    "small_cnn": (4, 4, 1), "mnist_cnn": (16, 16, 1), "mnist_cnn_block": (20, 20, 1), "alexnet": (8, 8, 1),
    "densenet": (4, 4, 1), "resnet": (4, 4, 1), "static_b": (27, 27, 1), "static_c": (5, 5, 1),
    "static_d": (2, 2, 1),
}  # fmt: skip
LAYERS = {"small_cnn": 4, "mnist_cnn": 7, "mnist_cnn_block": 9, "alexnet": 8, "densenet": 7, "resnet": 5}
SMALLEST = {
    "densenet": functools.partial(models.DenseNet, depth=10, growth=2),
    "resnet": functools.partial(models.ResNet, depth=8),
}


def tiny(name, seed=0):
    """The network in evaluation mode with weights drawn by NumPy: initialising would compile for long."""
    make, rng = SMALLEST.get(name) or models.MODELS[name], np.random.default_rng(seed)

    def drawn(leaf):
        values = rng.normal(0.0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        return jnp.asarray(values if leaf.ndim > 1 else np.abs(values), leaf.dtype)  # variances above 0

    model = jax.tree.map(drawn, nnx.eval_shape(lambda: make(SHAPES[name], 10, rngs=nnx.Rngs(0))))
    model.eval()
    return model


@pytest.mark.parametrize("name", SHAPES)
def test_activations_are_every_layers_and_end_with_the_logits(name):
    model, x = tiny(name), jax.random.uniform(jax.random.key(0), (3, *SHAPES[name]))
    logits, layers = jax.jit(lambda model, x: (model(x), model.activations(x)))(model, x)
    alone = jax.jit(lambda model, x: model(x))(model, x)
    assert np.array_equal(logits, layers[-1]) and np.array_equal(alone, logits)
    assert len(layers) == LAYERS.get(name, len(layers)) >= 4
    assert all(layer.ndim == 2 and layer.dtype == jnp.float32 and len(layer) == 3 for layer in layers)
    behind_relu = layers[:-1] if name != "densenet" else layers[-2:-1]
    assert all(float(layer.min()) >= 0 and float(layer.max()) > 0 for layer in behind_relu)


def points(rows, d, seed, offset=0.0):
    drawn = np.random.default_rng(seed).normal(size=(rows, d))
    return (np.maximum(drawn, 0.0) + offset).astype(np.float32)


@functools.partial(jax.jit, static_argnums=2)
def estimate(rows, reference, k):
    return intrinsic_dimension(rows, reference_of(reference), k)


@jax.jit
def call(function, x):
    return function(x)


@jax.jit
def dimensions(scorer, x):
    return scorer.dimensions(x)


def by_brute_force(rows, reference, k):
    """The estimate in float64, from scikit-learn's neighbours."""
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(reference.astype(np.float64))
    distances = search.kneighbors(rows.astype(np.float64))[0]
    return -1.0 / np.mean(np.log(distances / distances[:, -1:]), axis=1)


@pytest.mark.parametrize("d", [10, 200, 20_000])
def test_the_estimator_is_the_brute_force_ones(d):
    reference, rows = points(100, d, seed=1, offset=5.0), points(8, d, seed=2, offset=5.0)
    assert np.allclose(estimate(rows, reference, 20), by_brute_force(rows, reference, 20), rtol=2e-5)
    near = reference[:8] + np.float32(0.01) * (rows - 5.0)  # a hundredth of a point's own spread away
    assert np.allclose(estimate(near, reference, 20), by_brute_force(near, reference, 20), rtol=1e-3)
    far = 10.0 * rows
    assert np.allclose(estimate(far, reference, 20), by_brute_force(far, reference, 20), rtol=2e-3)


def test_distances_keep_their_digits():
    reference = points(100, 3000, seed=1, offset=5.0)
    rows = reference[:5] + np.float32(0.003) * points(5, 3000, seed=2)
    exact = cdist(rows.astype(np.float64), reference.astype(np.float64))
    ours = np.sqrt(squared_distances(jnp.asarray(rows), reference_of(jnp.asarray(reference))))
    assert np.allclose(ours, exact, rtol=1e-4)
    plain = jnp.sum(rows**2, 1)[:, None] + jnp.sum(reference**2, 1)[None, :] - 2 * rows @ reference.T
    assert not np.allclose(np.sqrt(np.maximum(plain, 0.0)), exact, rtol=0.1), "planted: the plain product"


@pytest.mark.parametrize("d", [2, 5, 10])
def test_uniform_points_of_a_cube_have_its_dimension(d):
    rng = np.random.default_rng(d)
    into_more = np.linalg.qr(rng.normal(size=(30, d)))[0].T  # distances stay as they are
    cube, middle = rng.uniform(-1, 1, (20_000, d)), rng.uniform(-0.1, 0.1, (100, d))
    reference, rows = ((part @ into_more).astype(np.float32) for part in (cube, middle))
    found = np.asarray(estimate(rows, reference, 100))
    assert float(found.mean()) == pytest.approx(d, rel=0.12) and found.std() < 0.2 * d


def test_ties_and_no_distance_are_numbers_with_gradients():
    reference = points(30, 12, seed=3)
    twice = np.concatenate([reference, reference[:1]])
    others = by_brute_force(reference[:1], reference[1:], 5)
    for known in (reference, twice):  # a reference point is no neighbour of itself, nor of its copy
        assert np.allclose(estimate(reference[:1], known, 5), others, rtol=1e-4)
    corners = np.concatenate([np.eye(12), -np.eye(12)]).astype(np.float32)
    centre, alone = np.zeros((1, 12), np.float32), np.ones((24, 12), np.float32)
    assert estimate(centre, corners, 5)[0] == pytest.approx(1e6)
    assert estimate(alone[:1], alone, 5)[0] == 0.0 and np.isfinite(estimate(centre, alone, 5)).all()
    assert estimate(alone[:1], np.concatenate([alone, corners[:2]]), 5)[0] > 0.0  # two neighbours of five
    for rows, known in ((reference[:2], reference), (centre, corners), (alone[:1], alone), (centre, alone)):
        gradient = jax.grad(lambda rows, known=known: estimate(rows, known, 5).sum())(jnp.asarray(rows))
        assert np.isfinite(gradient).all()


def test_an_activation_that_is_no_number_has_no_dimension():
    """Its distances would all be left out, and what is left would read as the dimension 0."""
    points = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    rows = points[:3] + np.float32(0.1)
    broken = rows.copy()
    broken[1, 2], broken[2, 0] = np.nan, np.inf
    found = np.asarray(intrinsic_dimension(jnp.asarray(broken), reference_of(jnp.asarray(points)), 5))
    whole = np.asarray(intrinsic_dimension(jnp.asarray(rows), reference_of(jnp.asarray(points)), 5))
    np.testing.assert_array_equal(found[:1], whole[:1])
    assert np.isnan(found[1:]).all() and np.isfinite(whole).all()


def test_the_estimators_gradient_is_the_difference_quotients():
    reference, rows = points(40, 6, seed=4), points(3, 6, seed=5)
    gradient = np.asarray(jax.grad(lambda rows: estimate(rows, reference, 10).sum())(jnp.asarray(rows)))
    direction = np.random.default_rng(6).normal(size=rows.shape)
    wide = reference.astype(np.float64)
    plus, minus = (by_brute_force(rows + step * direction, wide, 10) for step in (1e-5, -1e-5))
    assert np.allclose((gradient * direction).sum(axis=1), (plus - minus) / 2e-5, rtol=1e-3)


def seen_beside(score, x):
    """Whether a row's result changes with the rows beside it."""
    alone = np.concatenate([np.asarray(score(x[row : row + 1])) for row in range(len(x))])
    return not np.allclose(score(x), alone, rtol=1e-4, atol=1e-4)


def test_a_rows_estimate_depends_on_that_row_alone():
    reference, x = points(50, 8, seed=1), jnp.asarray(points(20, 8, seed=2))
    assert not seen_beside(lambda rows: estimate(rows, reference, 5), x)
    assert seen_beside(lambda rows: estimate(rows, jnp.concatenate([x[:5], rows]), 5), x), "planted"


def test_noisy_copies_lie_as_far_as_the_adversarial_ones():
    x = jnp.clip(
        jax.random.uniform(jax.random.key(0), (6, 8, 8, 1), minval=-1.0), min=0.0
    )  # half of it black
    x_adv = jnp.clip(x + 0.3 * jnp.sign(jax.random.normal(jax.random.key(1), x.shape)), min=0.0, max=1.0)
    noisy = as_far(x, x_adv, jax.random.split(jax.random.key(2), 6))
    wanted, found = (np.linalg.norm(np.reshape(y - x, (6, -1)), axis=1) for y in (x_adv, noisy))
    assert np.allclose(found, wanted, rtol=1e-5) and noisy.min() >= 0 and noisy.max() <= 1
    noise = np.asarray(noisy - x)[np.asarray((noisy > 0) & (noisy < 1) & (x > 0.4) & (x < 0.6))]
    assert len(np.unique(np.abs(noise))) == len(noise) > 5, "no sign steps"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A base that classifies digits, trained for some epochs."""
    whole = data.load("digits")
    recipe = replace(RECIPE, epochs=4)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes kinds of numbers
        saved = training.train(recipe, whole, tmp_path_factory.mktemp("digits") / "model")
    return defenses.base_of(saved, whole), whole


@pytest.fixture(scope="module")
def detector(trained):
    return FEW.fit(*trained, key=jax.random.key(0))


def test_the_score_is_scikit_learns_decision_function(trained):
    base, whole = trained
    scorer = unfitted(base.trained, data.unit_images(whole.train.images[:30]), 5)
    few = whole.train.take(np.arange(30, 230))
    right = few.take(np.flatnonzero(call(base.trained, jnp.asarray(few.images)).argmax(-1) == few.labels))
    features, classes = labelled_dimensions(
        scorer, attacks.FGSM(eps=0.3), right.images, right.labels, key=jax.random.key(0)
    )
    assert len(features) == len(classes) == 3 * classes.sum() > 100 and features.shape[1] == 4
    assert not classes[: 2 * len(classes) // 3].any()
    fitted = regression(scorer, features, classes)
    scaler = StandardScaler().fit(features.astype(np.float64))
    theirs = LogisticRegression(max_iter=1000).fit(scaler.transform(features.astype(np.float64)), classes)
    x = jnp.asarray(whole.test.images[:50])
    standard = scaler.transform(np.asarray(dimensions(fitted, x), np.float64))
    assert np.allclose(call(fitted, x), theirs.decision_function(standard), rtol=1e-4, atol=1e-4)
    assert not np.allclose(call(fitted, x), theirs.predict_proba(standard)[:, 1], atol=0.1)


def test_it_tells_fgsm_from_clean_images_and_flags_few_of_those(trained, detector):
    base, whole = trained
    x, labels = jnp.asarray(whole.test.images), jnp.asarray(whole.test.labels)
    x_adv = attacks.FGSM(eps=0.3)(base.trained, x, labels)
    clean, adversarial = detector.score(x), detector.score(x_adv)
    assert clean.shape == (len(x),) and clean.dtype == jnp.float32
    assert 0.0 < np.mean(clean > detector.threshold) < 0.12  # of 450, at 5 % of 143 others
    assert np.mean(adversarial > detector.threshold) > 0.5
    assert roc_auc_score(np.repeat([0, 1], len(x)), np.concatenate([clean, adversarial])) > 0.9


def test_scores_see_one_row_compile_once_and_have_gradients(trained, detector, compiles):
    base, whole = trained
    x = jnp.asarray(whole.test.images[:20])
    assert not seen_beside(detector.score, x)
    test_batch = unfitted(base.trained, np.asarray(x), 5).replace(
        mean=detector.scorer.mean, scale=detector.scorer.scale, weights=detector.scorer.weights
    )
    beside = {len(rows): test_batch.replace(reference=unfitted(base.trained, rows, 5).reference)
              for rows in (np.asarray(x), np.asarray(x[:10]))}  # fmt: skip
    scores = [np.asarray(call(beside[rows], x[:10])) for rows in (20, 10)]
    assert not np.allclose(*scores, rtol=1e-2), "planted: the images that are scored as the reference"
    other = detector.replace(scorer=detector.scorer.replace(weights=2.0 * detector.scorer.weights))
    with compiles() as count:
        assert not np.array_equal(other.score(x), detector.score(x))
    assert count("_score") == 0
    gradient = jax.jit(jax.grad(lambda x: detector.score(x).sum()))(x)
    assert np.isfinite(gradient).all() and (np.abs(gradient).max(axis=(1, 2, 3)) > 0).all()
    assert FEW.surrogate(detector) is detector


def test_its_name_in_a_run_is_the_same_on_a_machine_that_rounds_otherwise(trained, detector):
    def name(scorer, **changes):
        return hash_tree({"guarded by": detector.replace(scorer=scorer.replace(**changes))}).hexdigest()

    scorer = detector.scorer
    rounded = jax.tree.map(lambda leaf: leaf * (1.0 + 1e-7), scorer.reference)
    assert name(scorer) == name(scorer, reference=rounded)
    named = [
        name(scorer),
        name(scorer, images=scorer.images[::-1]),
        name(scorer, weights=2.0 * scorer.weights),
    ]
    network = jax.tree.map(lambda leaf: leaf + 1 if leaf.dtype == jnp.float32 else leaf, scorer.model)
    named += [name(scorer, model=network), name(scorer, k=scorer.k + 1)]
    assert len(set(named)) == len(named)
    assert hash_tree(scorer).hexdigest() == hash_tree(scorer.replace(reference=rounded)).hexdigest()


def test_a_folder_brings_it_back_and_damage_is_one_line(trained, tmp_path):
    base, whole = trained
    few = replace(whole, train=whole.train.take(np.arange(400)))
    fitted = FEW.fit(base, few, key=jax.random.key(2), folder=tmp_path / "lid")
    x = whole.test.images[:50]
    kept, scores = (tmp_path / "lid" / ARRAYS).read_bytes(), score_all(fitted.scorer, x)
    for again in (
        FEW.restore(training.load_network(tmp_path / "lid"), tmp_path / "lid"),
        FEW.fit(base, few, key=jax.random.key(9), folder=tmp_path / "lid"),  # finished: not fitted again
    ):
        assert np.array_equal(score_all(again.scorer, x), scores)
        assert (again.threshold, again.spread) == pytest.approx((fitted.threshold, fitted.spread), rel=1e-12)

    (tmp_path / "lid" / ARRAYS).unlink()  # as if it had been interrupted before the last file
    with pytest.raises(DefenseError, match=r"no detector in .*fit the detector again"):
        FEW.restore(training.load_network(tmp_path / "lid"), tmp_path / "lid")
    resumed = FEW.fit(base, few, key=jax.random.key(2), folder=tmp_path / "lid")
    assert np.array_equal(score_all(resumed.scorer, x), scores)
    assert (tmp_path / "lid" / ARRAYS).read_bytes() == kept

    flipped = bytearray(kept)
    flipped[len(kept) // 2] ^= 1
    for content in (b"", kept[:100], kept[:-30], bytes(flipped)):
        (tmp_path / "lid" / ARRAYS).write_bytes(content)
        with pytest.raises(DefenseError, match=r"is damaged .*fit the detector again") as refused:
            FEW.restore(training.load_network(tmp_path / "lid"), tmp_path / "lid")
        assert len(str(refused.value).splitlines()) == 1

    plain = training.load_network(tmp_path / "lid")
    with pytest.raises(DefenseError, match="holds a model without LID"):
        FEW.restore(replace(plain, figures={}), tmp_path / "lid")


def test_what_cannot_be_fitted_says_why(trained, digits):
    base, whole = trained
    bare = Base(None, None, make_linear((8, 8, 1), 10))
    with pytest.raises(DefenseError, match=r"needs activations\(x\) .* Linear has none: give it that method"):
        LID().fit(bare, digits, key=jax.random.key(0))
    with pytest.raises(DefenseError, match=r"moves 0 of .*a larger eps"):
        FEW.replace(eps=0.0, examples=20).fit(base, whole, key=jax.random.key(0))
    with pytest.raises(DefenseError, match="wants 2000: give more images"):
        FEW.replace(minibatch=2000).fit(base, digits, key=jax.random.key(0))
    for wrong in ({"k": 1}, {"minibatch": 20}, {"examples": -1}, {"images": 0}):
        with pytest.raises(ValueError, match=f"LID.{next(iter(wrong))} must be"):
            LID(**wrong)
