"""A run's folder: everything that is needed to resume training, to measure and to render.

    config.json     the resolved configuration
    scene.json      cameras as given, near and far, and the similarity to the frame of the user's files
    checkpoints/    the last two states of training (Orbax), with learned corrections of photographs and
                    camera poses
    metrics.jsonl   one line for each report; events.* the same for TensorBoard
    results.json    the measurements of `jaxnerf eval`, with test_preds/ beside it

The folder is enough to render any pose on a machine that does not have the photographs.
"""
