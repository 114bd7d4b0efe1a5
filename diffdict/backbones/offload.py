"""Weights that stay in the machine's memory and are on a device only while they compute there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

OFFLOADS = ("none", "whole", "layers")


@contextmanager
def visiting(module: nn.Module, device: torch.device, recurse: bool = True) -> Iterator[None]:
    """Within, a module's weights are on the device; after it they are where they were, as before.

    recurse=False: its own alone, not those of the modules in it.
    """
    homes = [
        (layer, name, weight)
        for layer in (module.modules() if recurse else [module])
        for name, weight in [
            *layer.named_parameters(recurse=False),
            *layer.named_buffers(recurse=False),
        ]
    ]
    try:
        for layer, name, weight in homes:
            setattr(layer, name, _brought(weight, device))
        yield
    finally:
        for layer, name, weight in homes:
            setattr(layer, name, weight)


def offload_weights(network: nn.Module, by: str) -> None:
    """From now on its weights visit the device of what it is given, for each pass.

    By `whole`, the device has to hold all of this network and no other; by `layers` one layer at a
    time, each of which is carried over whenever it computes. `none` leaves it as it is.
    """
    if by == "whole":
        _let_visit(network, recurse=True)
    elif by == "layers":
        for layer in network.modules():
            if next(layer.parameters(False), next(layer.buffers(False), None)) is not None:
                _let_visit(layer, recurse=False)


def change_at_home(network: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """A change of all weights as Module.to makes it, but for the device."""

    def changed(weight: Tensor) -> Tensor:
        there = change(weight)
        return there if there.device == weight.device else weight.to(there.dtype)

    network._apply(changed)


def _brought(weight: Tensor, device: torch.device) -> Tensor:
    there = weight.detach().to(device)
    return nn.Parameter(there, weight.requires_grad) if isinstance(weight, nn.Parameter) else there


def _let_visit(layer: nn.Module, recurse: bool) -> None:
    """Hooks around the layer's passes, those that fail or are cut short included."""
    visits: list = []

    def bring(_: nn.Module, args: tuple, kwargs: dict) -> None:
        given = next(x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
        visit = visiting(layer, given.device, recurse)
        visit.__enter__()
        visits.append(visit)

    def take_home(*_: object) -> None:
        visits.pop().__exit__(None, None, None)

    layer.register_forward_pre_hook(bring, with_kwargs=True)
    layer.register_forward_hook(take_home, always_call=True)
