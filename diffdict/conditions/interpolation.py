"""`condition=interpolation`: vectors on the way from one picture's to another's."""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.conditions.base import ConditionRows, MakesVectors, check_maker
from diffdict.conditions.sources.chosen_pictures import ChosenPictures
from diffdict.data.base import Pictures
from diffdict.diffusion.chains.interpolation import slerp
from diffdict.errors import UserError

PATHS = ("linear", "spherical")
SHARES = ("start", "all")  # which noise a way has in common


class InterpolatedVectors(ChosenPictures):
    """Samples of `steps` vectors on a way, drawn from one start noise; `each` ways in turn."""

    def __init__(
        self,
        dataset: Callable[..., Pictures] | None = None,
        split: str = "test",
        first: str | int | None = None,
        second: str | int | None = None,
        steps: int = 8,
        path: str = "linear",
        start: float | int = 0.0,
        stop: float | int = 1.0,
        share: str = "start",
        each: int = 1,
        fit: str | None = None,
        side: int | None = None,
        undirected: float | int = 0.0,
    ) -> None:
        """`first`, `second`: files, or numbers of pictures of the split.

        `share`: start, a way has one start noise and each sample its own in the steps, as
        published; all, one noise in all.
        """
        chosen = {"first": first, "second": second}
        check_path(steps, path)
        if share not in SHARES:
            raise UserError(f"condition.share is {' or '.join(SHARES)}, got {share!r}")
        if not (math.isfinite(start) and math.isfinite(stop)) or start == stop:
            raise UserError(
                f"condition.start and condition.stop are two shares of the way, got {start} and "
                f"{stop}: 0 and 1 are its ends, the published script goes from 0.5 to 0.7"
            )
        super().__init__(
            dataset, split, chosen, each=each, fit=fit, side=side, undirected=undirected
        )
        if self.chosen[0].fact == self.chosen[1].fact:
            raise UserError(
                f"condition.first={first} and condition.second={second} are one picture, and there "
                "is no way between them: name two"
            )
        self.steps, self.path, self.start, self.stop = steps, path, start, stop
        self.share = share
        self.number = steps * each

    def rows(
        self, maker: MakesVectors | None, width: int, number: int, device: torch.device
    ) -> ConditionRows:
        """Way after way, each from the first picture to the second."""
        maker = check_maker(maker)
        vectors = self.chosen_vectors(maker, width, device)
        way = between(*vectors, self.steps, self.start, self.stop, self.path)
        shares = torch.linspace(self.start, self.stop, self.steps, dtype=torch.float64).tolist()
        heads = [row // self.steps * self.steps for row in range(self.number)]
        return ConditionRows(
            way.repeat(self.each, 1),
            [f"{share:.2f}" for share in shares] * self.each,
            source=[0] * self.number,
            pictures=self.shown(maker),
            start=heads,
            steps=heads if self.share == "all" else range(self.number),
            line=[head // self.steps for head in heads],
            target=[1] * self.number,
        )

    def facts(self, maker: MakesVectors | None) -> Mapping[str, object]:
        """Both pictures, the way between them, and the network that looks at them."""
        return {
            "condition": "interpolation",
            "way": [self.path, self.steps, self.start, self.stop],
            "share": self.share,
            **self.chosen_facts(maker),
        }


def check_path(steps: int, path: str) -> None:
    """A way that there is, of more than one vector."""
    if path not in PATHS:
        raise UserError(f"path is {' or '.join(PATHS)}, got {path!r}")
    if steps < 2:
        raise UserError(
            f"steps are the vectors of a path, both ends among them: 2 or more, got {steps}"
        )


def between(
    first: Float[Tensor, "..."],
    second: Float[Tensor, "..."],
    steps: int,
    start: float | int = 0.0,
    stop: float | int = 1.0,
    path: str = "linear",
) -> Float[Tensor, "steps d"]:
    """`steps` vectors from share `start` of the way to `stop`, both among them.

    RCDM's own script goes linearly from 0.5 to 0.7.
    """
    first, second = first.reshape(1, -1), second.reshape(1, -1)
    check_path(steps, path)
    if first.shape != second.shape:
        raise UserError(
            f"A path leads between vectors of one width, got {first.shape[1]} and "
            f"{second.shape[1]}: take both from one representation"
        )
    if torch.equal(first, second):
        raise UserError("first and second have the same vector, and there is no way between them")
    shares = torch.linspace(start, stop, steps, dtype=torch.float64).tolist()
    if path == "linear":
        return torch.cat([(1 - share) * first + share * second for share in shares])
    _check_directions(first, second)
    return torch.cat([_on_arc(first, second, share) for share in shares])


def _on_arc(first: Tensor, second: Tensor, share: float) -> Float[Tensor, "1 d"]:
    """Along the great circle of the directions; the length goes linearly."""
    length = (1 - share) * first.norm() + share * second.norm()
    return length * slerp(first / first.norm(), second / second.norm(), share)


def _check_directions(first: Tensor, second: Tensor) -> None:
    if not (bool(first.norm() > 0) and bool(second.norm() > 0)):
        raise UserError(
            "path=spherical leads between directions, and a zero vector has none: path=linear"
        )
    cosine = torch.nn.functional.cosine_similarity(first.double(), second.double())
    if float(cosine) < -1 + 1e-6:
        raise UserError(
            "path=spherical leads nowhere between opposite vectors, all ways round are as long: "
            "path=linear"
        )
