"""Loaders that say where they stand, and go on from there in the middle of an epoch."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class ResumableLoader(ABC, Generic[Batch]):
    """Counts what it hands out, so that its data module can resume it in the middle of an epoch."""

    def __init__(self, seed: int, plan: dict[str, int]) -> None:
        """`plan` is what else the order depends on: under another one no epoch is continued."""
        self.seed, self.plan = seed, plan
        self.epoch = self.taken = 0
        self.resumed = False

    @abstractmethod
    def __len__(self) -> int:
        """Batches in an epoch."""

    @abstractmethod
    def batches(self, epoch: int, taken: int) -> Iterator[Batch]:
        """The batches of an epoch after the first `taken` ones."""

    def __iter__(self) -> Iterator[Batch]:
        if self.taken and not self.resumed:  # the epoch before was left early
            self.epoch, self.taken = self.epoch + 1, 0
        self.resumed = False
        for batch in self.batches(self.epoch, self.taken):
            self.taken += 1
            if self.taken == len(self):  # before the last yield: Lightning never asks again
                self.epoch, self.taken = self.epoch + 1, 0
            yield batch

    def place(self) -> dict:
        """Where the loader stands."""
        return {"seed": self.seed, "epoch": self.epoch, "taken": self.taken, "plan": self.plan}

    def go_to(self, state: dict) -> None:
        """Continues there; under another plan, at the start of that epoch."""
        self.seed, self.epoch, self.taken = state["seed"], state["epoch"], state["taken"]
        self.resumed = True
        changed = [
            f"{name} {state['plan'].get(name)} -> {value}"
            for name, value in self.plan.items()
            if state["plan"].get(name) != value
        ]
        if changed and self.taken:
            self.taken = 0
            warnings.warn(
                f"Epoch {self.epoch} starts again from its recorded seed, "
                f"because its order cannot be continued ({', '.join(changed)}).",
                stacklevel=2,
            )
