"""Operations that XLA compiles poorly when written plainly, and the choice of their implementation.

Every operation has a form in jnp, "xla", that runs everywhere, a hand-written gradient, which can be
differentiated again in reverse mode (`jax.jvp` is refused), and a "pallas" form with the same
gradient rule. What `choose` goes by, medians in milliseconds of float32 on two CPU cores with jax
0.10.2, forward and then the gradient (with the forward pass where it needs one):

    march_weights, 28 samples of 8192 rays                 forward   gradient
      plain: cumulative sums along each ray                   0.91       1.86
      plain: cumulative sums along the samples, axis 0        1.24       2.03
      xla                                                     0.27       0.64
      pallas (interpreted)                                    0.56       1.37

    weighted_rows, 8 corners, gradient of the table (and of table and weights)
      65536 positions, a table of 65536 x 2
        plain: sum of table[rows] * weights over corners      3.05       1.03 (4.24)
        xla                                                   0.62       1.09 (3.55)
        pallas (interpreted)                                164        211
      32768 positions, a table of 262144 x 28
        plain: sum of table[rows] * weights over corners     13.7       21.8  (42.3)
        plain, unrolled over corners                          1.70      40.8  (55.6)
        xla                                                   1.21      11.2  (35.2)

GPU and TPU: not measured yet, so "xla" there too. Pallas lowers `march_weights` for both, and
`weighted_rows` for GPU alone (`jaxnerf.kernels.interpolation` says why); neither has run there.
"""

from jaxnerf.kernels.choice import Implementation, choose
from jaxnerf.kernels.compositing import march_weights
from jaxnerf.kernels.interpolation import trilinear_corners, weighted_rows

__all__ = ["Implementation", "choose", "march_weights", "trilinear_corners", "weighted_rows"]
