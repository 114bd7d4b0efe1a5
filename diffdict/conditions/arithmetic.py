"""`condition=arithmetic`: a picture's vector, less another's, and a third one's added."""

import math
from collections.abc import Callable, Mapping

import torch

from diffdict.conditions.base import ConditionRows, MakesVectors, check_maker
from diffdict.conditions.sources.chosen_pictures import ChosenPictures
from diffdict.data.base import Pictures
from diffdict.errors import UserError

KINDS = ("picture", "picture - less + more")


class ArithmeticVectors(ChosenPictures):
    """`each` samples of a picture's own vector, and of it - amount · less + amount · more."""

    def __init__(
        self,
        dataset: Callable[..., Pictures] | None = None,
        split: str = "test",
        picture: str | int | None = None,
        less: str | int | None = None,
        more: str | int | None = None,
        amount: float | int = 1.0,
        each: int = 8,
        fit: str | None = None,
        side: int | None = None,
        undirected: float | int = 0.0,
    ) -> None:
        """`picture`, `less`, `more`: files, or numbers of pictures of the split."""
        if not math.isfinite(amount) or amount == 0:
            raise UserError(
                f"condition.amount is a number other than 0, got {amount}: condition.amount=1"
            )
        super().__init__(
            dataset,
            split,
            {"picture": picture, "less": less, "more": more},
            each=each,
            fit=fit,
            side=side,
            undirected=undirected,
        )
        if self.chosen[1].fact == self.chosen[2].fact:
            raise UserError(
                f"condition.less={less} and condition.more={more} are one picture, and nothing "
                "would change: name two"
            )
        self.amount, self.number = amount, len(KINDS) * each

    def rows(
        self, maker: MakesVectors | None, width: int, number: int, device: torch.device
    ) -> ConditionRows:
        """A line of each kind, from the same noises."""
        maker = check_maker(maker)
        vector, less, more = self.chosen_vectors(maker, width, device)
        kinds = torch.stack([vector, vector + self.amount * (more - less)])
        rows, noises = range(self.number), [row % self.each for row in range(self.number)]
        return ConditionRows(
            kinds.repeat_interleave(self.each, 0),
            [KINDS[row // self.each] for row in rows],
            source=[0] * self.number,
            pictures=self.shown(maker),
            start=noises,
            steps=noises,
            line=[row // self.each for row in rows],
            target=[2 if row >= self.each else -1 for row in rows],
        )

    def facts(self, maker: MakesVectors | None) -> Mapping[str, object]:
        """The three pictures, and the network that looks at them."""
        return {
            "condition": "arithmetic",
            "amount": self.amount,
            **self.chosen_facts(maker),
        }
