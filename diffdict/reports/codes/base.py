"""What sheets of codes share: whose they are, which pictures, where they are written."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffdict import files
from diffdict.backbones.pdae import Pdae
from diffdict.data.base import Pictures
from diffdict.errors import UserError
from diffdict.reports.codes.chains import Chains
from diffdict.reports.drawing.canvas import write_png
from diffdict.reports.subjects import DrawsFromCodes, require
from diffdict.results.tables import Row, as_csv, print_rows


class CodeReport(pl.Callback):
    """`<folder>/<word>.png` and, where something was measured, `<word>.csv`.

    Works for whatever `DrawsFromCodes`: a run of task=pdae, or task=samples with a PDAE's file.
    """

    word: str  # of report=
    pictures: Sequence[int]  # of the split, that the sheet needs; the constructor sets it

    def __init__(
        self,
        folder: str,
        dataset: Callable[..., Pictures],
        split: str = "test",
        respacing: str = "linspace100",
        clip_denoised: bool = False,
        batch: int = 64,
    ) -> None:
        """`respacing` of both ways; `batch`: chains that run at once."""
        self.folder, self.dataset, self.split = Path(folder), dataset, split
        self.respacing, self.clip_denoised, self.batch = respacing, clip_denoised, batch
        self.shown: Pictures | None = None

    @abstractmethod
    def sheet(
        self, chains: Chains, images: Float[Tensor, "n 3 side side"]
    ) -> tuple[Image.Image, list[Row]]:
        """The figure of these pictures, and what was measured."""

    def check(self, pdae: Pdae) -> None:
        """Refuses what this network's codes do not have; most sheets take any."""

    def check_directions(self, pdae: Pdae, sha256: str) -> None:
        """Refuses directions of other codes than those of these weights; most sheets take none."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what could not be drawn before anything is computed."""
        report = f"report={self.word}"
        require(type(pl_module), DrawsFromCodes, report, "give a run of task=pdae")
        pdae = pl_module.pdae()
        Chains(pdae, self.respacing, self.batch)
        self.check(pdae)
        self.shown = self.dataset(split=self.split)
        if self.shown.image_size != pdae.image_size:
            raise UserError(
                f"{pdae.name} draws {pdae.image_size}×{pdae.image_size}, the pictures of "
                f"{self.shown.name} are {self.shown.image_size}×{self.shown.image_size}: "
                f"dataset.image_size={pdae.image_size}"
            )
        there = len(self.shown)
        if wrong := [index for index in self.pictures if not 0 <= index < there]:
            raise UserError(
                f"{report} asks for picture {wrong[0]}, split {self.split} of {self.shown.name} "
                f"has 0 to {there - 1}: other pictures, or a larger dataset.{self.split}_pictures"
            )

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check_directions(trainer, pl_module)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check_directions(trainer, pl_module)

    def _check_directions(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Now that weights are loaded: those of a checkpoint have the hash of its file."""
        pdae, path = pl_module.pdae(), trainer.ckpt_path
        self.check_directions(pdae, pdae.sha256 if path is None else files.sha256(path))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, pl_module)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, pl_module)

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """By the first rank."""
        if not trainer.is_global_zero:
            return
        wanted = list(dict.fromkeys(self.pictures))
        images = torch.stack([self.shown[index]["image"] for index in wanted])
        pdae = pl_module.pdae()
        with trainer.precision_plugin.forward_context():
            chains = Chains(pdae, self.respacing, self.batch, self.clip_denoised)
            device = next(pdae.parameters()).device
            figure, rows = self.sheet(chains, images.to(device))
        path = files.unused(files.writable_folder(self.folder) / f"{self.word}.png")
        write_png(figure, path)
        print(f"{self.word}: {path}")
        if rows:
            files.write_atomic(path.with_suffix(".csv"), as_csv(rows).encode())
            print_rows(rows)

    def places(self, wanted: Sequence[int]) -> list[int]:
        """Where these pictures stand among those that the sheet is given."""
        pictures = list(dict.fromkeys(self.pictures))
        return [pictures.index(index) for index in wanted]


def check_finite_pictures(images: Float[Tensor, "n 3 side side"], word: str) -> None:
    """A sampler that left the numbers draws nothing."""
    if not images.isfinite().all():
        raise UserError(
            f"report={word}: the sampler ended in what is no number: trainer.precision=32-true, "
            f"report.{word}.clip_denoised=true, or check the network's weights"
        )


def check_picture_pairs(pairs: Sequence[Sequence[int]], word: str) -> list[tuple[int, int]]:
    """Two pictures each; twice the same one is told, and drawn."""
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise UserError(
            f"report.{word}.pairs are two pictures each, got {[list(pair) for pair in pairs]}: "
            f'"report.{word}.pairs=[[0,1],[2,3]]"'
        )
    for first, second in pairs:
        if first == second:
            print(f"report={word}: picture {first} stands twice in a pair, nothing can change")
    return [(int(first), int(second)) for first, second in pairs]
