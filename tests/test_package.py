"""The package itself: sub-packages by attribute, and nothing imported before it is used."""

import subprocess
import sys

import pytest

import deepsec_jax


def test_sub_packages_are_attributes():
    program = (
        "import sys, deepsec_jax; assert 'jax' not in sys.modules; deepsec_jax.attacks.PGD; deepsec_jax.data"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert {"attacks", "evaluation", "models"} <= set(dir(deepsec_jax))


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match="attacks, data"):
        _ = deepsec_jax.atacks
