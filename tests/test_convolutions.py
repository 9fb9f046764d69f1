"""Convolutions on a CPU: the flag is set where XLA knows it and nobody else has said anything."""

import os
import subprocess
import sys

import pytest

from deepsec_jax import convolutions
from deepsec_jax.convolutions import FLAG, convolve_for_gradients


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """No flags, and the version that knows the flag on a machine without other devices."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(convolutions, "version", lambda package: versions(package, "0.10.2"))
    monkeypatch.setattr(convolutions, "entry_points", lambda group: ())


def versions(package, jaxlib, libtpu=None):
    if package == "libtpu" and libtpu is None:
        raise convolutions.PackageNotFoundError(package)
    return {"jaxlib": jaxlib, "libtpu": libtpu}[package]


def test_it_is_set_on_a_cpu_where_it_is_known():
    assert convolve_for_gradients() and os.environ["XLA_FLAGS"] == FLAG
    assert not convolve_for_gradients()  # it is there


@pytest.mark.parametrize("flags", ["", "--xla_cpu_enable_fast_math=false"])
def test_the_users_flags_stay(monkeypatch, flags):
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert not convolve_for_gradients() and os.environ["XLA_FLAGS"] == flags


@pytest.mark.parametrize(("jaxlib", "libtpu"), [("0.11.0", None), ("0.9.2", None), ("0.10.2", "0.0.30")])
def test_other_versions_and_other_devices_are_left_alone(monkeypatch, jaxlib, libtpu):
    monkeypatch.setattr(convolutions, "version", lambda package: versions(package, jaxlib, libtpu))
    assert not convolve_for_gradients() and "XLA_FLAGS" not in os.environ


def test_plugins_are_left_alone(monkeypatch):
    monkeypatch.setattr(
        convolutions, "entry_points", lambda group: ("cuda",) if group == "jax_plugins" else ()
    )
    assert not convolve_for_gradients() and "XLA_FLAGS" not in os.environ


def test_what_is_set_is_known_to_this_xla_and_changes_no_result():
    """Importing the attacks sets it.  An unknown flag ends the process, so this holds for any jaxlib."""
    child = (
        "import os; import deepsec_jax.attacks; from deepsec_jax import convolutions as c\n"
        "print(c._known() and not c._other_devices(), os.environ.get('XLA_FLAGS'))\n"
        "import jax, jax.numpy as jnp; print(jax.scipy.signal.convolve2d(jnp.eye(3), jnp.ones((2, 2))))"
    )
    bare = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    said = []
    for flags in ({}, {"XLA_FLAGS": ""}):
        environment = {**bare, **flags, "JAX_PLATFORMS": "cpu"}
        run = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, env=environment)
        assert run.returncode == 0, run.stderr
        said.append(run.stdout)
    flags, results = zip(*(text.split("\n", 1) for text in said), strict=True)
    assert flags[0] in (f"True {FLAG}", "False None") and flags[1].split() in (["True"], ["False"])
    assert results[0] == results[1] and "2." in results[0]
