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
    # Their imports must find the devices set up.
    from test_shares import doubled_three_times, tree
    from test_training import tiny_run

    from jaxnerf.shares import whole

    state, losses = tiny_run(steps=4)
    flat = np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(state.params)])
    table = whole(doubled_three_times()[1], tree())["table"]
    here = {"flat": flat, "losses": losses, "table": table, "devices": jax.device_count()}
    np.savez(f"{out}_{number}.npz", **here)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
