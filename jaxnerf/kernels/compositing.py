"""The weights of samples along many rays at once, for arrays [samples, rays].

The functions of fenceposts in `jaxnerf.compositing` are written for one ray and mapped over rays, so
their cumulative sums run along the last axis. Here samples are the first axis, and each step of the sum
is a vector operation over all rays: the same values, some three times faster (the table of
`jaxnerf.kernels`).

Two implementations share one gradient rule: a scan that XLA compiles, and a Pallas kernel in which
each program marches a block of rays. The kernel lowers for CUDA and ROCm by Pallas's Triton backend
(deprecated since JAX 0.11, as `pallas_call` by Mosaic GPU has been since before), for TPU by
Mosaic, and is interpreted on a CPU.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnerf.kernels.choice import checked

# One row of a TPU's registers, and one float for each thread of four warps.
_BLOCK = 128


def march_weights(
    optical_depth: Float[Array, "K R"], *, implementation: str | None = None
) -> Float[Array, "K R"]:
    """How much each of K samples, front to back, contributes to the pixels of R rays.

    The weight is T_k (1 - exp(-tau_k)) with T_k = exp(-sum of tau_j for j < k) (NeRF, eq. 3,
    after Max 1995), computed as T_k - T_{k+1}, so a ray's weights sum to 1 - exp(-total) and never
    to more than 1. Their error is a rounding of T_k: in float32 a sample of optical depth below 3e-8
    counts as empty, but its gradient does not suffer. The gradient is dL/dtau_k = T_{k+1} g_k - sum of
    w_j g_j for j > k; it is defined everywhere, also at 0 and infinity, and differentiable itself,
    in reverse mode.

    Args:
      optical_depth: density times length of each sample, no unit, 0 to infinity.
      implementation: "xla" or "pallas"; None takes what `jaxnerf.kernels.choose` says.

    Raises:
      ValueError: there is no such implementation.

    >>> march_weights(jnp.array([[0.0, 0.5], [1.0, jnp.inf]])).round(4).tolist()
    [[0.0, 0.3935], [0.6321, 0.6065]]
    """
    weights, _ = _march(optical_depth, checked("march_weights", implementation))
    return weights


def march_distortion(
    weights: Float[Array, "K R"],
    middle: Float[Array, "K R"],
    width: Float[Array, "K R"],
) -> Float[Array, " R"]:
    """How far the weight of each of R rays is spread out along it (mip-NeRF 360, eq. 15).

    The sum over all pairs of samples of w_i w_j |s_i - s_j|, plus a third of each w_i^2 times the length
    of its interval: the mean distance of two points drawn by the weights. In one pass, since samples
    come in order: cumulative sums, which XLA:CPU makes of windows, take five times as long.

    Args:
      weights: weights of the samples, front to back.
      middle: s in the middle of each sample's interval, ascending where there is weight.
      width: widths of the intervals in s.

    >>> w, s = jnp.array([[0.5], [0.5]]), jnp.array([[1.0], [3.0]])
    >>> march_distortion(w, s, jnp.full((2, 1), 0.6)).round(4).tolist()
    [1.1]
    """

    def step(carry, sample):
        before, moment, total = carry
        weight, s, length = sample
        pairs = 2.0 * weight * (s * before - moment)
        total = total + pairs + (length / 3.0) * weight * weight
        return (before + weight, moment + weight * s, total), None

    zeros = jnp.zeros(weights.shape[1:], weights.dtype)
    (_, _, total), _ = jax.lax.scan(step, (zeros, zeros, zeros), (weights, middle, width))
    return total


def march_until(
    begin: Float[Array, " K *rays"],
    length: Float[Array, " K *rays"],
    amount: Float[Array, " K *rays"],
    wanted: Float[Array, "*rays"],
) -> Float[Array, "*rays"]:
    """Where the sum of amounts, spread evenly over K intervals of rays, reaches what is wanted.

    Infinity where less is there, or nothing is wanted. In one pass: cumulative sums, which XLA:CPU makes
    of windows, take up to four times as long.
    """

    def step(carry, interval):
        (before, place), (begin, length, amount) = carry, interval
        after = before + amount
        part = jnp.clip((wanted - before) / jnp.where(amount > 0.0, amount, 1.0), 0.0, 1.0)
        is_here = (before < wanted) & (wanted <= after)
        return (after, jnp.where(is_here, begin + part * length, place)), None

    start = jnp.zeros_like(wanted), jnp.full_like(wanted, jnp.inf)
    (_, place), _ = jax.lax.scan(step, start, (begin, length, amount))
    return place


def _march_either(optical_depth, implementation) -> tuple[Array, Array]:
    """The weights [K, R], and the light left behind them, T_K [1, R]."""
    return (_march_pallas if implementation == "pallas" else _march_xla)(optical_depth)


_march = jax.custom_vjp(_march_either, nondiff_argnums=(1,))


def _march_forward(optical_depth, implementation):
    # Weights and what is left give back every T_k, so nothing else is kept for the way back.
    outputs = _march(optical_depth, implementation)
    return outputs, outputs


def _march_backward(implementation, residuals, gradients):
    return (_slope(*residuals, *gradients, implementation),)


_march.defvjp(_march_forward, _march_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _slope(weights, left, of_weights, of_left, implementation):
    """dL/dtau, from the gradients of the outputs of `_march`."""
    slope = _slope_pallas if implementation == "pallas" else _slope_xla
    return slope(weights, left, of_weights, of_left)


def _slope_forward(weights, left, of_weights, of_left, implementation):
    inputs = weights, left, of_weights, of_left
    return _slope(*inputs, implementation), inputs


def _slope_backward(implementation, inputs, gradient):
    # The second derivative is rare; XLA's does for both.
    return jax.vjp(_slope_xla, *inputs)[1](gradient)


_slope.defvjp(_slope_forward, _slope_backward)


def _march_xla(optical_depth):
    def step(reaching, depth):
        after = reaching * jnp.exp(-depth)
        return after, reaching - after

    left, weights = jax.lax.scan(
        step, jnp.ones(optical_depth.shape[1:], optical_depth.dtype), optical_depth
    )
    return weights, left[None]


def _slope_xla(weights, left, of_weights, of_left):
    def step(carry, sample):
        after, behind = carry
        weight, gradient = sample
        return (after + weight, behind + weight * gradient), after * gradient - behind

    _, slope = jax.lax.scan(
        step, (left[0], (left * of_left)[0]), (weights, of_weights), reverse=True
    )
    return slope


def _march_kernel(optical_depth, weights, left):
    from jax.experimental import pallas as pl

    def step(k, reaching):
        row = pl.ds(k, 1)
        after = reaching * jnp.exp(-optical_depth[row, :])
        weights[row, :] = reaching - after
        return after

    full = jnp.ones(left.shape, left.dtype)
    left[...] = jax.lax.fori_loop(0, optical_depth.shape[0], step, full)


def _slope_kernel(weights, left, of_weights, of_left, slope):
    from jax.experimental import pallas as pl

    count = weights.shape[0]

    def step(i, carry):
        after, behind = carry
        row = pl.ds(count - 1 - i, 1)
        weight, gradient = weights[row, :], of_weights[row, :]
        slope[row, :] = after * gradient - behind
        return after + weight, behind + weight * gradient

    jax.lax.fori_loop(0, count, step, (left[...], left[...] * of_left[...]))


def _march_pallas(optical_depth):
    heights = (optical_depth.shape[0], 1)
    weights, left = _over_blocks(_march_kernel, (optical_depth,), heights)
    return weights, left


def _slope_pallas(weights, left, of_weights, of_left):
    (slope,) = _over_blocks(
        _slope_kernel, (weights, left, of_weights, of_left), (weights.shape[0],)
    )
    return slope


def _over_blocks(kernel, inputs, heights):
    """Run a kernel for every block of rays; `heights` are the outputs' numbers of rows."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    rays, dtype = inputs[0].shape[1], inputs[0].dtype
    # Triton does not mask a last block that is not full.
    padded = [jnp.pad(x, ((0, 0), (0, -rays % _BLOCK))) for x in inputs]
    width = padded[0].shape[1]

    def blocks(height):
        return pl.BlockSpec((height, _BLOCK), lambda i: (0, i))

    def call(**how):
        return pl.pallas_call(
            kernel,
            grid=(width // _BLOCK,),
            in_specs=[blocks(x.shape[0]) for x in inputs],
            out_specs=[blocks(height) for height in heights],
            out_shape=[jax.ShapeDtypeStruct((height, width), dtype) for height in heights],
            **how,
        )

    on_gpu = call(compiler_params=triton.CompilerParams())
    outputs = jax.lax.platform_dependent(
        *padded, cpu=call(interpret=True), cuda=on_gpu, rocm=on_gpu, tpu=call()
    )
    return [x[:, :rays] for x in outputs]
