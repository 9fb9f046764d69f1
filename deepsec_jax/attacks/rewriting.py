"""Faster operations in the jaxpr of a gradient, for a CPU.

The results are equal bit for bit, but gradients with respect to images may be rounded differently.

**Convolutions.**  XLA:CPU compiles a convolution to its fast kernel only if images are channels-last and the
kernel has the order height, width, in, out.  In the entry computation a layout pass ensures this.  Inside the
body of a loop or branch it does not, and the same call is several times slower.  So the operands are
transposed explicitly.  With few channels they are sums and products, see ``thin_convolutions.py``.

**Max-pooling** is written as slices and comparisons, see ``max_pooling.py``.

The bodies of loops, branches and calls are rewritten, too.  The body of ``jax.shard_map`` is not: it names
the axes of a mesh, and could not be traced outside.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.extend.core.primitives import conv_general_dilated_p

from deepsec_jax.attacks.max_pooling import max_pool, max_pool_gradient, windows_of
from deepsec_jax.attacks.thin_convolutions import (
    from_few_channels,
    sum_of_places,
    sum_of_products,
    to_few_channels,
)  # fmt: skip
from deepsec_jax.platforms import on_cpu

UNCHANGED = ("shard_map", "xla_pmap")
"""Primitives whose body is not rewritten."""

_POOLING: dict[str, Callable[..., jax.Array]] = {
    "reduce_window_max": max_pool,
    "select_and_scatter_add": max_pool_gradient,
}
_REWRITTEN = ("conv_general_dilated", *_POOLING)


def fast_on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` with faster operations if it is traced for a CPU, else unchanged."""
    return rewritten(function) if on_cpu() else function


def rewritten(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` with faster operations; it is traced once in every call."""

    def call(*args: Any) -> Any:
        jaxpr, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        leaves = _Rewriter().evaluate(jaxpr.jaxpr, jaxpr.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), leaves)

    return call


class _Rewriter:
    """One rewriting; a body that occurs several times is rewritten once."""

    def __init__(self) -> None:
        self._bodies: dict[tuple[int, ...], tuple[ClosedJaxpr, ClosedJaxpr]] = {}

    def evaluate(self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Return the outputs of a jaxpr, computed with faster operations."""
        values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else values[atom]

        for equation in jaxpr.eqns:
            outputs = self._equation(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: JaxprEqn, inputs: list[Any]) -> Sequence[Any]:
        primitive, params = equation.primitive, equation.params
        if primitive is conv_general_dilated_p:
            return [_convolution(*inputs, **params)]
        if primitive.name in _POOLING:
            windows = windows_of(params, inputs[-1].dtype)
            if windows is not None:
                return [_POOLING[primitive.name](*inputs, windows)]
        if primitive.name not in UNCHANGED:
            params = {name: self._parameter(value) for name, value in params.items()}
        bound = primitive.get_bind_params(params)
        # Before jax 0.10 sub-functions were positional arguments, separate from the parameters.
        functions, bound = bound if isinstance(bound, tuple) else ((), bound)
        outputs = primitive.bind(*functions, *inputs, **bound)
        return outputs if primitive.multiple_results else [outputs]

    def _parameter(self, parameter: Any) -> Any:
        """Rewrite the bodies of loops, branches and calls; other parameters are unchanged."""
        if type(parameter) is tuple:  # not a NamedTuple, such as an implementation of keys
            return tuple(map(self._parameter, parameter))
        if isinstance(parameter, ClosedJaxpr):
            return self._body(parameter) if _is_concerned(parameter.jaxpr) else parameter
        if isinstance(parameter, Jaxpr) and not parameter.constvars and _is_concerned(parameter):
            closed = self._body(ClosedJaxpr(parameter, ()))  # the body of jax.checkpoint
            # An open jaxpr cannot hold constants; one that would need them is not rewritten.
            return parameter if closed.consts else closed.jaxpr
        return parameter

    def _body(self, closed: ClosedJaxpr) -> ClosedJaxpr:
        which = (id(closed.jaxpr), *map(id, closed.consts))
        if which not in self._bodies:
            faster = jax.make_jaxpr(lambda *args: self.evaluate(closed.jaxpr, closed.consts, args))
            # With the original, which keeps its id.
            self._bodies[which] = closed, faster(*closed.in_avals)
        return self._bodies[which][1]


def _is_concerned(jaxpr: Jaxpr) -> bool:
    """Tell whether anything in a jaxpr would be rewritten."""
    return any(
        equation.primitive.name in _REWRITTEN
        or (
            equation.primitive.name not in UNCHANGED
            and any(map(_is_concerned, _inner(tuple(equation.params.values()))))
        )
        for equation in jaxpr.eqns
    )


def _inner(parameter: Any) -> list[Jaxpr]:
    """Return the jaxprs in a parameter of an equation."""
    if type(parameter) is tuple:
        return [jaxpr for part in parameter for jaxpr in _inner(part)]
    if isinstance(parameter, ClosedJaxpr):
        return [parameter.jaxpr]
    return [parameter] if isinstance(parameter, Jaxpr) else []


def _convolution(images: jax.Array, kernel: jax.Array, *, dimension_numbers: Any, **params: Any) -> jax.Array:
    """Bind the convolution with images and result channels-last and the kernel height, width, in, out."""
    images_spec, kernel_spec, out_spec = (
        dimension_numbers.lhs_spec, dimension_numbers.rhs_spec, dimension_numbers.out_spec
    )  # fmt: skip
    rank = kernel.ndim
    channels_last = (0, rank - 1, *range(1, rank - 1))  # positions of batch, channel and spatial axes
    ordered = lax.ConvDimensionNumbers(channels_last, (rank - 1, rank - 2, *range(rank - 2)), channels_last)
    images = _transposed(images, (images_spec[0], *images_spec[2:], images_spec[1]))
    kernel = _transposed(kernel, (*kernel_spec[2:], kernel_spec[1], kernel_spec[0]))
    if from_few_channels(images, kernel, params):
        result = sum_of_places(images, kernel, params)
    elif to_few_channels(images, kernel, params):
        result = sum_of_products(images, kernel, params)
    else:
        result = conv_general_dilated_p.bind(images, kernel, dimension_numbers=ordered, **params)
    order = (out_spec[0], *out_spec[2:], out_spec[1])
    return _transposed(result, tuple(order.index(axis) for axis in range(rank)))


def _transposed(array: jax.Array, order: tuple[int, ...]) -> jax.Array:
    return array if order == tuple(range(array.ndim)) else jnp.transpose(array, order)
