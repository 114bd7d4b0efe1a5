"""`task=samples`: pictures drawn from noise, into shards that one can stop, resume and share out.

Sample i owns its noise: it is the same picture in any batch, on any rank, in any run (to float
tolerance). `samples.json` says what the folder holds.

With a labeller each picture has a mask and an uncertainty beside it: a synthetic labelled set.
"""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int, Integer, UInt8
from PIL import Image
from torch import Tensor, nn

from diffdict import files
from diffdict.backbones.autoencoders.pdae_denoiser import PdaeDenoiser, drawing_network
from diffdict.backbones.base import Backbone
from diffdict.backbones.denoiser import Denoiser, Given
from diffdict.backbones.pdae import Pdae
from diffdict.conditions.base import (
    ConditionRows,
    ConditionSource,
    MakesVectors,
    check_condition,
    check_unconditioned,
)
from diffdict.conditions.sources.condition_sheet import condition_sheet
from diffdict.conditions.sources.rows_file import CONDITIONS, read_rows, write_rows
from diffdict.data.archives.sampled import RECORD, shard_files
from diffdict.data.pictures import palette
from diffdict.data.sample_indices import SampleIndices, Shards
from diffdict.diffusion.chains.inversion import PICTURE_LEVEL
from diffdict.diffusion.guidance import check_guidance, guided
from diffdict.diffusion.objectives import Net, Objective
from diffdict.diffusion.samplers import length, own_noise
from diffdict.diffusion.schedules import respace
from diffdict.errors import UserError
from diffdict.reports.drawing.colours import as_bytes
from diffdict.reports.drawing.contact_sheet import contact_sheet
from diffdict.results.inputs.stored_noise import StoredNoise
from diffdict.results.tables import as_csv
from diffdict.tasks.labeller import Labeller
from diffdict.tasks.sampling.sample_folder import (
    SampleFolder,
    check_clipping,
    check_finite,
    check_noise_start,
    say,
)

__all__ = ["SampleIndices", "Samples"]  # the first under the name that configs of 0.1 hold

SHEET = 32  # samples on the contact sheet


class Sample(NamedTuple):
    """What is stored of one; the last two with a labeller only."""

    picture: UInt8[np.ndarray, "size size 3"]
    mask: Integer[np.ndarray, "size size"] | None = None
    uncertainty: np.float32 | None = None


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
        start: str | None = None,
        condition: ConditionSource | None = None,
        representation: MakesVectors | None = None,
        masked: bool = True,
        guidance: float | int = 1.0,
    ) -> None:
        """`label`: of a class-conditional network; None goes through its classes in turn.

        `folder`: None is the network's name in `root`, or with a labeller the dataset's and _ddpm.
        `start`: a folder of inverted pictures: its noise, and its labels where none is said.
        `condition`: a vector for each sample; `representation` makes those of pictures, where the
        network does not do it itself. `masked`: a code with parts is told as in training.
        `guidance`: beyond 1 further towards the vector than the network itself goes.
        """
        super().__init__()
        _check_format(format, labeller is not None)
        drawing = drawing_network(net, sampler, objective, "samples are drawn by one", masked)
        net, objective = drawing.net, drawing.objective
        _check(net, sampler, label)
        self.steps = length(sampler, net.process)
        self.start = None if start is None else _stored_noise(start, net, sampler, number)
        # the way back ends where the pictures began
        stop = drawing.stop if start is None else PICTURE_LEVEL
        self.end = {} if stop is None else {"stop": stop}
        self.steps -= 0 if stop is None else stop + 1
        self.net, self.drawing_facts = net.requires_grad_(False).eval(), drawing.facts
        self.condition = condition
        self.maker = representation or (net if isinstance(net, MakesVectors) else None)
        self.rows: ConditionRows | None = None
        if condition is None:
            check_unconditioned(net)
        else:
            check_condition(net, self.maker)
        check_guidance(guidance, net.drop if condition else None, net.name)
        self.guidance = guidance
        self.labeller = None if labeller is None else labeller(net)
        if self.labeller is not None:
            _check_side(self.labeller, net)
        self.sampler, self.objective, self.seed, self.label = sampler, objective, seed, label
        name = net.name if labeller is None else f"{dataset_name}_ddpm"
        if self.start is not None:
            name += f"_{self.start.facts['dataset']}_{self.start.facts['split']}"
        self.folder, self.format = Path(folder or f"{root}/{name}"), format
        self.shards = Shards(number, shard_size)
        self.stored = SampleFolder(self.folder, self.shards, RECORD, self._files)
        self.stepped: Callable[[int], object] = lambda samples: None  # told of every step

    def setup(self, stage: str) -> None:
        """Every rank looks whether the folder is free or ours, then the first one marks it."""
        identity = self.identity()
        self.stored.check(identity, (3 if self.labeller is None else 4) * self.net.image_size**2)
        self.trainer.strategy.barrier("samples looked")
        if self.trainer.is_global_zero:
            rows = self._new_rows()  # what cannot be made leaves no mark
            if self.labeller is not None:
                classes = {"classes": self.class_names, "ignore_label": self.labeller.ignore_label}
                files.write_atomic(self.folder / "classes.json", files.json_text(classes).encode())
            self.stored.claim(identity)
            if rows is not None:
                for name, table in self.condition.tables().items():
                    files.write_atomic(self.folder / f"{name}.csv", as_csv(table).encode())
                write_rows(self.folder, rows)
        if self.condition is not None:
            self.trainer.strategy.barrier("vectors made")
            self.rows = read_rows(self.folder)

    def _new_rows(self) -> ConditionRows | None:
        """Vectors, made once by the first rank and read by all; None where they are there."""
        if self.condition is None or (self.folder / CONDITIONS).exists():
            return None
        device = self.trainer.strategy.root_device
        for one in (self.net, self.maker):
            if isinstance(one, nn.Module):
                one.to(device)
        try:
            return self.condition.rows(
                self.maker, self.net.condition.width, self.shards.number, device
            )
        except UserError:
            self.stored.discard()
            raise

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
            **({} if self.start is None else {"start": self.start.fingerprint}),
            **self.drawing_facts,
            **({} if self.condition is None else self.condition.facts(self.maker)),
            **({} if self.guidance == 1 else {"guidance": self.guidance}),
        }

    def _files(self, samples: range) -> list[str]:
        """Those of a shard: one .npz, or a .png for each sample."""
        return shard_files(samples, self.format)

    def done(self, samples: range) -> bool:
        """Whether the shard is finished."""
        return self.stored.done(samples)

    def predict_step(self, batch: Int[Tensor, " batch"], batch_idx: int) -> dict[str, Tensor]:
        """One batch of samples; a shard is written as soon as it is complete."""
        if not len(batch):
            return {}
        indices, images = batch.tolist(), self.draw(batch)
        check_finite(images, indices, self.sampler.func.__name__, self.trainer)
        outputs, parts = {"image": images}, [as_bytes(images)]
        if self.labeller is not None:
            labels = self.labeller(images.float().clamp(-1, 1), indices)
            outputs["mask"] = labels.masks
            parts += [as_labels(labels.masks, self.class_names), labels.scores.cpu().numpy()]
        samples = [Sample(*row) for row in zip(*parts, strict=True)]
        if (shard := self.stored.complete(indices, samples)) is not None:
            self._write(self.shards.of(indices[0]), shard)
        return outputs

    @property
    def class_names(self) -> list[str]:
        """Those of the labeller."""
        return self.labeller.segmenter.class_names

    def draw(self, indices: Int[Tensor, " batch"]) -> Float[Tensor, "batch 3 size size"]:
        """These samples, each from its own noise: stored, or drawn by its index."""
        places = indices.tolist()
        shape = self.net.noise_shape((3, *[self.net.image_size] * 2))
        starts, steps = (places, places) if self.rows is None else self.rows.noise_of(places)
        if self.start is not None:
            start = self.start.noise(places).to(indices.device)
        else:
            first = own_noise(self.seed, starts, shape)(self.steps)
            start = self.net.process.start(first.to(indices.device))
        chain = self.sampler(
            self._told(indices),
            start,
            self.net.process,
            objective=self.objective,
            noise=own_noise(self.seed, steps, shape),
            **self.end,
            on_step=lambda *_: self.stepped(len(indices)),
        )
        return self.net.pictures(chain.x)

    def _told(self, indices: Int[Tensor, " batch"]) -> Net:
        """The network, told the labels and vectors of these samples."""
        given = Given(label=self.labels(indices))
        if self.rows is None:
            return lambda x, t: self.net(x, t, given)
        vectors = self.rows.vectors[indices.cpu()].to(indices.device)
        respacing = self.sampler.keywords.get("respacing", "")
        last = self.end.get("stop", -1) + int(self.condition.undirected * self.steps)
        bare = {int(t) for t in respace(self.net.process, respacing).timesteps[: last + 1]}
        directed = guided(self.net, given._replace(vector=vectors), self.guidance)
        return lambda x, t: self.net(x, t, given) if int(t[0]) in bare else directed(x, t)

    def pdae(self) -> Pdae:
        """The network behind sheets of codes, where it is one that is told them."""
        if not isinstance(self.net, PdaeDenoiser):
            raise UserError(
                f"{self.net.name} is told no code, and this report shows what one holds: "
                "backbone=pdae"
            )
        return self.net.pdae

    def labels(self, indices: Int[Tensor, " batch"]) -> Int[Tensor, " batch"] | None:
        """The class of each sample; None where the network knows none."""
        classes = self.net.condition.classes
        if classes is None:
            return None
        if self.label is not None:
            return torch.full_like(indices, self.label)
        if self.start is not None:
            return self.start.labels(indices.tolist()).to(indices.device)
        return indices % classes

    def _write(self, samples: range, shard: list[Sample]) -> None:
        paths, pictures = self.stored.paths(samples), np.stack([one.picture for one in shard])
        if self.format == "png":
            for path, picture in zip(paths, pictures, strict=True):
                files.write_atomic(path, partial(Image.fromarray(picture).save, format="PNG"))
            return
        arrays = {"arr_0": pictures}
        if self.labeller is not None:  # no more than these: others tell the forms by their number
            arrays["arr_1"] = np.stack([one.mask for one in shard])
            arrays["arr_2"] = np.stack([one.uncertainty for one in shard])
        else:
            arrays["index"] = np.arange(samples.start, samples.stop)
            if (labels := self.labels(torch.tensor(list(samples)))) is not None:
                arrays["label"] = labels.numpy()
        files.write_atomic(paths[0], lambda stream: np.savez(stream, **arrays))

    def on_predict_end(self) -> None:
        """The first samples on one sheet, and where everything lies."""
        self.trainer.strategy.barrier("samples drawn")
        if not self.trainer.is_global_zero or not self.done(self.shards.ranges[0]):
            return
        sheet, path = self._sheet(), self.folder / "sheet.png"
        files.write_atomic(path, lambda stream: sheet.save(stream, format="PNG"))
        finished = f"{self.stored.finished} of {self.shards.number}"
        say("samples", finished=finished, sheet=path, folder=self.folder)

    def extracted(self) -> list[dict[str, str | int]]:
        """How many samples lie in finished shards, and where."""
        return self.stored.extracted()

    def _sheet(self) -> Image.Image:
        """The first samples, with their masks, or with what they were drawn from."""
        pictures, masks = self._first()
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        if self.rows is not None and masks is None:
            return condition_sheet(images, self.rows)
        if masks is None:
            return contact_sheet(images)
        names = self.class_names
        return contact_sheet(
            images, torch.from_numpy(masks).long(), palette(len(names)), class_names=names
        )

    def _first(self) -> tuple[UInt8[np.ndarray, "n size size 3"], np.ndarray | None]:
        paths = self.stored.paths(self.shards.ranges[0])
        if self.format == "npz":
            with np.load(paths[0]) as arrays:
                masks = arrays["arr_1"][:SHEET] if "arr_1" in arrays else None
                return arrays["arr_0"][:SHEET], masks
        return np.stack([np.asarray(Image.open(path)) for path in paths[:SHEET]]), None


def as_labels(
    masks: Int[Tensor, "n size size"], class_names: list[str]
) -> Integer[np.ndarray, "n size size"]:
    """Masks in as few bytes as they need."""
    return masks.cpu().numpy().astype(np.uint8 if len(class_names) <= 256 else np.int32)


def _stored_noise(path: str, net: Denoiser, sampler: partial, number: int) -> StoredNoise:
    """Noise that this network finds the way back from by this chain."""
    if "stop" not in inspect.signature(sampler).parameters:
        raise UserError(
            f"start={path} is noise that ddim finds the way back from, {sampler.func.__name__} "
            "does not: sampler=ddim"
        )
    start, respacing = StoredNoise(path), sampler.keywords.get("respacing", "")
    start.check_network(net.name, net.sha256, net.image_size)
    first = respace(net.process, respacing).timesteps[-1]
    start.check_timestep(int(first), str(respacing))
    start.check_whole(number)
    return start


def _check_format(format: str, labelled: bool) -> None:
    """How samples are stored: with labels as arrays alone."""
    if format not in ("npz", "png") or (labelled and format == "png"):
        kinds = "npz" if labelled else "npz or png"
        raise UserError(f"Samples{' with labels' * labelled} are stored as {kinds}, not {format!r}")


def _check_side(labeller: Labeller, net: Denoiser) -> None:
    """A labeller knows pictures of one size."""
    if labeller.image_size != net.image_size:
        side = labeller.image_size
        raise UserError(
            f"The labeller learned from pictures of {side}×{side}, {net.name} draws "
            f"{net.image_size}×{net.image_size}: learn one with dataset.image_size={net.image_size}"
        )


def _check(net: Denoiser, sampler: partial, label: int | None) -> None:
    """What can draw what."""
    check_clipping(net, sampler)
    check_noise_start(sampler)
    if label is not None and net.condition.classes is None:
        raise UserError(f"{net.name} knows no classes, got label={label}: leave it out")
    if label is not None and not 0 <= label < net.condition.classes:
        raise UserError(
            f"{net.name} knows the classes 0 to {net.condition.classes - 1}, got label={label}"
        )
