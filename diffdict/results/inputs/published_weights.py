"""Files of weights that others have learned and published, by the task that takes them."""

from pathlib import Path

from diffdict.errors import UserError

PUBLISHED = {"pixel_mlp": "classifiers", "deeplab": "checkpoint"}  # the key of `model` that takes
FIRST_KEYS = {"pixel_mlp": "layers.0.weight", "deeplab": "classifier.0.convs.0.0.weight"}


def published_task(path: Path) -> str | None:
    """The task that a file of somebody else's weights belongs to."""
    from diffdict.checkpoints.read import find_layout, read, unwrapped, weights_at

    content = read(path)[0]
    if "config" in content:  # a run of ours
        return None
    try:
        keys = unwrapped(weights_at(content, find_layout(content, path), path))
    except UserError:  # no weights of one network
        return None
    return next((task for task, key in FIRST_KEYS.items() if key in keys), None)
