"""`report=dashboard`: a dictionary's concepts on one page that opens from disk, offline."""

from collections.abc import Mapping
from pathlib import Path

import pytorch_lightning as pl

from diffdict import files
from diffdict.errors import UserError
from diffdict.reports.concepts.album import Album
from diffdict.reports.concepts.compose import compose, key_of, page_facts
from diffdict.reports.concepts.page import read_names, write_page
from diffdict.reports.subjects import HasDictionaries, require
from diffdict.sae.base import Sae
from diffdict.sae.grid import ALONE


class Dashboard(pl.Callback):
    """After a test `<folder>/dashboard/index.html`, or a page for each of several dictionaries."""

    def __init__(
        self,
        folder: str,
        names: str | None = None,
        top: int = 9,
        pictures: int = 1000,
        side: int = 192,
        megabytes: int = 30,
    ) -> None:
        """`names`: a file of names that people gave on such a page.

        `top`: pictures a latent, out of the first `pictures` of the test split; the page leaves
        some out where it would pass `megabytes`. `side`: of the pictures in the page, at most.
        """
        sizes = {"top": top, "pictures": pictures, "side": side, "megabytes": megabytes}
        for key, value in sizes.items():
            if value < 1:
                raise UserError(f"report.dashboard.{key} must be at least 1, got {value}")
        self.folder, self.names, self.limit = Path(folder), names, megabytes * 1_000_000
        self.top, self.pictures, self.side = top, pictures, side

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what has no dictionary before anything is computed."""
        require(type(pl_module), HasDictionaries, "report=dashboard", "try report=grid")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Names of another dictionary are refused as soon as the weights are known."""
        self._names({name: one.sae for name, one in pl_module.dictionaries().items()})

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first rank looks at the pictures once more, and writes."""
        if not trainer.is_global_zero:
            return
        measured = pl_module.dictionaries()
        saes = {name: one.sae for name, one in measured.items()}
        names, album = self._names(saes), Album(trainer.datamodule, self.pictures, self.side)
        strongest = album.look(saes, self.top)
        folder = files.unused(self.folder / "dashboard")
        for name, (sae, findings) in measured.items():
            facts = page_facts(sae, strongest[name], album, trainer.callback_metrics, name)
            content = compose(sae, facts, strongest[name], findings, album)
            path = folder / ("index.html" if name == ALONE else f"{name}.html")
            page = write_page(content, path, names[name], self.limit)
            print(f"dashboard: {page.path} ({files.human_bytes(page.bytes)})")

    def _names(self, saes: Mapping[str, Sae]) -> dict[str, dict[int, str]]:
        """What people called latents, by dictionary."""
        if self.names is None:
            return {name: {} for name in saes}
        keys = {name: key_of(sae) for name, sae in saes.items()}
        given = read_names(self.names, *keys.values())
        return {name: given[key] for name, key in keys.items()}
