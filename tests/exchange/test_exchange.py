"""Records for AttackBench and RobustBench, by hand and, where they are installed, by their own code."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images, make_linear

from deepsec_jax import exchange
from deepsec_jax.attacks import FMN, count_calls

NAMES = {"dataset": "mnist", "model_name": "linear", "attack_name": "fmn"}


@pytest.fixture(scope="module")
def made():
    """Five images: one misclassified, one that the attack leaves as it is, three that it fools."""
    model, x = make_linear(classes=3), make_images(rows=5)
    labels = np.asarray(jnp.argmax(model(x), axis=-1)).copy()
    labels[0] = (labels[0] + 1) % 3
    counted = count_calls(FMN(steps=20), model, x, jnp.asarray(labels), key=jax.random.key(0))
    x_adv = np.asarray(counted.x).copy()
    x_adv[1] = x[1]
    record = exchange.attackbench(
        model, x, x_adv, labels, norm=2, forwards=counted.forwards, gradients=counted.gradients, **NAMES
    )
    return model, np.asarray(x), x_adv, labels, record


def test_an_attackbench_record_by_hand(made):
    _, x, x_adv, labels, record = made
    assert record["ori_success"] == [True, False, False, False, False]
    assert record["adv_success"] == [True, False, True, True, True]
    found = record["distances"]["l2"]
    assert found[0] == 0.0 and found[1] == np.inf
    np.testing.assert_allclose(found[2:], np.linalg.norm((x_adv - x).reshape(5, -1), axis=1)[2:], rtol=1e-5)
    first = np.moveaxis(x[2], -1, 0).astype("<f4").tobytes()
    assert record["hashes"][2] == hashlib.sha512(first).hexdigest()
    assert record["ASR"] == 0.8 and record["accuracy"] == 0.8
    assert record["num_backwards"] == record["num_forwards"] == [1, 20, 20, 20, 20]
    assert exchange.attackbench_name(record) == "mnist-l2-linear-fmn-deepsec_jax-5.json"
    assert json.loads(json.dumps(record)) == record
    assert len(labels) == record["metadata"]["n_samples"]


def test_attackbenchs_own_code_reads_it(made, tmp_path):
    storage = pytest.importorskip("attackbench.metrics.storage")
    distances = pytest.importorskip("attackbench.metrics.distances")
    record = made[-1]
    path, metadata = storage.save_precompiled_distances(record, str(tmp_path))
    assert path.endswith(exchange.attackbench_name(record)) and metadata == record["metadata"]
    kept = storage.load_precompiled_distances(path)
    assert kept == record, "AttackBench stores the same fields"
    assert distances.eval_optimality(record["distances"]["l2"], record["distances"]["l2"], 0.8) == 1.0


def test_bad_input_is_refused(made):
    model, x, x_adv, labels, _ = made
    with pytest.raises(ValueError, match="one image per row"):
        exchange.attackbench(model, x, x_adv[:2], labels, norm="l2", **NAMES)
    with pytest.raises(ValueError, match="must be one of l0"):
        exchange.attackbench(model, x, x_adv, labels, norm="l3", **NAMES)


def test_a_robustbench_entry_by_hand():
    about = {"name": "PAT", "dataset": "cifar10", "norm": "Linf", "architecture": "ResNet-20"}
    entry = exchange.robustbench(eps=8 / 255, clean=0.8714, robust=0.4404, **about)
    assert (entry["eps"], entry["clean_acc"], entry["autoattack_acc"]) == ("8/255", "87.14", "44.04")
    assert "external" not in entry and entry["reported"] == "44.04"
    assert exchange.robustbench(eps=0.5, clean=0.9, robust=0.4, external=0.3, **about)["eps"] == "0.5"
    with pytest.raises(ValueError, match=r"robust accuracy 0\.9 is above clean accuracy 0\.8"):
        exchange.robustbench(eps=0.5, clean=0.8, robust=0.9, **about)
    with pytest.raises(ValueError, match="clean must be a share"):
        exchange.robustbench(eps=0.5, clean=87.1, robust=0.9, **about)
