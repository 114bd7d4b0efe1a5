"""The error of features that extract.py makes: what is missing, and the command that makes it."""

from pathlib import Path

from diffdict.errors import command
from diffdict.features.locations import Blocks, Timesteps, where
from diffdict.features.store.sealed import StoreError


class MissingFeatures(StoreError):
    """Features that extract.py makes; a run that knows its config says by which command."""

    def __init__(
        self,
        before: str,
        timestep: Timesteps,
        block: Blocks,
        after: str = "",
        *,
        path: str | Path,
        split: str | None = None,
    ) -> None:
        """The command stands between `before` and `after`; `split`: that whole split is missing."""
        self.before, self.after, self.path, self.split = before, after, path, split
        self.timestep, self.block = timestep, block
        words = where(timestep, block)
        self.outline = command("python", "extract.py", "dataset=…", "backbone=…", *words)
        super().__init__(self.saying(self.outline))

    def saying(self, proposal: str) -> str:
        """The sentence with this command in it."""
        return f"{self.before} {proposal}{self.after}"
