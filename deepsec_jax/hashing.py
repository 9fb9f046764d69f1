"""Hashes of pytrees and arrays, the same on every machine."""

import hashlib
import re
from typing import Any

import jax
import numpy as np

from deepsec_jax.pytree import Struct
from deepsec_jax.randomness import is_key


def hash_tree(tree: Any) -> Any:
    """Return a SHA-256 over a pytree's structure and leaves, without the ``derived`` fields of a Struct.

    It identifies models and settings.
    """
    if _derives(tree):
        tree = tree.replace(**dict.fromkeys(tree.derived))
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda node: node is not tree and _derives(node))
    # The text of a function has its address, which differs between processes.
    digest = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", str(structure)).encode())
    for leaf in leaves:
        if _derives(leaf):
            digest.update(hash_tree(leaf).digest())
        else:
            hash_array(digest, np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf))
    return digest


def _derives(node: Any) -> bool:
    return isinstance(node, Struct) and bool(node.derived)


def hash_array(digest: Any, array: np.ndarray) -> None:
    """Add an array's dtype, shape and content to a hash."""
    digest.update(f"{array.dtype.name}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
