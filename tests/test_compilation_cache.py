"""Programs on disk: equal bits with and without, torn entries removed, other settings of the user stay."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from deepsec_jax import compilation_cache
from deepsec_jax.compilation_cache import SWITCH, keep_programs, remove_torn

RESULT = """
import hashlib, jax, jax.numpy as jnp, numpy as np
x = jnp.linspace(0.0, 1.0, 64 * 64).reshape(64, 64)
result = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda i, y: jnp.tanh(y @ x) + jnp.sin(y), x))(x)
digest = hashlib.sha256(np.asarray(result).tobytes()).hexdigest()
"""
CHILD = f"""
from deepsec_jax.compilation_cache import keep_programs
print(keep_programs() is not None)
{RESULT}
print(digest)
"""


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """No folder of jax's own, and a home of the test's."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compilation_cache, "_is_jax_imported", lambda: False)
    for name in ("JAX_COMPILATION_CACHE_MAX_SIZE", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "0")  # restored after the test
        monkeypatch.delenv(name)


def child(folder):
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", SWITCH: str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip
    return subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True, env=environment)


def entries(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*-cache")}


def test_several_processes_share_programs_and_results_are_equal_bit_for_bit(tmp_path):
    said = [each.communicate()[0].split() for each in (child(tmp_path), child(tmp_path))]
    made = entries(tmp_path)
    said.append(child(tmp_path).communicate()[0].split())
    assert made and entries(tmp_path) == made  # the third process has compiled nothing
    without: dict[str, str] = {}
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        exec(RESULT, without)
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert said == [["True", without["digest"]]] * 3


def test_what_a_killed_process_left_is_removed(tmp_path):
    for name in ("whole-cache", "whole-atime", "torn-cache"):
        (tmp_path / name).write_bytes(b"12345678")
    assert remove_torn(tmp_path) == 1
    assert {path.name for path in tmp_path.glob("*-*")} == {"whole-cache", "whole-atime"}


def test_the_folder_is_in_the_users_caches_and_limited(tmp_path):
    folder = keep_programs()
    assert folder is not None and folder.is_dir() and folder.parent == tmp_path / "deepsec_jax"
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(folder)
    assert int(os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"]) == compilation_cache.LARGEST
    assert keep_programs() is None  # it is set


@pytest.mark.parametrize(("name", "value"), [(SWITCH, "off"), ("JAX_COMPILATION_CACHE_DIR", "/theirs")])
def test_it_can_be_switched_off_and_the_users_folder_stays(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert keep_programs() is None and os.environ.get("JAX_COMPILATION_CACHE_DIR") in (None, "/theirs")


def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(SWITCH, str(tmp_path / "file"))
    assert keep_programs() is None


def test_in_a_process_with_jax_its_folder_stays(monkeypatch):
    monkeypatch.setattr(compilation_cache, "_is_jax_imported", lambda: True)
    before = jax.config.jax_compilation_cache_dir
    assert before and keep_programs() is None and jax.config.jax_compilation_cache_dir == before
    assert Path(before).name.startswith("jax")
