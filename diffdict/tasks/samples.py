"""`task=samples`: pictures drawn from noise, into shards that one can stop, resume and share out.

Sample i owns its noise: it is the same picture in any batch, on any rank, in any run (to float
tolerance). A shard is a fixed range of samples; it appears whole or not at all, so what exists is
finished. `samples.json` says what the folder holds, and nothing else is ever mixed into it.

With a labeller each picture has a mask and an uncertainty beside it: a synthetic labelled set.
"""

import inspect
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int, Integer, UInt8
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from diffdict import files
from diffdict.backbones.base import Backbone
from diffdict.data.pictures import palette
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import check_eta, own_noise
from diffdict.diffusion.schedules import respace
from diffdict.errors import UserError
from diffdict.reports.drawing.sheet import contact_sheet
from diffdict.tasks.labeller import Labeller

SHEET = 32  # samples on the contact sheet


class Sample(NamedTuple):
    """What is stored of one; the last two with a labeller only."""

    picture: UInt8[np.ndarray, "size size 3"]
    mask: Integer[np.ndarray, "size size"] | None = None
    uncertainty: np.float32 | None = None


class Shards:
    """Samples 0 … number-1 cut into ranges of one size; the last may be shorter."""

    def __init__(self, number: int, size: int) -> None:
        if number < 1 or size < 1:
            raise UserError(
                f"Samples come one or more at a time: data.number={number} data.shard_size={size}"
            )
        self.number, self.size = number, size
        self.ranges = [range(at, min(at + size, number)) for at in range(0, number, size)]

    def of(self, index: int) -> range:
        """The range that a sample lies in."""
        return self.ranges[index // self.size]


class IndexLoader:
    """Batches of sample indices; no torch DataLoader, for Lightning re-deals those."""

    def __init__(self, batches: list[range]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Int[Tensor, " batch"]]:
        return (torch.tensor(batch, dtype=torch.int64) for batch in self.batches)


class SampleIndices(pl.LightningDataModule):
    """Which samples this rank draws: every world-th shard, without those that are finished."""

    def __init__(self, number: int, shard_size: int = 256, batch_size: int = 64) -> None:
        """A batch never crosses a shard."""
        super().__init__()
        if batch_size < 1:
            raise UserError(f"data.batch_size must be at least 1, got {batch_size}")
        self.shards, self.batch_size = Shards(number, shard_size), batch_size

    @property
    def facts(self) -> dict[str, int]:
        """What the task's constructor is told."""
        return {"number": self.shards.number, "shard_size": self.shards.size}

    def predict_dataloader(self) -> IndexLoader:
        """This rank's batches; an empty one where none is left, for all ranks come to the end."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        mine = self.shards.ranges[rank::world]
        missing = [r for r in mine if not self.trainer.lightning_module.done(r)]
        size = self.batch_size
        batches = [r[at : at + size] for r in missing for at in range(0, len(r), size)]
        return IndexLoader(batches or [range(0)])


class Samples(pl.LightningModule):
    """Draws the samples whose shards are missing, with a frozen diffusion network."""

    def __init__(
        self,
        net: Backbone,
        sampler: partial,
        objective: Objective,
        folder: str | None,
        number: int,
        shard_size: int,
        seed: int = 0,
        label: int | None = None,
        format: str = "npz",
        labeller: Callable[[Backbone], Labeller] | None = None,
        root: str = "samples",
        dataset_name: str = "",
    ) -> None:
        """`label`: of a class-conditional network; None goes through its classes in turn.

        `folder`: None is the network's name in `root`, or with a labeller the dataset's and _ddpm.
        """
        super().__init__()
        _check(net, sampler, format, label, labeller is not None)
        respace(net.schedule, sampler.keywords.get("respacing", ""))
        check_eta(sampler.keywords.get("eta", 0))
        self.net = net.requires_grad_(False).eval()
        self.labeller = None if labeller is None else labeller(net)
        if self.labeller is not None and self.labeller.image_size != net.image_size:
            side = self.labeller.image_size
            raise UserError(
                f"The labeller learned from pictures of {side}×{side}, {net.name} draws "
                f"{net.image_size}×{net.image_size}: learn one with "
                f"dataset.image_size={net.image_size}"
            )
        self.sampler, self.objective, self.seed, self.label = sampler, objective, seed, label
        name = net.name if labeller is None else f"{dataset_name}_ddpm"
        self.folder, self.format = Path(folder or f"{root}/{name}"), format
        self.shards = Shards(number, shard_size)
        self.unfinished: dict[int, Sample] = {}
        self.stepped: Callable[[int], object] = lambda samples: None  # told of every step

    def setup(self, stage: str) -> None:
        """Every rank looks whether the folder is free or ours, then the first one marks it."""
        files.writable_folder(self.folder)
        wanted, path = self.identity(), self.folder / "samples.json"
        if path.exists() and (kept := json.loads(path.read_text())) != wanted:
            other = next(key for key in {**wanted, **kept} if wanted.get(key) != kept.get(key))
            raise UserError(
                f"{self.folder} holds other samples: their {other} is {kept.get(other)}, and now "
                f"{wanted.get(other)} is asked for. Choose another folder, or delete that one."
            )
        size = (3 if self.labeller is None else 4) * self.net.image_size**2
        missing = sum(len(r) for r in self.shards.ranges if not self.done(r))
        files.require_space(self.folder, missing * size, "the samples")
        self.trainer.strategy.barrier("samples looked")
        if self.trainer.is_global_zero:
            if self.labeller is not None:
                named = {"classes": self.class_names, "ignore_label": self.labeller.ignore_label}
                files.write_atomic(self.folder / "classes.json", json.dumps(named).encode())
            files.write_atomic(path, json.dumps(wanted, indent=1).encode())
            self._say("plan", missing=missing, **wanted)

    def identity(self) -> dict[str, object]:
        """All that changes a pixel, and how the pixels are cut into files."""
        keywords = {key: str(value) for key, value in sorted(self.sampler.keywords.items())}
        return {
            "backbone": self.net.name,
            "sha256": self.net.sha256,
            "sampler": self.sampler.func.__name__,
            **keywords,
            "objective": str(self.objective),
            "precision": str(self.trainer.precision),
            "seed": self.seed,
            "label": self.label,
            "number": self.shards.number,
            "shard_size": self.shards.size,
            "format": self.format,
            **({} if self.labeller is None else self.labeller.identity),
        }

    def paths(self, samples: range) -> list[Path]:
        """The files of a shard: one .npz, or a .png for each sample."""
        if self.format == "npz":
            return [self.folder / f"samples_{samples.start:06d}-{samples.stop - 1:06d}.npz"]
        return [self.folder / f"{index:06d}.png" for index in samples]

    def done(self, samples: range) -> bool:
        """Whether the shard is finished."""
        return all(path.exists() for path in self.paths(samples))

    def predict_step(self, batch: Int[Tensor, " batch"], batch_idx: int) -> dict[str, Tensor]:
        """One batch of samples; a shard is written as soon as it is complete."""
        if not len(batch):
            return {}
        indices, images = batch.tolist(), self.draw(batch)
        self._check_numbers(indices, images)
        made, parts = {"image": images}, [as_bytes(images)]
        if self.labeller is not None:
            found = self.labeller(images.float().clamp(-1, 1), indices)
            made["mask"] = found.masks
            parts += [as_labels(found.masks, self.class_names), found.scores.cpu().numpy()]
        for index, *own in zip(indices, *parts, strict=True):
            self.unfinished[index] = Sample(*own)
        samples = self.shards.of(indices[0])
        if all(index in self.unfinished for index in samples):
            self._write(samples, [self.unfinished.pop(index) for index in samples])
        return made

    @property
    def class_names(self) -> list[str]:
        """Those of the labeller."""
        return self.labeller.segmenter.class_names

    def _check_numbers(self, indices: list[int], images: Float[Tensor, "batch _ _ _"]) -> None:
        """Stops where the sampler left the numbers; nothing of that shard is written."""
        good = images.isfinite().flatten(1).all(1).tolist()
        if not all(good):
            bad = [index for index, fine in zip(indices, good, strict=True) if not fine]
            raise UserError(
                f"{self.sampler.func.__name__} ended in what is no number for sample "
                f"{', '.join(map(str, bad[:4]))}{' …' if len(bad) > 4 else ''} (precision "
                f"{self.trainer.precision}): trainer.precision=32-true, or check the weights of "
                f"{self.net.name}. Finished shards are kept"
            )

    def draw(self, indices: Int[Tensor, " batch"]) -> Float[Tensor, "batch 3 size size"]:
        """These samples, each from its own noise."""
        noise = own_noise(self.seed, indices.tolist(), (3, *[self.net.image_size] * 2))
        chain = respace(self.net.schedule, self.sampler.keywords.get("respacing", ""))
        start = noise(chain.steps).to(indices.device)
        labels = () if self.net.label_emb is None else (self.labels(indices),)
        return self.sampler(
            lambda x, t: self.net(x, t, *labels),
            start,
            self.net.schedule,
            objective=self.objective,
            noise=noise,
            on_step=lambda *_: self.stepped(len(indices)),
        ).x

    def labels(self, indices: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """The class of each sample."""
        if self.label is not None:
            return torch.full_like(indices, self.label)
        return indices % self.net.label_emb.num_embeddings

    def _write(self, samples: range, made: list[Sample]) -> None:
        paths, pictures = self.paths(samples), np.stack([one.picture for one in made])
        if self.format == "png":
            for path, picture in zip(paths, pictures, strict=True):
                files.write_atomic(path, partial(Image.fromarray(picture).save, format="PNG"))
            return
        arrays = {"arr_0": pictures}
        if self.labeller is not None:  # no more than these: others tell the forms by their number
            arrays["arr_1"] = np.stack([one.mask for one in made])
            arrays["arr_2"] = np.stack([one.uncertainty for one in made])
        else:
            arrays["index"] = np.arange(samples.start, samples.stop)
            if self.net.label_emb is not None:
                arrays["label"] = self.labels(torch.tensor(list(samples))).numpy()
        files.write_atomic(paths[0], lambda stream: np.savez(stream, **arrays))

    def on_predict_end(self) -> None:
        """The first samples on one sheet, and where everything lies."""
        self.trainer.strategy.barrier("samples drawn")
        if not self.trainer.is_global_zero or not self.done(self.shards.ranges[0]):
            return
        sheet, path = self._sheet(), self.folder / "sheet.png"
        files.write_atomic(path, lambda stream: sheet.save(stream, format="PNG"))
        whole = sum(len(r) for r in self.shards.ranges if self.done(r))
        self._say("samples", finished=f"{whole} of {self.shards.number}", sheet=path)

    def _sheet(self) -> Image.Image:
        """The first samples, with their masks where there are some."""
        pictures, masks = self._first()
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        if masks is None:
            return contact_sheet(images)
        names = self.class_names
        return contact_sheet(
            images, torch.from_numpy(masks).long(), palette(len(names)), class_names=names
        )

    def _first(self) -> tuple[UInt8[np.ndarray, "n size size 3"], np.ndarray | None]:
        paths = self.paths(self.shards.ranges[0])
        if self.format == "npz":
            with np.load(paths[0]) as arrays:
                masks = arrays["arr_1"][:SHEET] if "arr_1" in arrays else None
                return arrays["arr_0"][:SHEET], masks
        return np.stack([np.asarray(Image.open(path)) for path in paths[:SHEET]]), None

    def _say(self, title: str, **rows: object) -> None:
        table = Table(title=title, show_header=False, box=None, title_justify="left")
        for name, value in {**rows, "folder": self.folder}.items():
            table.add_row(name, Text(str(value), overflow="fold"))
        Console(soft_wrap=True).print(table)


def as_bytes(images: Float[Tensor, "n 3 size size"]) -> UInt8[np.ndarray, "n size size 3"]:
    """Pictures in [-1, 1] as bytes, channels last."""
    pixels = (images.float().clamp(-1, 1) + 1) * 127.5
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def as_labels(
    masks: Int[Tensor, "n size size"], class_names: list[str]
) -> Integer[np.ndarray, "n size size"]:
    """Masks in as few bytes as they need."""
    return masks.cpu().numpy().astype(np.uint8 if len(class_names) <= 256 else np.int32)


def _check(net: Backbone, sampler: partial, format: str, label: int | None, labelled: bool) -> None:
    """What can draw what."""
    if net.num_timesteps is None:
        raise UserError(f"{net.name} is no diffusion network: samples need one, as toy_ddpm is")
    if "noise" not in inspect.signature(sampler).parameters:
        raise UserError(
            f"{sampler.func.__name__} starts from pictures, samples start from noise: "
            "sampler=ddim or sampler=ddpm"
        )
    if format not in ("npz", "png") or (labelled and format == "png"):
        kinds = "npz" if labelled else "npz or png"
        raise UserError(f"Samples{' with labels' * labelled} are stored as {kinds}, not {format!r}")
    if label is not None and net.label_emb is None:
        raise UserError(f"{net.name} knows no classes, got label={label}: leave it out")
