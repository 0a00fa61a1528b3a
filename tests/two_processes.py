"""One of several processes that train together; test_training starts it and reads what it saves.

python two_processes.py PORT PROCESSES ID OUT
"""

import sys

import jax

port, processes, number, out = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 2 // int(processes))
if int(processes) > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", int(processes), int(number))

import numpy as np  # noqa: E402
from test_training import tiny_run  # noqa: E402

state, losses = tiny_run(steps=4)
flat = np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(state.params)])
np.savez(f"{out}_{number}.npz", flat=flat, losses=losses, devices=jax.device_count())
