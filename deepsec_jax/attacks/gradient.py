"""The only place where attacks differentiate a model; it keeps convolutions fast in loops.

XLA:CPU compiles a convolution to its fast kernel only if images are channels-last and the kernel has the
order height, width, in, out.  In the entry computation a layout pass ensures this.  Inside the body of a loop
or branch it does not, and the same call is several times slower.  So the operands of every convolution in the
gradient's jaxpr are transposed explicitly.  The results are equal bit for bit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jax.extend.core.primitives import conv_general_dilated_p

from deepsec_jax.protocols import Images

Objective = Callable[[Images], tuple[jax.Array, Any]]
"""``objective(x) -> (values [B], aux)``: value i depends on row i only."""


def value_and_gradient(objective: Objective, x: Images) -> tuple[jax.Array, Any, Images]:
    """Return values [B], aux, and the gradient of value i in row i, float32 [B, H, W, C]."""

    def total(x: Images) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        values, aux = objective(x)
        return jnp.sum(values), (values, aux)

    (_, (values, aux)), gradient = fast_convolutions(jax.value_and_grad(total, has_aux=True))(x)
    return values, aux, gradient.astype(jnp.float32)


def pullbacks(
    logits_of: Callable[[Images], jax.Array], x: Images, cotangents: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return logits [B, K] and, for every cotangent, the gradient of its product with them.

    Args:
        logits_of: maps images to logits, row by row.
        x: images [B, H, W, C], float32 or finer.
        cotangents: float32 [n, B, K]; one forward serves all n backward passes.

    Returns:
        Logits and gradients, float32 [B, K] and [n, B, H, W, C].
    """

    def one_by_one(x: Images, cotangents: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, pull = _pullback(logits_of, x)
        return logits, lax.map(pull, cotangents)

    def together(x: Images, cotangents: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, pull = _pullback(logits_of, x)
        return logits, jax.vmap(pull)(cotangents)

    # On a CPU smaller batches fit into the cache: 0.7 of the time on the paper's MNIST network.
    result: tuple[jax.Array, jax.Array] = lax.platform_dependent(
        x, cotangents, cpu=fast_convolutions(one_by_one), default=fast_convolutions(together)
    )
    return result


def _pullback(
    logits_of: Callable[[Images], jax.Array], x: Images
) -> tuple[jax.Array, Callable[[jax.Array], Images]]:
    logits, pull = jax.vjp(lambda point: logits_of(point).astype(jnp.float32), x)
    return logits, lambda cotangent: pull(cotangent)[0].astype(jnp.float32)


def forward(model: Callable[[Images], jax.Array], x: Images) -> jax.Array:
    """Return the model's logits, for use in the body of a loop."""
    logits: jax.Array = fast_convolutions(lambda point: model(point))(x)
    return logits


def fast_convolutions(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` with the operands of every convolution transposed to the fast order."""

    def rewritten(*args: Any) -> Any:
        jaxpr, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        leaves = _evaluate(jaxpr.jaxpr, jaxpr.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), leaves)

    return rewritten


def _evaluate(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        primitive = equation.primitive
        if primitive is conv_general_dilated_p:
            outputs = [_convolution(*inputs, **equation.params)]
        else:
            params = {name: _rewrite(value) for name, value in equation.params.items()}
            bound = primitive.get_bind_params(params)
            # Before jax 0.10 sub-functions were positional arguments, separate from the parameters.
            functions, bound = bound if isinstance(bound, tuple) else ((), bound)
            outputs = primitive.bind(*functions, *inputs, **bound)
            outputs = outputs if primitive.multiple_results else [outputs]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


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
    result = conv_general_dilated_p.bind(images, kernel, dimension_numbers=ordered, **params)
    order = (out_spec[0], *out_spec[2:], out_spec[1])
    return _transposed(result, tuple(order.index(axis) for axis in range(rank)))


def _transposed(array: jax.Array, order: tuple[int, ...]) -> jax.Array:
    return array if order == tuple(range(array.ndim)) else jnp.transpose(array, order)


def _rewrite(parameter: Any) -> Any:
    """Rewrite the bodies of loops, branches and calls; other parameters are unchanged."""
    if isinstance(parameter, ClosedJaxpr):
        return jax.make_jaxpr(fast_convolutions(jaxpr_as_fun(parameter)))(*parameter.in_avals)
    if isinstance(parameter, Jaxpr) and not parameter.constvars:  # the body of jax.checkpoint
        closed = _rewrite(ClosedJaxpr(parameter, ()))
        # An open jaxpr cannot hold constants; one that would need them is not rewritten.
        return parameter if closed.consts else closed.jaxpr
    if isinstance(parameter, tuple) and any(isinstance(part, ClosedJaxpr) for part in parameter):
        return tuple(_rewrite(part) for part in parameter)
    return parameter
