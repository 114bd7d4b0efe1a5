"""Pixel classifiers as one network: every member's layers side by side, in batched products.

Each is the published one (Baranchuk et al. 2022): per hidden layer Linear, ReLU, then BatchNorm.
The keys of a member's state are those of its file, each tensor a row of the ensemble's.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from diffdict.errors import UserError
from diffdict.features.pixels.codes import PixelMaps
from diffdict.metrics.segmentation import Prediction, divergence
from diffdict.seeds import mix

MANY = 30  # classes from which on the published classifier is the wide one
SPREAD = 0.02  # standard deviation of a fresh weight


class Linear(nn.Module):
    """A linear layer for every member."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(members, outputs))

    def forward(self, x: Float[Tensor, "members batch _"]) -> Float[Tensor, "members batch _"]:
        """Each member's own pixels through its own weights."""
        return torch.baddbmm(self.bias[:, None], x, self.weight.mT)


class Norm(nn.Module):
    """torch's BatchNorm1d for every member, over that member's pixels."""

    momentum, eps = 0.1, 1e-5

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, width))
        self.bias = nn.Parameter(torch.zeros(members, width))
        self.register_buffer("running_mean", torch.zeros(members, width))
        self.register_buffer("running_var", torch.ones(members, width))
        self.register_buffer("num_batches_tracked", torch.zeros(members, dtype=torch.int64))

    def forward(
        self, x: Float[Tensor, "members batch width"]
    ) -> Float[Tensor, "members batch width"]:
        """A channel is one member's one unit."""
        members, batch, width = x.shape
        if self.training:
            self.num_batches_tracked += 1
        state = (self.running_mean, self.running_var, self.weight, self.bias)
        flat = x.transpose(0, 1).reshape(batch, -1)
        y = F.batch_norm(flat, *(t.view(-1) for t in state), self.training, self.momentum, self.eps)
        return y.view(batch, members, width).transpose(0, 1)

    def line(self) -> tuple[Float[Tensor, "members width"], Float[Tensor, "members width"]]:
        """Slope and offset of what it is at inference."""
        slope = self.weight * (self.running_var + self.eps).rsqrt()
        return slope, self.bias - self.running_mean * slope


class Ensemble(nn.Module):
    """Members that never meet but in their prediction."""

    def __init__(
        self,
        members: int,
        d_in: int,
        num_classes: int,
        hidden: Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        """`hidden`: widths; None: 128, 32, or 256, 128 for 30 classes or more.

        Member i begins the same whatever the number of members.
        """
        super().__init__()
        default = (128, 32) if num_classes < MANY else (256, 128)
        self.hidden = tuple(default if hidden is None else hidden)
        if not self.hidden or min(self.hidden) < 1:
            raise UserError(f"model.hidden holds widths of at least one layer, got {self.hidden}")
        self.members, self.d_in, self.num_classes = members, d_in, num_classes
        widths = [d_in, *self.hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [Linear(members, inputs, outputs), nn.ReLU(), Norm(members, outputs)]
        self.layers = nn.Sequential(*layers, Linear(members, widths[-1], num_classes))
        for member in range(members):
            generator = torch.Generator().manual_seed(mix(seed, member))
            for layer in self.layers:
                if isinstance(layer, Linear):
                    layer.weight.data[member].normal_(0, SPREAD, generator=generator)

    def forward(
        self, x: Float[Tensor, "members batch d_in"]
    ) -> Float[Tensor, "members batch classes"]:
        """Logits of each member's own pixels."""
        return self.rest(self.layers[0](x))

    def rest(
        self, first: Float[Tensor, "members batch _"]
    ) -> Float[Tensor, "members batch classes"]:
        """What follows the first layer."""
        for layer in list(self.layers)[1:]:
            first = layer(first)
        return first

    # ------------------------------------------------------------------ members

    @property
    def shape(self) -> dict[str, int | list[int]]:
        """What an ensemble must be to hold the same state."""
        sizes = {"members": self.members, "d_in": self.d_in, "num_classes": self.num_classes}
        return {**sizes, "hidden": list(self.hidden)}

    @property
    def steps(self) -> Int64[Tensor, " members"]:
        """How many batches each member has learned from."""
        return self.layers[2].num_batches_tracked

    def first(self, count: int) -> "Ensemble":
        """An ensemble of the first `count` members, in the same memory."""
        with torch.device("meta"):
            part = Ensemble(count, self.d_in, self.num_classes, self.hidden)
        part.load_state_dict({k: x[:count] for k, x in self.state_dict().items()}, assign=True)
        return part.train(self.training)

    def keep(self, count: int) -> None:
        """Lets go of all but the first `count` members; the tensors stay the same objects."""
        self.members = count
        for x in (*self.parameters(), *self.buffers()):
            x.data, x.grad = x.data[:count], None

    def swap(self, i: int, j: int) -> None:
        """Two members change places."""
        for x in self.state_dict().values():
            x[[i, j]] = x[[j, i]]

    def member(self, i: int) -> dict[str, Tensor]:
        """The state of one classifier, under the keys of its file."""
        return {key: x[i].cpu().clone() for key, x in self.state_dict().items()}

    def set_member(self, i: int, state: Mapping[str, Tensor], source: str) -> None:
        """Takes the place of member `i`; `source` is named where it does not fit."""
        ours = {key: tuple(x.shape[1:]) for key, x in self.state_dict().items()}
        theirs = {key: tuple(x.shape) for key, x in state.items()}
        if ours != theirs:
            raise UserError(_misfit(source, ours, theirs))
        for key, x in self.state_dict().items():
            x[i] = state[key]

    # ------------------------------------------------------------------ prediction

    def pixels(
        self, maps: PixelMaps, index: int = 0
    ) -> Iterator[tuple[slice, Float[Tensor, "members pixels classes"]]]:
        """Logits of all pixels of one picture, some at a time: as at inference, whatever the mode.

        The first layer is applied before upsampling, and every BatchNorm is part of the layer that
        follows it.
        """
        first, weights = self.layers[0], self._folded()
        weight, bias = first.weight.detach().flatten(0, 1), first.bias.detach().flatten()
        chunk = 1024 if weight.device.type == "cpu" else 16_384  # within a CPU's cache
        for place, x in maps.linear(index, weight, chunk):
            x = x.add_(bias).unflatten(1, (self.members, -1)).transpose(0, 1)
            for bias_, weight_ in weights:
                x = torch.baddbmm(bias_, x.relu_(), weight_)
            yield place, x

    @torch.no_grad()
    def predict(self, maps: PixelMaps, index: int = 0) -> Prediction:
        """Labels of one picture by both votes, and the members' doubt."""
        parts = []
        for _, logits in self.pixels(maps, index):
            soft = logits.softmax(-1).mean(0).argmax(-1)
            parts.append((majority(logits.argmax(-1), self.num_classes), soft, divergence(logits)))
        return Prediction(*(torch.cat(part).view(maps.size) for part in zip(*parts, strict=True)))

    @torch.no_grad()
    def _folded(self) -> list[tuple[Tensor, Tensor]]:
        """Bias and weight of the layers after the first, each of which takes a ReLU's output."""
        norms = [layer for layer in self.layers if isinstance(layer, Norm)]
        others = [layer for layer in self.layers if isinstance(layer, Linear)][1:]
        folded = []
        for norm, linear in zip(norms, others, strict=True):
            slope, offset = norm.line()
            moved = torch.baddbmm(linear.bias[:, None], offset[:, None], linear.weight.mT)
            folded.append((moved, (linear.weight * slope[:, None]).mT))
        return folded


def majority(labels: Int64[Tensor, "members pixels"], num_classes: int) -> Int64[Tensor, " pixels"]:
    """The label that most members chose; of several the smallest."""
    votes = torch.zeros(labels.shape[1], num_classes, device=labels.device)
    return votes.scatter_add_(
        1, labels.T, torch.ones_like(votes[:, :1]).expand_as(labels.T)
    ).argmax(1)


def _misfit(source: str, ours: Mapping, theirs: Mapping) -> str:
    """Why a classifier cannot be a member."""
    first, last = "layers.0.weight", list(ours)[-1]
    if set(ours) != set(theirs) or len(theirs[first]) != 2:
        keys = ", ".join(list(theirs)[:4])
        return (
            f"{source} is no pixel classifier with {len(ours)} entries like {first}: it has {keys}"
        )
    return (
        f"{source} takes pixels of {theirs[first][1]} dimensions to {theirs[last][0]} classes, by "
        f"{theirs[first][0]} units at first; here they are {ours[first][1]}, {ours[last][0]} and "
        f"{ours[first][0]}: give the dataset=, backbone=, timestep= and block= that it was made for"
    )


def classifier_files(classifiers: str | Sequence[str], members: int) -> list[Path]:
    """Those of a list, or of a folder of published classifiers the first so many by number."""
    if not isinstance(classifiers, str):
        return [Path(file) for file in classifiers]
    files = _by_number(classifiers)
    if len(files) < members:
        raise UserError(
            f"model.classifiers={classifiers} holds {len(files)}, model.members={members} asks for "
            f"more: model.members={len(files)}"
        )
    return files[:members]


def _by_number(classifiers: str) -> list[Path]:
    files = list(Path(classifiers).glob("model_*.pth"))
    if not files:
        raise UserError(
            f"model.classifiers={classifiers} holds no model_0.pth: name the folder that the "
            f"classifiers lie in, or a list of files"
        )
    return sorted(files, key=lambda file: (len(file.stem), file.stem))
