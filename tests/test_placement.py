"""Eight devices: everything that takes images for a model follows it, and results equal those of one."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from children import environment, free_address, run_together

from deepsec_jax.cli import InputError, models
from deepsec_jax.placement import place_rows, rows_sharding, whole_parts

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from attacks.small import small
from conftest import Linear, Noisy, make_images, make_linear
from deepsec_jax import placement
from deepsec_jax.attacks import PGD, Transfer, prepare, run_in_batches
from deepsec_jax.data.datasets import Split
from deepsec_jax.evaluation.attack_jobs import judge_all
from deepsec_jax.evaluation.generate import generate
from deepsec_jax.evaluation.measured import measure_cell
from deepsec_jax.evaluation.predictions import predict
from deepsec_jax.placement import on_devices, place_rows, rows_sharding, whole_parts
from deepsec_jax.training.loop import predictions

devices, key = jax.devices(), jax.random.key(0)
assert len(devices) == 8
one = jax.device_put(make_linear(), devices[0])  # bound, as restored weights are
eight = on_devices(make_linear(), devices)
x = np.asarray(make_images(rows=20))
labels = np.asarray(jnp.argmax(one(x), axis=-1), np.int32)
split = rows_sharding(eight)
assert placement.parts_of(split) == 8 and rows_sharding(one) is None and whole_parts(20, split) == 24
assert len({shard.data.shape for shard in place_rows(eight, x[:16]).addressable_shards}) == 1
assert place_rows(eight, x[:16]).addressable_shards[0].data.shape[0] == 2

fitted = prepare(small("uap"), one, x, key=key)  # holds an array on the first device
surrogate = Transfer(PGD(eps=0.1, steps=3), jax.device_put(make_linear(seed=3), devices[0]))
per_image = PGD(eps=np.linspace(0.01, 0.3, 20), steps=3)
for attack in (small("cw2"), fitted, surrogate, per_image):
    goal = (labels + 1) % 3 if getattr(attack, "targeted", False) else labels
    # Two images per device on both sides: with other batches sums may round differently.
    a, b = (generate(attack, m, x, goal, key=key, batch_size=n) for m, n in ((one, 2), (eight, 12)))
    np.testing.assert_array_equal(a.x_adv, b.x_adv, str(attack))
    np.testing.assert_array_equal(a.targets, b.targets)
    assert (a.gradients, a.forwards) == (b.gradients, b.forwards) or np.isnan(a.gradients)

def noisy(base):
    return Noisy(base, jax.random.split(key, 1))

x_adv, none = a.x_adv, np.full(20, -1, np.int32)
for make in (lambda base: base, noisy):
    p, q = make(one), make(eight)
    for c, d in (
        [judge_all(m, x, x_adv, labels, none, batch_size=n) for m, n in ((p, 2), (q, 16))],
        [vars(predict(m, x, labels, batch_size=n)) for m, n in ((p, 2), (q, 16))],
    ):
        for name in c:
            np.testing.assert_allclose(c[name], d[name], rtol=1e-6, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(
        *(run_in_batches(small("pgd"), m, x, labels, key=key, batch_size=n) for m, n in ((p, 2), (q, 16))))
arrays = {"x": x, "x_adv": x_adv, "labels": labels, "targets": none}
names = ("acac", "l2", "nte")
c, d = (measure_cell(m, arrays, names=names, batch_size=16) for m in (one, eight))
for name in names:
    np.testing.assert_allclose(c[name], d[name], rtol=1e-6, atol=1e-6)
images = Split((255 * x).astype(np.uint8), labels)
np.testing.assert_array_equal(*(predictions(m, images, batch_size=16) for m in (one, eight)))

# Weights that are split along another axis of the mesh stay so; rows take the axis that is left.
mesh = Mesh(np.array(devices).reshape(4, 2), ("data", "model"))
wide = make_linear(classes=4)
weights = jax.device_put(wide.weights, NamedSharding(mesh, P(None, "model")))
parted = Linear(weights, jax.device_put(wide.bias, NamedSharding(mesh, P("model"))))
assert placement.rows_axes(rows_sharding(parted)) == ("data",)
goal = np.asarray(jnp.argmax(wide(x), axis=-1), np.int32)
typed = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
explicit = Linear(
    jax.device_put(wide.weights, NamedSharding(typed, P(None, "model"))),
    jax.device_put(wide.bias, NamedSharding(typed, P("model"))))
for attack in (PGD(eps=0.1, steps=3), small("deepfool")):
    a, b, c = (run_in_batches(attack, m, x, goal, key=key, batch_size=8) for m in (wide, parted, explicit))
    np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_array_equal(b, c)  # the same program
    with jax.set_mesh(typed):
        np.testing.assert_array_equal(run_in_batches(attack, explicit, x, goal, key=key, batch_size=8), c)
assert parted.weights.addressable_shards[0].data.shape == (16, 2)
p, q, r = (judge_all(m, x, c, goal, none, batch_size=8) for m in (wide, parted, explicit))
with jax.set_mesh(typed):
    s = judge_all(explicit, x, c, goal, none, batch_size=8)
for name in p:
    for other in (q, r, s):
        np.testing.assert_allclose(other[name], p[name], rtol=1e-6, atol=1e-6, err_msg=name)
try:  # planted: a program that is not ours fails
    on_typed = jax.device_put(x[:8], NamedSharding(typed, P()))
    jax.jit(lambda model, x: jax.lax.top_k(model(x), 2))(explicit, on_typed)
    raise SystemExit("top_k over split classes is allowed")
except Exception as error:  # jax's ShardingTypeError has no public name
    assert "top_k" in str(error)
print("fine")
"""


PROCESS = """
import sys
import jax
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
import jax.numpy as jnp, numpy as np
from attacks.small import small
from conftest import Noisy, make_images, make_linear
from deepsec_jax.attacks import PGD
from deepsec_jax.evaluation.attack_jobs import judge_all
from deepsec_jax.evaluation.generate import generate
from deepsec_jax.placement import on_devices

assert jax.device_count() == 2 and jax.local_device_count() == 1
key, x = jax.random.key(0), np.asarray(make_images(rows=9))
one, both = make_linear(), on_devices(make_linear(), jax.devices())
labels = np.asarray(jnp.argmax(one(x), axis=-1), np.int32)
for attack in (small("cw2"), PGD(eps=np.linspace(0.01, 0.3, 9), steps=2)):
    goal = (labels + 1) % 3 if getattr(attack, "targeted", False) else labels
    a, b = (generate(attack, m, x, goal, key=key, batch_size=n) for m, n in ((one, 2), (both, 4)))
    np.testing.assert_array_equal(a.x_adv, b.x_adv)
    np.testing.assert_array_equal(a.targets, b.targets)
    assert (a.gradients, a.forwards) == (b.gradients, b.forwards)
none = np.full(9, -1, np.int32)
for p, q in ((one, both), (Noisy(one, jax.random.split(key, 1)), Noisy(both, jax.random.split(key, 1)))):
    c, d = (judge_all(m, x, b.x_adv, labels, none, batch_size=n) for m, n in ((p, 2), (q, 4)))
    for name in c:
        np.testing.assert_allclose(c[name], d[name], rtol=1e-6, atol=1e-6, err_msg=name)
print("fine")
"""


def test_two_processes_give_the_results_of_one():
    address = free_address()
    said = run_together([
        ([sys.executable, "-c", PROCESS, address, str(number)], environment(1)) for number in range(2)
    ])  # fmt: skip
    assert [out.strip().splitlines()[-1:] for out in said] == [["fine"]] * 2


def test_eight_devices_give_the_results_of_one():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment(8), check=False
    )
    assert done.stdout.strip() == "fine", done.stderr[-3000:]


def test_on_one_device_nothing_moves(linear, images):
    assert rows_sharding(linear) is None and whole_parts(7, None) == 7
    assert place_rows(linear, images) is images


def test_more_devices_than_the_machine_has_are_refused(linear):
    there = len(jax.local_devices())
    with pytest.raises(
        InputError, match=f"--devices is {there + 1}, but jax sees {there} here: give fewer, or all"
    ):
        models.placed(linear, there + 1)
    assert np.array_equal(models.placed(linear, "all").weights, linear.weights)
