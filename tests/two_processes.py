"""One of several processes that train together; test_training starts it and reads what it saves.

python two_processes.py PORT PROCESSES ID OUT
"""

import sys

import jax
import numpy as np


def main(port: str, processes: int, number: int, out: str) -> None:
    """Join the others, train, save the parameters."""
    jax.config.update("jax_num_cpu_devices", 2 // processes)
    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, number)
    from test_training import tiny_run  # its imports must find the devices set up

    state, losses = tiny_run(steps=4)
    flat = np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(state.params)])
    np.savez(f"{out}_{number}.npz", flat=flat, losses=losses, devices=jax.device_count())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
