"""Interpolation in tables: gather rows, weight them, add them up; and back.

The operation is linear in the table and in the weights, so with its output's gradient g it is one
form of three arguments, sum over c and n of weights[c, n] (g[n] . table[rows[c, n]]). Its derivatives
in g, in the table and in the weights are the three functions below; each is the others' gradient,
so every order of derivative is one of these three (in reverse mode).

What Pallas can do of it, as of jax 0.10.2: Triton (CUDA, ROCm) loads by arrays of indices and adds
atomically, so all three lower. Triton is deprecated since JAX 0.11, and its successor Mosaic GPU
has neither ("int_indexer_shape non-empty", "unimplemented primitive addupdate"). Mosaic for TPU
refuses arrays of indices into a reference and has no scatter; its one gather is `take_along_axis`
of a block already in vector memory (jax-ml/jax issues 37006 and 39366). Only kernels for the
SparseCore, which not every TPU has, fetch rows by index. So for TPU "pallas" is the form "xla".
On a CPU it is interpreted.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import ref
from jaxtyping import Array, Float, Int32, Shaped

from jaxnerf.kernels.choice import checked

# Positions of one Triton program.
_BLOCK = 128


def weighted_rows(
    table: Float[Array, "V F"],
    rows: Int32[Array, "C N"],
    weights: Float[Array, "C N"],
    *,
    implementation: str | None = None,
) -> Float[Array, "N F"]:
    """For each of N positions, the weighted sum of the C rows of a table around it.

    Out[n] is the sum over c of weights[c, n] * table[rows[c, n]]: with `trilinear_corners` the
    trilinear interpolation of Plenoxels (Fridovich-Keil et al. 2022) and of each level of
    Instant-NGP (Müller et al. 2022, section 3). The gradient of the table is one scatter-add for all
    corners; that of the weights costs a second gather, which is dropped where nobody asks for it.

    Args:
      table: a row of F features for each lattice vertex, in the weights' dtype.
      rows: numbers of rows, from 0 to V - 1; what others give is undefined.
      weights: need not sum to 1.
      implementation: "xla" or "pallas", which on a TPU is "xla" too; None takes what
        `jaxnerf.kernels.choose` says.

    Raises:
      ValueError: there is no such implementation.

    >>> table = jnp.array([[0.0, 1.0], [4.0, 2.0]])
    >>> weighted_rows(table, jnp.array([[0], [1]]), jnp.array([[0.75], [0.25]])).tolist()
    [[1.0, 1.25]]
    """
    return _gather(table, rows, weights, checked("weighted_rows", implementation))


def trilinear_corners(
    positions: Float[Array, "N 3"],
) -> tuple[Int32[Array, "8 N 3"], Float[Array, "8 N"]]:
    """The eight lattice vertices around each position, and their trilinear weights.

    Corner c lies at floor(position) plus the binary digits of c, x first: corner 4 is (1, 0, 0). The
    weights sum to one, and at a lattice vertex corner 0 has weight 1 and the others 0. They carry the
    gradient to the positions, which is that of the cell above at a cell's face. The lattice's extent
    is the caller's business: at its last point the corners above, of weight 0, lie outside.

    Args:
      positions: positions in units of the lattice's spacing.

    >>> corners, weights = trilinear_corners(jnp.array([[2.25, 0.0, -1.0]]))
    >>> corners[4, 0].tolist(), weights[:, 0].tolist()
    ([3, 0, -1], [0.75, 0.0, 0.0, 0.0, 0.25, 0.0, 0.0, 0.0])
    """
    lower = jax.lax.stop_gradient(jnp.floor(positions))
    fraction = positions - lower
    digits = (jnp.arange(8, dtype=jnp.int32)[:, None] >> jnp.array([[2, 1, 0]], jnp.int32)) & 1
    corners = lower.astype(jnp.int32)[None] + digits[:, None]
    (x, y, z), (u, v, w) = fraction.T, (1.0 - fraction).T
    weights = jnp.stack([a * b * c for a in (u, x) for b in (v, y) for c in (w, z)])
    return corners, weights


def tetrahedral_corners(
    positions: Float[Array, "N 3"],
) -> tuple[Int32[Array, "4 N 3"], Float[Array, "4 N"]]:
    """The four lattice vertices around each position in Kuhn's triangulation, and their weights.

    A cell is cut into six tetrahedra around its diagonal (Kuhn, "Some Combinatorial Lemmas in Topology",
    IBM Journal, 1960). The corners of the one that holds a position lie on the way from the cell's lowest
    vertex to its highest, along the axes in the order of the position's fractions, the largest first.
    With the fractions f sorted, the weights are 1 - f[0], f[0] - f[1], f[1] - f[2], f[2]. The
    interpolation is continuous and linear in each tetrahedron, at half the cost of a trilinear one. The
    weights carry the gradient to the positions.

    Args:
      positions: positions in units of the lattice's spacing.

    >>> corners, weights = tetrahedral_corners(jnp.array([[2.25, 0.0, -0.5]]))
    >>> corners[:, 0].tolist()
    [[2, 0, -1], [2, 0, 0], [3, 0, 0], [3, 1, 0]]
    >>> weights[:, 0].tolist()
    [0.5, 0.25, 0.25, 0.0]
    """
    lower = jax.lax.stop_gradient(jnp.floor(positions))
    x, y, z = (positions - lower).T
    # How many axes come before each; of equal fractions the first.
    before = [(y > x, z > x), (x >= y, z > y), (x >= z, y >= z)]
    rank = jnp.stack([sum(each.astype(jnp.int32) for each in pair) for pair in before], axis=-1)
    steps = jnp.stack([rank < number for number in range(4)]).astype(jnp.int32)
    largest, least = jnp.maximum(jnp.maximum(x, y), z), jnp.minimum(jnp.minimum(x, y), z)
    middle = x + y + z - largest - least
    weights = jnp.stack([1.0 - largest, largest - middle, middle - least, least])
    return lower.astype(jnp.int32)[None] + steps, weights


def at_corners(
    function: Callable[..., Array], lower: Int32[Array, "*batch 3"]
) -> Shaped[Array, " 8 *batch"]:
    """A function's values at the eight vertices around positions, in the order of `trilinear_corners`.

    As a loop over the corners because XLA:CPU would otherwise fuse the function into gathers of a table,
    and compute it again for each number of a row: 4.9 instead of 1.1 ms for the rows of 32,768 positions.

    Args:
      function: of three arrays of integers, the vertices' coordinates.
      lower: the lowest vertex around each position.
    """

    def at(_, digits):
        return None, function(*(lower[..., axis] + digits[axis] for axis in range(3)))

    digits = jnp.asarray(list(np.ndindex(2, 2, 2)), jnp.int32)
    return jax.lax.scan(at, None, digits)[1]


def take_rows(table: Shaped[Array, "V F"], rows: Int32[Array, " N"]) -> Shaped[Array, "N F"]:
    """Rows of a table by their numbers, from 0 to V - 1; what others give is undefined."""
    return table.at[rows].get(mode="promise_in_bounds", wrap_negative_indices=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _gather(table, rows, weights, implementation):
    """[N, F]: the form's derivative in g."""
    return (_gather_pallas if implementation == "pallas" else _gather_xla)(table, rows, weights)


def _gather_forward(table, rows, weights, implementation):
    return _gather(table, rows, weights, implementation), (table, rows, weights)


def _gather_backward(implementation, inputs, gradient):
    table, rows, weights = inputs
    of_table = _scatter(rows, weights, gradient, table.shape[0], implementation)
    return of_table, None, _products(table, rows, gradient, implementation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _scatter(rows, weights, values, count, implementation):
    """[V, F]: the form's derivative in the table of V = count rows; `values` is g."""
    scatter = _scatter_pallas if implementation == "pallas" else _scatter_xla
    return scatter(rows, weights, values, count)


def _scatter_forward(rows, weights, values, count, implementation):
    return _scatter(rows, weights, values, count, implementation), (rows, weights, values)


def _scatter_backward(count, implementation, inputs, gradient):
    rows, weights, values = inputs
    of_weights = _products(gradient, rows, values, implementation)
    return None, of_weights, _gather(gradient, rows, weights, implementation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _products(table, rows, values, implementation):
    """[C, N]: the form's derivative in the weights; `values` is g."""
    return (_products_pallas if implementation == "pallas" else _products_xla)(table, rows, values)


def _products_forward(table, rows, values, implementation):
    return _products(table, rows, values, implementation), (table, rows, values)


def _products_backward(implementation, inputs, gradient):
    table, rows, values = inputs
    of_table = _scatter(rows, gradient, values, table.shape[0], implementation)
    return of_table, None, _gather(table, rows, gradient, implementation)


_gather.defvjp(_gather_forward, _gather_backward)
_scatter.defvjp(_scatter_forward, _scatter_backward)
_products.defvjp(_products_forward, _products_backward)


def _gather_xla(table, rows, weights):
    # A loop over corners stores no [C, N, F], and its result is stored: XLA:CPU fuses what is written
    # out into the gathers of whoever uses it, and gathers again for each use. Rendering took twice as
    # long.
    def add(total, corner):
        return total + take_rows(table, corner[0]) * corner[1][:, None], None

    zeros = jnp.zeros((rows.shape[1], table.shape[1]), jnp.result_type(table, weights))
    return jax.lax.scan(add, zeros, (rows, weights))[0]


def _scatter_xla(rows, weights, values, count):
    features = values.shape[1]
    updates = (weights[:, :, None] * values[None]).reshape(-1, features)
    return (
        jnp.zeros((count, features), values.dtype)
        .at[rows.reshape(-1)]
        .add(updates, mode="promise_in_bounds", wrap_negative_indices=False)
    )


def _products_xla(table, rows, values):
    return jnp.stack([jnp.sum(take_rows(table, r) * values, axis=1) for r in rows])


def _index(rows, corner, shape, features):
    """What addresses [positions, features] of a table by the rows of one corner."""
    columns = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    # Triton's blocks are powers of two: surplus columns repeat the last one, and add 0 to it.
    return jnp.broadcast_to(rows[corner, :][:, None], shape), jnp.minimum(columns, features - 1)


def _gather_kernel(table, rows, weights, out):
    total = jnp.zeros(out.shape, out.dtype)
    for c in range(rows.shape[0]):
        features = table[_index(rows, c, out.shape, table.shape[1])]
        total = total + features * weights[c, :][:, None]
    out[...] = total


def _scatter_kernel(rows, weights, values, _, out):
    block = values[...]
    for c in range(rows.shape[0]):
        # Lowered to an atomic addition. `triton.atomic_add` would do the same, but loses all but
        # one of equal rows where it is interpreted.
        index = _index(rows, c, block.shape, out.shape[1])
        ref.addupdate(out, index, block * weights[c, :][:, None])


def _products_kernel(table, rows, values, out):
    block = values[...]
    for c in range(rows.shape[0]):
        features = table[_index(rows, c, block.shape, table.shape[1])]
        out[c, :] = jnp.sum(features * block, axis=1)


def _gather_pallas(table, rows, weights):
    shape = (rows.shape[1], table.shape[1])
    inputs = (table, rows, weights)
    return _over_blocks(_gather_kernel, _gather_xla, (None, 1, 1), inputs, shape, 0)


def _scatter_pallas(rows, weights, values, count):
    zeros = jnp.zeros((count, values.shape[1]), values.dtype)
    inputs = (rows, weights, values, zeros)

    def otherwise(rows, weights, values, _):
        return _scatter_xla(rows, weights, values, count)

    axes = (1, 1, 0, None)
    return _over_blocks(_scatter_kernel, otherwise, axes, inputs, zeros.shape, None, {3: 0})


def _products_pallas(table, rows, values):
    inputs = (table, rows, values)
    return _over_blocks(_products_kernel, _products_xla, (None, 1, 0), inputs, rows.shape, 1)


def _over_blocks(kernel, otherwise, axes, inputs, shape, axis, aliases=None):
    """Run a kernel for every block of positions; or `otherwise`, where Pallas cannot lower it.

    `axes` and `axis` say which axis of each input and of the output counts positions (None: the
    program sees the whole array). Positions are filled up to whole blocks and features to a power
    of two, with zeros.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    def filled(shape, axis):
        if axis is None:
            return tuple(shape)
        positions = pl.cdiv(shape[axis], _BLOCK) * _BLOCK
        return (positions, pl.next_power_of_2(shape[1])) if axis == 0 else (shape[0], positions)

    def blocks(shape, axis):
        if axis is None:
            return pl.BlockSpec()
        if axis == 0:
            return pl.BlockSpec((_BLOCK, filled(shape, 0)[1]), lambda i: (i, 0))
        return pl.BlockSpec((shape[0], _BLOCK), lambda i: (0, i))

    def fill(x, axis):
        return jnp.pad(x, [(0, b - a) for a, b in zip(x.shape, filled(x.shape, axis), strict=True)])

    positions = next(x.shape[a] for x, a in zip(inputs, axes, strict=True) if a is not None)

    def call(**how):
        return pl.pallas_call(
            kernel,
            grid=(pl.cdiv(positions, _BLOCK),),
            in_specs=[blocks(x.shape, a) for x, a in zip(inputs, axes, strict=True)],
            out_specs=blocks(shape, axis),
            out_shape=jax.ShapeDtypeStruct(filled(shape, axis), inputs[-1].dtype),
            input_output_aliases=aliases or {},
            **how,
        )

    on_gpu = call(compiler_params=triton.CompilerParams())
    out = jax.lax.platform_dependent(
        *[fill(x, a) for x, a in zip(inputs, axes, strict=True)],
        cpu=call(interpret=True),
        cuda=on_gpu,
        rocm=on_gpu,
        default=lambda *_: fill(otherwise(*inputs), axis),
    )
    return out[: shape[0], : shape[1]]
