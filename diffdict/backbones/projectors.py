"""Projectors behind a ResNet's trunk, as published: their layers under their files' names."""

from typing import no_type_check

from torch import Tensor, nn

from diffdict.errors import UserError

WIDTHS = {"dino": 256, "simclr": 128, "barlow": 8192, "vicreg": 8192, "swav": 128}


def make_projector(kind: str, width: int = 2048) -> nn.Module:
    """The head of a kind of self-supervised learning; `width` is its trunk's."""
    wide = 8192
    if kind == "dino":
        return DinoHead(width)
    if kind == "simclr":
        return nn.Sequential(_Clf(nn.Linear(width, width), nn.ReLU()), _Clf(nn.Linear(width, 128)))
    if kind == "barlow":
        return nn.Sequential(
            _Clf(nn.Linear(width, wide, bias=False), nn.BatchNorm1d(wide), nn.ReLU()),
            _Clf(nn.Linear(wide, wide, bias=False), nn.BatchNorm1d(wide), nn.ReLU()),
            _Clf(nn.Linear(wide, wide, bias=False)),
        )
    if kind == "vicreg":
        return nn.Sequential(
            *(nn.Linear(width, wide), nn.BatchNorm1d(wide), nn.ReLU()),
            *(nn.Linear(wide, wide), nn.BatchNorm1d(wide), nn.ReLU()),
            nn.Linear(wide, wide, bias=False),
        )
    if kind == "swav":
        return nn.Sequential(
            nn.Linear(width, 2048), nn.BatchNorm1d(2048), nn.ReLU(), nn.Linear(2048, 128)
        )
    raise UserError(f"part=head is known of {', '.join(WIDTHS)}, not of {kind}: part=trunk")


@no_type_check
class DinoHead(nn.Module):
    """Up to the bottleneck; its norm and last layer come after what a vector is taken from."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, 4096), nn.BatchNorm1d(4096), nn.GELU(), nn.Linear(4096, 256)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


@no_type_check
class _Clf(nn.Module):
    """One layer of VISSL's MLPs."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.clf = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.clf(x)
