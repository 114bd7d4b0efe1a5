"""A network of the user's own: `backbone._target_=mypackage.MyNet`, with the one method `features`.

    class MyNet(torch.nn.Module):
        def features(self, images, timestep=None, blocks=None, noise=None):
            return {"stem": self.stem(images)}  # block: map, over images in [-1, 1]

It may end with the last of the `blocks` asked for, and is asked for timesteps when it says how many
there are (`num_timesteps`). Arguments of its constructor: `+backbone.width=8`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffdict import checkpoints
from diffdict.backbones.base import Backbone, Block
from diffdict.errors import UserError, one_line

METHOD = "features(self, images, timestep=None, blocks=None, noise=None)"


class CustomBackbone(Backbone):
    """Makes a backbone of such a network: its blocks and their sizes are seen in a first pass."""

    def __init__(
        self, network: object, image_size: int, *, name: str, checkpoint: str | None = None
    ) -> None:
        """`network` is any torch.nn.Module with the method; weights fill it whole."""
        super().__init__()
        self._check(network, name)
        self.network, self.name, self.image_size = network, name, image_size
        self.num_timesteps = getattr(network, "num_timesteps", None)
        if checkpoint is not None:
            unused = getattr(network, "unused", ())
            self._file_sha256 = checkpoints.load_into(network, checkpoint, ignore=unused)
        self.shapes = self._shapes()

    def features(
        self,
        images: Float[Tensor, "batch 3 height width"],
        timestep: int | None = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """The network's own answer, in its order."""
        wanted = self.chosen(blocks)
        self.check_timestep(timestep)
        maps = self.network.features(images, timestep=timestep, blocks=wanted, noise=noise)
        if missing := [block for block in wanted if block not in maps]:
            raise UserError(
                f"{self.name}.features was asked for {wanted}, {missing[0]!r} is missing"
            )
        return {block: maps[block] for block in wanted}

    def _check(self, network: object, name: str) -> None:
        """What a network must be and have."""
        if isinstance(network, Mapping):  # a dictionary's card, out of a file
            raise UserError(
                f"{network.get('_target_')} is a network of one's own, which is never built at a "
                "file's word: give its tokens to .sae.encode"
            )
        if not isinstance(network, nn.Module):
            raise UserError(f"{name} must be a torch.nn.Module, got {type(network).__name__}")
        method = getattr(network, "features", None)
        if not callable(method) or isinstance(method, nn.Module):
            raise UserError(
                f"{name} has no method {METHOD}, which returns {{block: map}}: write it"
            )
        try:
            inspect.signature(method).bind(None, timestep=None, blocks=None, noise=None)
        except TypeError as error:
            signature = f"features{inspect.signature(method)}"
            raise UserError(
                f"{name} must have {METHOD}, got {signature}: {one_line(error)}"
            ) from error

    @torch.no_grad()
    def _shapes(self) -> dict[Block, tuple[int, int, int]]:
        """The sizes of the maps of a grey picture."""
        self.network.eval()
        size = self.image_size
        step = None if self.num_timesteps is None else 0
        images = torch.zeros(1, 3, size, size)
        maps = self.network.features(images, timestep=step, blocks=None, noise=None)
        if not isinstance(maps, Mapping) or not maps:
            answer = "nothing" if isinstance(maps, Mapping) else type(maps).__name__
            raise UserError(f"{self.name}.features must return {{block: map}}, got {answer}")
        for block, x in maps.items():
            if not (isinstance(x, Tensor) and x.ndim == 4 and len(x) == 1):
                answer = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
                raise UserError(
                    f"{self.name}.features must return maps [batch, channels, height, width], "
                    f"got {answer} for {block!r} of one picture"
                )
        return {block: tuple(x.shape[1:]) for block, x in maps.items()}


def wrapper_node(node: Mapping) -> dict:
    """The config node of a network from outside as one of `CustomBackbone`."""
    target = node["_target_"]
    takes = inspect.signature(_imported(target)).parameters
    facts = {
        "name": target.rpartition(".")[2].lower(),
        "image_size": "${dataset.image_size}",
        "checkpoint": None,
    }
    network = {key: value for key, value in node.items() if key not in facts}
    facts |= {key: node[key] for key in facts if key in node}
    network |= {key: facts[key] for key in ("name", "image_size") if key in takes}
    return {
        "_target_": f"{CustomBackbone.__module__}.{CustomBackbone.__qualname__}",
        "network": network,
        **facts,
    }


def _imported(target: str) -> Callable:
    module, _, name = target.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise UserError(
            f"backbone._target_={target} cannot be imported: {one_line(error)}. Say "
            "package.module.Class, and put the package's folder on PYTHONPATH"
        ) from error
