"""A run's folder: all that is needed to go on training, to measure, to render.

    config.json     the resolved configuration
    scene.json      cameras as given, near and far, and the way back to the frame of the user's files
    checkpoints/    the last two states of training (Orbax), with what photographs and cameras are off by
    metrics.jsonl   one line a report; events.* the same for TensorBoard
    results.json    what `jaxnerf eval` measured, with test_preds/ beside it

With it alone, on a machine that never saw the photographs, one can render any pose.
"""
