"""Convolutions on a CPU: the flag is set where XLA knows it and nobody else has said anything."""

import os
import subprocess
import sys

import jaxlib
import pytest

from deepsec_jax import convolutions
from deepsec_jax.convolutions import FLAG, convolve_for_gradients

KNOWN = jaxlib.__version__.startswith("0.10.")


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


@pytest.mark.skipif(not KNOWN, reason="another jaxlib than the flag is of")
def test_xla_knows_the_flag_and_convolves_as_without_it():
    child = "import jax, jax.numpy as jnp; print(jax.scipy.signal.convolve2d(jnp.eye(3), jnp.ones((2, 2))))"
    said = {}
    for flags in ("", FLAG):
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        run = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, env=environment)
        assert run.returncode == 0, run.stderr
        said[flags] = run.stdout
    assert said[""] == said[FLAG] and "2." in said[FLAG]
