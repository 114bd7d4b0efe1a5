"""`task=invert`: pictures into the noise that a network draws them from, and back, in shards.

Deterministic DDIM inversion. A picture's noise has the same bits in any shards and on any rank.
`noise.json` says what made the folder; `task=samples start=FOLDER` draws from it.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from diffdict import files
from diffdict.backbones.autoencoders.pdae_denoiser import Drawing, drawing_network
from diffdict.backbones.base import Backbone
from diffdict.backbones.denoiser import Denoiser, Given, check_denoiser
from diffdict.backbones.pdae import Pdae
from diffdict.conditions.base import MakesVectors
from diffdict.data.base import Pictures
from diffdict.data.sample_indices import Shards, check_batch_size
from diffdict.diffusion.chains.inversion import RoundTrip, picture_error, round_trip, steps_one_way
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim_invert
from diffdict.diffusion.schedules import Schedule, respace
from diffdict.errors import UserError
from diffdict.features.extraction.pictures import PictureLoader
from diffdict.reports.drawing.colours import as_bytes
from diffdict.results.inputs.stored_noise import RECORD, shard_name
from diffdict.tasks.sampling.sample_folder import SampleFolder, check_finite


class Inverted(NamedTuple):
    """One picture and what became of it."""

    name: str
    noise: Float[Tensor, "3 size size"]
    label: int | None  # the class that the network was told
    picture: Float[Tensor, "3 size size"]  # compared, not stored
    back: Float[Tensor, "3 size size"] | None


class PictureBatches(Dataset):
    """Batches of one shape, the last picture repeated where one is short.

    What a network says of a picture may depend on how many are beside it, in the last bits.
    """

    def __init__(self, pictures: Pictures, batches: list[range], width: int) -> None:
        self.pictures, self.batches, self.width = pictures, batches, width

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> dict:
        index = list(self.batches[i])
        if not index:
            return {"index": torch.tensor([], dtype=torch.int64)}
        samples = [self.pictures[one] for one in index]
        samples += samples[-1:] * (self.width - len(samples))
        batch = {
            key: torch.stack([torch.as_tensor(one[key]) for one in samples])
            for key in ("image", "label", "mask")
            if key in samples[0]
        }
        names = [self.pictures.picture_name(one) for one in index]
        return {**batch, "index": torch.tensor(index), "name": names}


class BatchLoader(PictureLoader):
    """The batches in order, and which they are."""

    @property
    def batches(self) -> list[range]:
        """The pictures of each."""
        return self.chunks.batches


class PicturesToInvert(pl.LightningDataModule):
    """The pictures of one split: every world-th shard, without those that are finished."""

    def __init__(
        self,
        dataset: Callable[..., Pictures],
        split: str | Sequence[str] = "test",
        shard_size: int = 64,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        """A batch never crosses a shard."""
        super().__init__()
        check_batch_size(batch_size)
        if shard_size < 1:
            raise UserError(f"data.shard_size must be at least 1, got {shard_size}")
        splits = [split] if isinstance(split, str) else list(split)
        if len(splits) != 1:
            raise UserError(
                f"task=invert takes the pictures of one split, got {splits}: split=test, or "
                "-m split=train,test"
            )
        self.pictures = dataset(split=splits[0])
        if not len(self.pictures):
            raise UserError(
                f"{self.pictures.name} has no pictures in split {splits[0]}: another split="
            )
        self.shards = Shards(len(self.pictures), shard_size)
        self.batch_size, self.num_workers = batch_size, num_workers

    @property
    def facts(self) -> dict[str, object]:
        """What the task's constructor is told."""
        pictures = self.pictures
        return {
            "number": self.shards.number,
            "shard_size": self.shards.size,
            "dataset": pictures.name,
            "split": pictures.split,
            "fingerprint": pictures.fingerprint,
            "picture_size": pictures.image_size,
            "have_classes": "label" in pictures[0],
        }

    def predict_dataloader(self) -> BatchLoader:
        """This rank's batches; an empty one where none is left, for all ranks come to the end."""
        return self.loader(self.trainer.lightning_module.done)

    def loader(self, done: Callable[[range], bool]) -> BatchLoader:
        """The batches of this rank's shards that are not done."""
        warnings.filterwarnings("ignore", "Total length of")
        rank, world = self.trainer.global_rank, self.trainer.world_size
        batches = self.shards.batches(rank, world, done, self.batch_size)
        width = min(self.batch_size, self.shards.number)
        return BatchLoader(
            PictureBatches(self.pictures, batches or [range(0)], width), self.num_workers
        )


class PicturesToMeasure(PicturesToInvert):
    """The same for a test, which keeps nothing: no shard is ever done."""

    def test_dataloader(self) -> BatchLoader:
        """This rank's batches; an empty one where there is none, for all ranks come to the end."""
        return self.loader(lambda _: False)


class Invert(pl.LightningModule):
    """Inverts the pictures whose shards are missing, with a frozen diffusion network."""

    def __init__(
        self,
        net: Backbone,
        sampler: partial,
        objective: Objective,
        folder: str | None,
        number: int,
        shard_size: int,
        dataset: str,
        split: str,
        fingerprint: str,
        picture_size: int,
        have_classes: bool = False,
        label: int | None = None,
        back: bool = True,
        masked: bool = True,
        root: str = "noise",
    ) -> None:
        """`label`: the class of all pictures; None takes their own, where the network asks.

        `back`: whether the way back is taken too, for its error. `folder`: None is in `root`.
        `masked`: a code with parts, of a PDAE, is told as in training. Each picture has its own.
        """
        super().__init__()
        drawing = inverting_network(net, sampler, objective, masked)
        self.net, objective = drawing.net.requires_grad_(False).eval(), drawing.objective
        self.code_facts = dict(drawing.facts)
        _check(self.net, sampler, picture_size, dataset)
        _check_label(self.net, label, have_classes, dataset)
        self.options = {
            "respacing": sampler.keywords.get("respacing", ""),
            "clip_denoised": sampler.keywords.get("clip_denoised", False),
        }
        self.one_way = steps_one_way(self.net.process, self.options["respacing"])
        self.steps = self.one_way * (1 + back)
        self.objective, self.label, self.back = objective, label, back
        self.facts = {"dataset": dataset, "split": split, "fingerprint": fingerprint}
        self.folder = Path(folder or f"{root}/{dataset}/{net.name}/{split}")
        self.shards = Shards(number, shard_size)
        self.stored = SampleFolder(
            self.folder, self.shards, RECORD, lambda pictures: [shard_name(pictures)]
        )
        self.missing = number  # pictures that this run inverts, on all ranks together
        self.stepped: Callable[[int], object] = lambda pictures: None  # told of every step

    def setup(self, stage: str) -> None:
        """Every rank looks whether the folder is free or ours, then the first one marks it."""
        identity, size = self.identity(), self.net.image_size
        self.stored.check(identity, (12 + 3 * self.back) * size**2)
        self.missing = self.stored.missing
        self.trainer.strategy.barrier("noise looked")
        if self.trainer.is_global_zero:
            self.stored.claim(identity)

    def identity(self) -> dict[str, object]:
        """All that changes a number, and how the pictures are cut into files."""
        chain = respace(self.net.process, self.options["respacing"])
        return {
            "backbone": self.net.name,
            "sha256": self.net.sha256,
            **self.facts,
            **self.code_facts,
            "sampler": ddim_invert.__name__,
            "respacing": str(self.options["respacing"]),
            "clip_denoised": self.options["clip_denoised"],
            "steps": self.one_way,
            "timestep": int(chain.timesteps[-1]),
            "objective": str(self.objective),
            "precision": str(self.trainer.precision),
            "label": self.label,
            "classes": self.net.condition.classes,
            "back": self.back,
            "image_size": self.net.image_size,
            "number": self.shards.number,
            "shard_size": self.shards.size,
        }

    def done(self, pictures: range) -> bool:
        """Whether the shard is finished."""
        return self.stored.done(pictures)

    def extracted(self) -> list[dict[str, str | int]]:
        """How many pictures' noise lies in finished shards, and where."""
        return self.stored.extracted()

    def predict_step(self, batch: dict, batch_idx: int = 0) -> RoundTrip | None:
        """One batch of pictures; a shard is written as soon as it is complete."""
        indices = batch["index"].tolist()
        if not indices:
            return None
        labels, count = self.labels(batch), len(indices)
        trip = self.invert(batch["image"], labels, count)
        noise = trip.noise[:count].float().cpu()
        back = None if trip.back is None else trip.back[:count].float().cpu()
        for end, maker in ((noise, "ddim_invert"), (back, "ddim")):
            if end is not None:
                check_finite(end, batch["name"], maker, self.trainer)
        absent = [None] * count
        columns = (
            batch["name"],
            noise,
            absent if labels is None else labels[:count].tolist(),
            batch["image"][:count].cpu(),
            absent if back is None else back,
        )
        inversions = [Inverted(*row) for row in zip(*columns, strict=True)]
        if (shard := self.stored.complete(indices, inversions)) is not None:
            self._write(self.shards.of(indices[0]), shard)
        return RoundTrip(noise, back)

    def invert(
        self,
        images: Float[Tensor, "batch 3 size size"],
        labels: Int[Tensor, " batch"] | None,
        count: int,
    ) -> RoundTrip:
        """Both ways, or the one up; `count` of the pictures are told to the bar."""
        codes = self.net.vectors(images) if isinstance(self.net, MakesVectors) else None
        given = Given(label=labels, vector=codes)
        return round_trip(
            lambda x, t: self.net(x, t, given),
            images,
            self.net.process,
            objective=self.objective,
            back=self.back,
            on_step=lambda *_: self.stepped(count),
            **self.options,
        )

    def labels(self, batch: dict) -> Int[Tensor, " batch"] | None:
        """The class of each picture; None where the network knows none."""
        classes, images = self.net.condition.classes, batch["image"]
        if classes is None:
            return None
        if self.label is not None:
            return torch.full((len(images),), self.label, device=images.device)
        labels = batch["label"].to(torch.int64)
        pairs = zip(batch["name"], labels.tolist(), strict=False)  # the repeated have no name
        if wrong := [pair for pair in pairs if not 0 <= pair[1] < classes]:
            name, label = wrong[0]
            raise UserError(
                f"{name} is of class {label}, {self.net.name} knows 0 to {classes - 1}: "
                "model.label= says one for all"
            )
        return labels

    def _write(self, pictures: range, shard: list[Inverted]) -> None:
        """One shard: noise, whose it is, its deviation (1: standard normal), and the errors."""
        noise = torch.stack([one.noise for one in shard])
        arrays = {
            "noise": noise.numpy(),
            "index": np.arange(pictures.start, pictures.stop),
            "name": np.array([one.name for one in shard]),
            "deviation": noise.flatten(1).square().mean(1).sqrt().numpy(),
        }
        if shard[0].label is not None:
            arrays["label"] = np.array([one.label for one in shard], dtype=np.int64)
        if self.back:
            pictures_back = torch.stack([one.back for one in shard])
            arrays |= _errors(torch.stack([one.picture for one in shard]), pictures_back)
        path = self.stored.paths(pictures)[0]
        files.write_atomic(path, lambda stream: np.savez(stream, **arrays))


def inverting_network(
    net: Backbone, sampler: partial, objective: Objective, masked: bool
) -> Drawing:
    """What says the noise: of a PDAE both halves, told each picture's code; else the network."""
    purpose = "pictures are inverted by one"
    if isinstance(net, Pdae):
        return drawing_network(net, sampler, objective, purpose, masked)
    return Drawing(check_denoiser(net, purpose), objective)


def _errors(
    pictures: Float[Tensor, "n 3 size size"], back: Float[Tensor, "n 3 size size"]
) -> dict[str, np.ndarray]:
    """The pictures back in bytes, their error, and what that is to be read beside.

    `rounding`: by how much the bytes are off the picture back; `other`: how far a picture is from
    what the next one's noise became.
    """
    images = as_bytes(back)
    stored = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    error = picture_error(back, pictures)
    floors = {"rounding": picture_error(back.clamp(-1, 1), stored).rmse}
    if len(pictures) > 1:
        floors["other"] = picture_error(back.roll(-1, 0), pictures).rmse
    else:
        floors["other"] = torch.full_like(error.rmse, float("nan"))
    errors = {"rmse": error.rmse, "largest": error.largest, **floors}
    return {"images": images} | {key: value.float().numpy() for key, value in errors.items()}


def _check(net: Denoiser, sampler: partial, picture_size: int, dataset: str) -> None:
    """What inverts what."""
    if sampler.func is not ddim_invert:
        raise UserError(
            f"{sampler.func.__name__} starts from noise, task=invert starts from pictures: "
            "sampler=ddim_invert, or task=samples"
        )
    if not isinstance(net.process, Schedule):
        raise UserError(
            f"ddim_invert goes along a chain of timesteps, and {net.name} was trained along "
            "another process: choose a backbone of a chain (backbone.framework=ddpm)"
        )
    if picture_size != net.image_size:
        raise UserError(
            f"{net.name} draws {net.image_size}×{net.image_size}, the pictures of {dataset} are "
            f"{picture_size}×{picture_size}: dataset.image_size={net.image_size}"
        )


def _check_label(net: Denoiser, label: int | None, have_classes: bool, dataset: str) -> None:
    """A class for each picture, where the network is told one."""
    classes = net.condition.classes
    if classes is None:
        if label is not None:
            raise UserError(f"{net.name} knows no classes, got label={label}: leave it out")
        return
    if label is None and not have_classes:
        raise UserError(
            f"{net.name} is told the class of each picture, and those of {dataset} have none: "
            "model.label=0 says one for all, or take a set with classes (dataset=npz)"
        )
    if label is not None and not 0 <= label < classes:
        raise UserError(f"{net.name} knows the classes 0 to {classes - 1}, got label={label}")
