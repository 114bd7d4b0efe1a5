"""`report=denoise`: what a code adds to one step of denoising, and to every posterior mean."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffdict import files
from diffdict.backbones.autoencoders.autoencode import check_drawn, start_noise
from diffdict.backbones.pdae import Pdae
from diffdict.diffusion.schedules import respaced_timesteps, x0_from_eps
from diffdict.diffusion.shift import posterior_gap
from diffdict.errors import UserError, at_least
from diffdict.reports.drawing.canvas import write_png
from diffdict.reports.drawing.chart import LINES, new_figure, styled, write_chart
from diffdict.reports.drawing.contact_sheet import contact_sheet
from diffdict.reports.subjects import DrawsFromCodes, require
from diffdict.results.tables import Row, as_csv

STEPS = (400, 500, 600, 700, 800)  # at which x_0 is drawn in one step, as published
WITH, WITHOUT = "gap_with_code", "gap_without"


class Denoise(pl.Callback):
    """After a test of codes `<folder>/denoise.png`, `denoise_gap.csv` and a chart of it."""

    def __init__(
        self,
        folder: str,
        pictures: int = 32,
        rows: int = 4,
        timesteps: Sequence[int] = STEPS,
        points: int = 50,
        beside: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        """`pictures`: over which the gap is a mean; `rows`: those on the sheet.

        `points`: at how many timesteps, evenly over the chain. `beside`: the `denoise_gap.csv` of
        other runs, drawn into the same chart.
        """
        at_least(1, "report.denoise", pictures=pictures, rows=rows, points=points)
        self.folder, self.pictures, self.rows = Path(folder), pictures, rows
        self.timesteps, self.points, self.seed = list(timesteps), points, seed
        self.beside = {Path(path).parent.name or path: read_gap(Path(path)) for path in beside}
        self.images: list[Tensor] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses runs without codes, and timesteps that their chain does not have."""
        require(type(pl_module), DrawsFromCodes, "report=denoise", "another report=")
        steps = pl_module.pdae().denoiser.num_timesteps
        if wrong := [t for t in self.timesteps if not 0 <= t < steps]:
            raise UserError(
                f"report.denoise.timesteps lie in 0..{steps - 1}, got {wrong[0]}: "
                "report.denoise.timesteps=[400,600,800]"
            )
        self.points, self.images = min(self.points, steps), []

    def on_test_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        """The first rank's first pictures."""
        if trainer.is_global_zero:
            missing = self.pictures - len(self.images)
            self.images += [*batch["image"][: max(0, missing)].cpu()]

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws and measures them with the network as it is handed on."""
        if not self.images:
            return
        net = pl_module.pdae()
        images = torch.stack(self.images).to(pl_module.device)
        folder = files.writable_folder(self.folder)
        sheet = one_step_sheet(net, images[: self.rows], self.timesteps, self.seed)
        paths = [write_png(sheet, files.unused(folder / "denoise.png"))]
        rows = gap_rows(net, images, self.points, self.seed)
        paths.append(files.unused(folder / "denoise_gap.csv"))
        files.write_atomic(paths[-1], as_csv(rows).encode())
        chart = draw_gaps({**self.beside, folder.name: rows})
        paths.append(write_chart(chart, paths[-1].with_suffix(".png")))
        print("\n".join(f"denoise: {path}" for path in paths))


@torch.no_grad()
def one_step(
    net: Pdae,
    images: Float[Tensor, "n 3 size size"],
    codes: Float[Tensor, "n code"] | None,
    timestep: int,
    noise: Float[Tensor, "n 3 size size"],
) -> tuple[Float[Tensor, "n 3 size size"], Float[Tensor, " n"]]:
    """x_0 in one step from a timestep, and how far the posterior mean is from the true one."""
    process, first = net.denoiser.process, net.denoiser.first_timestep
    t = torch.full((len(images),), timestep, device=images.device)
    x_t = process.noised(images, t - first, noise)
    eps = net.posterior_net(codes)(x_t, t)
    return x0_from_eps(process, x_t, t - first, eps), posterior_gap(
        process, images, x_t, eps, t - first
    )


@torch.no_grad()
def one_step_sheet(
    net: Pdae, images: Float[Tensor, "n 3 size size"], timesteps: Sequence[int], seed: int = 0
) -> Image.Image:
    """Two rows a picture: without its code and with it, from the same noise at each timestep."""
    codes, noise = net.codes(images).float(), start_noise(net, seed, range(len(images)))
    columns = [images.repeat_interleave(2, 0)]
    for timestep in timesteps:
        pair = [one_step(net, images, code, timestep, noise)[0] for code in (None, codes)]
        columns.append(torch.stack(pair, 1).flatten(0, 1))
    pictures = check_drawn(torch.stack(columns, 1)).clamp(-1, 1).cpu()
    words = []
    for label in ("without", "with code"):
        words += ["picture", *(f"{timestep} {label}" for timestep in timesteps)]
    return contact_sheet(
        pictures.flatten(0, 1), columns=pictures.shape[1], captions=words * len(images)
    )


@torch.no_grad()
def gap_rows(
    net: Pdae, images: Float[Tensor, "n 3 size size"], points: int, seed: int = 0
) -> list[Row]:
    """The mean gap of the posterior mean at timesteps over all of the chain, and its errors."""
    codes, rows = net.codes(images).float(), []
    first, steps = net.denoiser.first_timestep, net.denoiser.num_timesteps
    for position in respaced_timesteps(steps, str(points)):
        noise = start_noise(net, seed + 1 + position, range(len(images)))
        row: dict[str, int | float] = {"timestep": position + first}
        for name, code in ((WITHOUT, None), (WITH, codes)):
            gap = one_step(net, images, code, position + first, noise)[1].double()
            row[name] = gap.mean().item()
            error = gap.std().item() / len(gap) ** 0.5 if len(gap) > 1 else 0.0
            row[f"{name}_error"] = error
        rows.append(row)
    return rows


def read_gap(path: Path) -> list[Row]:
    """Another run's `denoise_gap.csv`."""
    try:
        with path.open(newline="") as file:
            rows = [
                {"timestep": int(row["timestep"])} | {k: float(row[k]) for k in (WITHOUT, WITH)}
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, ValueError, TypeError):
        rows = []
    if not rows:
        raise UserError(
            f"report.denoise.beside={path} is no denoise_gap.csv: make one with evaluate.py "
            "ckpt_path=…/last.ckpt report=denoise"
        )
    return rows


@styled()
def draw_gaps(runs: Mapping[str, Sequence[Row]]) -> "matplotlib.figure.Figure":
    """The gap over timesteps: of each run with its code in full, without in dots."""
    figure = new_figure(6.6, 3.2)
    axes = figure.subplots()
    for number, (name, rows) in enumerate(runs.items()):
        t, colour = [row["timestep"] for row in rows], LINES[number % len(LINES)]
        axes.plot(t, [row[WITHOUT] for row in rows], ":", color=colour, label=f"{name}, without")
        axes.plot(t, [row[WITH] for row in rows], color=colour, label=f"{name}, with its code")
    if any(row[name] > 0 for rows in runs.values() for row in rows for name in (WITHOUT, WITH)):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")  # the style reads no powers of ten as such
    axes.set(xlabel="timestep", title="posterior mean: squared distance from the true one")
    axes.grid(axis="y")
    axes.legend(fontsize="small")
    return figure
