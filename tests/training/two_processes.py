"""One of several processes that train together; test_processes starts it and reads what it saves.

python two_processes.py PORT PROCESSES ID OUT
"""

import dataclasses
import functools
import sys
from pathlib import Path

import jax
import numpy as np


def main(port: str, processes: int, number: int, out: str) -> None:
    """Join the others, train, save the parameters."""
    jax.config.update("jax_num_cpu_devices", 2 // processes)
    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, number)
    # Their imports must find the devices set up.
    sys.path.append(str(Path(__file__).parents[1]))
    from test_sharding import doubled_three_times, tree
    from test_training import tiny_run

    from jaxnerf.training.sharding import whole

    state, losses = tiny_run(steps=4)
    flat = np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(state.params)])
    table = whole(doubled_three_times()[1], tree())["table"]
    here = {"flat": flat, "losses": losses, "table": table, "devices": jax.device_count()}
    if number:
        decide_otherwise()
    here |= grown()
    np.savez(f"{out}_{number}.npz", **here)


def grown() -> dict[str, np.ndarray]:
    """The last state of a run of two stages, by the names of its parts."""
    import training_factory
    from ball import photographs
    from test_stages import CONFIG, GROWING

    from jaxnerf.training import sharding
    from jaxnerf.training.loop import train
    from jaxnerf.training.sharding import broadcast_from_process_0
    from jaxnerf.training.state import TrainState

    rows = []

    def recorded(tree):
        if isinstance(tree, TrainState) and tree.params is not None:
            rows.append(len(tree.params.table))
        return broadcast_from_process_0(tree)

    training_factory.broadcast_from_process_0 = sharding.broadcast_from_process_0 = recorded
    split, config = photographs(), dataclasses.replace(CONFIG, steps=30)
    # Of what is compiled only that which decides: batches stay full, and no cell is looked for.
    growing = dataclasses.replace(GROWING, mean_samples=24.0, unseen_below=0.0)
    trainer = training_factory.trainer_of_voxels(split, growing, config)
    state = training_factory.first_state_of_voxels(split, growing, config)
    *_, last = train(state, trainer, report_every=30)
    leaves, _ = jax.tree_util.tree_flatten_with_path(trainer.to_host(last.state))
    named = {f"grown{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in leaves}
    return named | {"rows_decided": np.asarray(rows)}


def decide_otherwise() -> None:
    """Have this process find other cells, other densities, fewer samples and larger pixels."""
    from jaxnerf.training.coarse_to_fine import stages, strategy

    def instead(module, name, change):
        function = getattr(module, name)
        changed = functools.wraps(function)(lambda *args, **named: change(function(*args, **named)))
        setattr(module, name, changed)

    instead(stages, "possible_cells", lambda found: (*found[:2], np.roll(found[2], 1) | found[2]))
    instead(stages, "cell_densities", lambda found: (found[0], 100.0 * found[1], found[2] + 1))
    instead(stages, "count_samples", lambda counts: 4 * counts)
    instead(strategy, "block_size", lambda block: block // 2)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
