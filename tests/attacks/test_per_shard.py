"""Every attack on eight devices: jax's own check, no talk in loops, the images of one device."""

import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from children import environment
from conftest import make_images, make_linear
from jax.sharding import AxisType

from attacks.small import small
from deepsec_jax.attacks import (
    ATTACKS,
    PGD,
    AutoAttack,
    ManyRestarts,
    MultiTarget,
    Restarts,
    SmallestEps,
    batching,
    compaction,
    gradient,
    prepare,
    rewriting,
    run_in_batches,
)
from deepsec_jax.attacks.batching import _per_shard
from deepsec_jax.attacks.call import attack_call, call_and_count, label_targets
from deepsec_jax.placement import on_devices, put, rows_sharding
from deepsec_jax.pytree import Struct
from deepsec_jax.randomness import example_keys

COMBINED = {
    "restarts": Restarts(PGD(eps=0.1, steps=2), n=2),
    "many restarts": ManyRestarts(PGD(eps=0.1, steps=2), n=3),
    "multi-target": MultiTarget(PGD(eps=0.1, steps=2, targeted=True), k=2),
    "smallest eps": SmallestEps(PGD(eps=0.1, steps=2), search_steps=2),
    "autoattack": AutoAttack(eps=0.1, steps=4, queries=20),
}
ALL = (*ATTACKS, *COMBINED)
CHEAP = ("bim", "deepfool")
"""Compiled in every run of the tests: an ascent, and a search that sorts its rows."""

COLLECTIVE = re.compile(
    r"\b(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast)(-start)?\("
)
LOWERED = re.compile(r"(stablehlo|sdy)\.(all_reduce|all_gather|all_to_all|reduce_scatter|collective_\w+)")
CALLED = re.compile(
    r"(body|condition|calls|to_apply|branch_computations|true_computation|false_computation)="
    r"\{?([^}\s]+(?:, %[^}\s]+)*)"
)


def collectives_in_loops(hlo: str) -> list[str]:
    """Return the lines of compiled HLO with a collective operation in the body or condition of a loop."""
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in hlo.splitlines():
        if (head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)) and not line.startswith(" "):
            lines = computations.setdefault(head[1], [])
        lines.append(line)

    def called(lines: list[str], loops_only: bool) -> set[str]:
        return {
            name.strip(" %")
            for line in lines
            if not loops_only or " while(" in line
            for _, names in CALLED.findall(line)
            for name in names.split(",")
            if name.strip()
        }

    waiting = {name for lines in computations.values() for name in called(lines, loops_only=True)}
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting |= called(computations[name], loops_only=False)
    return [line.strip() for name in seen for line in computations[name] if COLLECTIVE.search(line)]


def attack_of(name: str, model: Any, x: Any) -> Any:
    attack = COMBINED.get(name) or small(name)
    return prepare(attack, model, x, key=jax.random.key(0))


def check(names: list[str]) -> None:
    """Run attacks on eight devices and on one; called in a process that has eight."""
    devices, key = jax.devices(), jax.random.key(0)
    assert len(devices) == 8
    one, eight = jax.device_put(make_linear(), devices[0]), on_devices(make_linear(), devices)
    x = np.asarray(make_images(rows=16))
    labels = np.asarray(jnp.argmax(one(x), axis=-1), np.int32)
    sharding = rows_sharding(eight)
    for name in names:
        attack = attack_of(name, one, x)
        goal = (labels + 1) % 3 if getattr(attack, "targeted", False) else labels
        given = put((x, goal, example_keys(key, 16)), sharding)
        plain = jax.jit(_per_shard.__wrapped__, static_argnames="sharding")
        compiled = plain.lower(on_devices(attack, devices), eight, *given, sharding=sharding).compile()
        hlo = compiled.as_text()
        assert collectives_in_loops(hlo) == [] and not COLLECTIVE.search(hlo), name
        if name == "deepfool":  # planted: without shard_map rows are sorted across devices, in a loop
            free = jax.jit(lambda *given: call_and_count(*given[:4], key=given[4]))
            planted = free.lower(attack, eight, *given).compile().as_text()
            assert collectives_in_loops(planted), planted
        theirs = compiled(on_devices(attack, devices), eight, *given)[0]
        # Two images per device on both sides: with other batches sums may round differently.
        mine = run_in_batches(attack, one, x, goal, key=key, batch_size=2)
        np.testing.assert_array_equal(mine, theirs, name)
        assert name == "uap" or np.abs(mine - x).max() > 1e-3, name  # planted: not the clean images
        print(name)


def run_checks(names: tuple[str, ...]) -> None:
    program = "import sys; from attacks.test_per_shard import check; check(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", program, *names],
        capture_output=True,
        text=True,
        env=environment(8),
        check=False,
    )
    assert done.stdout.split("\n")[:-1] == list(names), done.stderr[-3000:]


def test_attacks_on_eight_devices_equal_one_and_do_not_talk_in_loops():
    run_checks(CHEAP)


@pytest.mark.long
@pytest.mark.parametrize("part", range(4))
def test_every_attack_on_eight_devices_equals_one_and_does_not_talk_in_loops(part):
    run_checks(ALL[part::4])


def in_shards(attack: Any, model: Any, x: Any, labels: Any, keys: Any) -> jax.stages.Traced:
    """Return the attack traced in a caller's ``jax.shard_map``, which checks what varies over devices."""
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(AxisType.Auto,))
    split, whole = jax.P("rows"), jax.P()
    mapped = jax.shard_map(
        lambda *given: call_and_count(*given[:4], key=given[4]),
        mesh=mesh, in_specs=(whole, whole, split, split, split), out_specs=split,
    )  # fmt: skip
    return jax.jit(mapped).trace(attack, model, x, labels, keys)


def given(name: str) -> Any:
    model, x = make_linear(), make_images(rows=16)
    return attack_of(name, model, x), model, x, jnp.zeros(16, jnp.int32), example_keys(jax.random.key(0), 16)


FEW = ("bim", "cw2", "apgd", "jsma", "autoattack")
EACH = [pytest.param(name, marks=[] if name in FEW else pytest.mark.long) for name in ALL]


@pytest.mark.parametrize("name", EACH)
def test_it_passes_the_check_of_a_callers_shard_map(name):
    in_shards(*given(name))


@pytest.mark.parametrize("name", EACH)
def test_on_accelerators_it_passes_the_check_and_does_not_talk(monkeypatch, name):
    for module in (compaction, gradient, rewriting):
        monkeypatch.setattr(module, "on_cpu", lambda: False)
    program = in_shards(*given(name)).lower(lowering_platforms=("cuda",)).as_text()
    assert not LOWERED.search(program)


class Counting(Struct):
    """Planted: a loop that begins with zeros, which are equal on every device."""

    targeted: bool = False
    targets = label_targets

    @attack_call
    def __call__(self, model, x, labels, keys):
        nothing = jnp.zeros(x.shape)
        added = jax.lax.fori_loop(0, 2, lambda _, total: total + 0.01 * x, nothing)
        return jnp.clip(x + added, min=0.0, max=1.0)


class Talking(Struct):
    """Planted: an attack whose rows depend on those of other devices."""

    targeted: bool = False
    targets = label_targets

    @attack_call
    def __call__(self, model, x, labels, keys):
        return jnp.clip(x + 0.01 * jax.lax.pmean(jnp.mean(x), "rows"), min=0.0, max=1.0)


def test_planted_carries_fail_the_check_and_run_without_it():
    arguments = given("bim")[1:]
    with pytest.raises(TypeError, match=batching.VARYING):
        in_shards(Counting(), *arguments)
    x = np.asarray(arguments[1])
    sharding = jax.NamedSharding(jax.make_mesh((1,), ("rows",), axis_types=(AxisType.Auto,)), jax.P("rows"))
    found = run_in_batches(
        Counting(), make_linear(), x, np.zeros(16, np.int32), batch_size=16, sharding=sharding
    )
    np.testing.assert_allclose(found, np.clip(1.02 * x, 0, 1), atol=1e-6)


def test_planted_talk_is_found():
    program = in_shards(Talking(), *given("bim")[1:]).lower(lowering_platforms=("cuda",)).as_text()
    assert LOWERED.search(program)
