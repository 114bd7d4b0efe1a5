"""LPIPS (Zhang et al. 2018): how unlike two pictures look to AlexNet, under learned weights.

AlexNet's weights are the user's file, by torchvision's keys. The linear weights are those that
torchmetrics brings along.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffdict import checkpoints
from diffdict.checkpoints.read import read
from diffdict.checkpoints.released import folder_of_weights
from diffdict.errors import UserError

FILE = "alexnet-owt-7be5be79.pth"  # as torchvision's address names it
ADDRESS = f"https://download.pytorch.org/models/{FILE}"
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in [-1, 1]
WIDTHS = (64, 192, 384, 256, 256)  # of the five maps
EPS = 1e-8
SMALLEST = 32  # below, a map of AlexNet's would be empty


class Lpips(nn.Module):
    """Distances of AlexNet's five maps, each vector of unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(  # under torchvision's numbers
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        )
        self.linear = nn.ParameterList(torch.ones(width) / width for width in WIDTHS)
        self.requires_grad_(False).eval()

    def forward(
        self,
        a: Float[Tensor, "batch 3 height width"],
        b: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, " batch"]:
        """One distance a pair of pictures in [-1, 1]; 0: the same."""
        if a.shape != b.shape or min(a.shape[2:]) < SMALLEST:
            raise UserError(
                f"LPIPS compares pictures of one size, {SMALLEST}×{SMALLEST} at least, got "
                f"{list(a.shape)} and {list(b.shape)}: larger ones"
            )
        total = torch.zeros(len(a), device=a.device)
        with torch.autocast(a.device.type, enabled=False):
            for weight, one, two in zip(self.linear, self.maps(a), self.maps(b), strict=True):
                apart = (unit_vectors(one) - unit_vectors(two)).square()
                total = total + (apart * weight[:, None, None]).sum(1).mean((1, 2))
        return total

    def maps(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch _ _ _"]]:
        """What each of the five convolutions answers."""
        shift, scale = (images.new_tensor(one)[:, None, None] for one in (SHIFT, SCALE))
        x, answers = (images - shift) / scale, []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                answers.append(x)
        return answers


def unit_vectors(maps: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "..."]:
    """Every position's vector, of length one."""
    return maps / (EPS + maps.square().sum(1, keepdim=True)).sqrt()


def open_lpips(path: str | Path | None = None) -> Lpips | None:
    """With AlexNet from a file; None: from the folder of weights, and nothing where it is not."""
    file = folder_of_weights() / FILE if path is None else Path(path)
    if not file.is_file():
        way = f"put {ADDRESS} at {file}"
        if path is None:
            print(f"LPIPS is left out, for it needs torchvision's AlexNet: {way}")
            return None
        raise UserError(f"No file {file}: LPIPS needs torchvision's AlexNet, {way}")
    net = Lpips()
    state = checkpoints.load_state_dict(file).state
    weights = {key.removeprefix("features."): value for key, value in state.items()}
    needed = net.features.state_dict()
    if any(
        key not in weights or weights[key].shape != value.shape for key, value in needed.items()
    ):
        raise UserError(
            f"{file} is not torchvision's AlexNet, whose maps LPIPS compares: give {FILE} "
            f"({ADDRESS}), or no lpips="
        )
    checkpoints.load_strictly(net.features, weights, file, ignore=("classifier.",))
    with torch.no_grad():
        for parameter, weight in zip(net.linear, linear_weights(), strict=True):
            parameter.copy_(weight)
    return net


def linear_weights() -> list[Float[Tensor, " width"]]:
    """Those that torchmetrics ships beside its own LPIPS."""
    spec = find_spec("torchmetrics")
    folder = Path(spec.submodule_search_locations[0]) / "functional/image/lpips_models"
    content, _ = read(folder / "alex.pth")
    if not isinstance(content, Mapping):
        raise UserError(f"{folder}/alex.pth holds no weights: install torchmetrics again")
    return [content[f"lin{i}.model.1.weight"].flatten().float() for i in range(len(WIDTHS))]
