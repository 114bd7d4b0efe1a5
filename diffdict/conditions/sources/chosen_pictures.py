"""What conditions share that are made of a few pictures, each chosen by a file or a number."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.conditions.base import (
    ConditionSource,
    MakesVectors,
    check_maker,
    check_vectors,
    picture_vectors,
)
from diffdict.conditions.sources.sized_pictures import (
    ChosenPicture,
    SizedPictures,
    check_fit_word,
    chosen_fit,
)
from diffdict.data.base import Pictures
from diffdict.errors import at_least


class ChosenPictures(ConditionSource):
    """Rows that come `each` times, made of the vectors of `chosen` pictures."""

    def __init__(
        self,
        dataset: Callable[..., Pictures] | None,
        split: str,
        chosen: Mapping[str, str | int | None],
        *,
        each: int,
        fit: str | None,
        side: int | None,
        undirected: float | int,
    ) -> None:
        """`chosen`: files, or numbers of pictures of the split, by the setting that names them.

        `fit` is how files become squares; None: as published for a released encoder (squash), else
        the middle square. `side`: of the pictures that a sheet shows.
        """
        at_least(1, "condition", each=each)
        check_fit_word(fit)
        pictures = SizedPictures(dataset, split, f"condition.{next(iter(chosen), 'path')}")
        self.chosen = [ChosenPicture(key, which, pictures) for key, which in chosen.items()]
        self.each, self.fit, self.side, self.undirected = each, fit, side, undirected
        self.check_share()

    def chosen_vectors(
        self, maker: MakesVectors, width: int, device: torch.device
    ) -> Float[Tensor, "chosen width"]:
        """One of each, in the order of the settings."""
        fit = chosen_fit(self.fit, maker, "squash")
        images = [one.image(maker.image_size or self.side, fit) for one in self.chosen]
        vectors = picture_vectors(maker, images, device)
        names = [one.name for one in self.chosen]
        check_vectors(vectors, width, names, f"by {maker.name}", "The network")
        return vectors

    def shown(self, maker: MakesVectors) -> Float[Tensor, "chosen 3 side side"]:
        """The pictures as a sheet has them."""
        fit = chosen_fit(self.fit, maker, "squash")
        return torch.stack([one.image(self.side, fit) for one in self.chosen])

    def chosen_facts(self, maker: MakesVectors | None) -> dict[str, object]:
        """The pictures, and the network that looks at them."""
        maker = check_maker(maker)
        return {
            **{one.key: one.fact for one in self.chosen},
            "each": self.each,
            "fit": chosen_fit(self.fit, maker, "squash"),
            "undirected": self.undirected,
            "vectors_by": maker.name,
            "vectors_sha256": maker.sha256,
        }
