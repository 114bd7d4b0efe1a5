"""`report=drawn`: latents that were switched on in drawing, on one page that opens from disk."""

from pathlib import Path

import pytorch_lightning as pl

from diffdict import files
from diffdict.errors import UserError, at_least
from diffdict.reports.concepts.compose import key_of
from diffdict.reports.concepts.page import read_names, write_page
from diffdict.reports.concepts.switched import compose_switched
from diffdict.reports.subjects import SwitchesLatents, require

FACTS = ("samples", "representation", "latents", "random", "rise", "risen", "median_rank")


class Drawn(pl.Callback):
    """After task=faithfulness on samples of condition=latents `<folder>/drawn/index.html`."""

    def __init__(
        self,
        folder: str,
        names: str | None = None,
        top: int = 9,
        side: int = 192,
        megabytes: int = 30,
    ) -> None:
        """`names`: a file of names that people gave on such a page, or on the dashboard.

        `top`: real pictures a latent; `side`: of the pictures in the page, at most.
        """
        at_least(1, "report.drawn", top=top, side=side, megabytes=megabytes)
        self.folder, self.names, self.limit = Path(folder), names, megabytes * 1_000_000
        self.top, self.side = top, side

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what has no latents before anything is computed."""
        way_out = "task=faithfulness samples=FOLDER of extract.py task=samples condition=latents"
        require(type(pl_module), SwitchesLatents, "report=drawn", way_out)
        sae = pl_module.switched_dictionary()
        if sae is None:
            raise UserError(
                "report=drawn shows latents that were switched on, and these samples are of "
                "pictures: extract.py task=samples condition=latents draws such"
            )
        if self.names is not None:
            read_names(self.names, key_of(sae))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first rank writes."""
        latents = pl_module.drawn_latents()  # of all ranks
        if not trainer.is_global_zero:
            return
        (row,) = pl_module.tables()["faithfulness"]
        facts = {name.replace("_", " "): row[name] for name in FACTS}
        content = compose_switched(latents, facts, trainer.datamodule, self.top, self.side)
        key = content.key
        names = {} if self.names is None else read_names(self.names, key)[key]
        folder = files.unused(self.folder / "drawn")
        page = write_page(content, folder / "index.html", names, self.limit)
        print(f"drawn: {page.path} ({files.human_bytes(page.bytes)})")
