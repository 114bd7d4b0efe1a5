"""`task=steering`: pairs of one picture drawn without and with a dictionary's latents changed.

Both have the same index, start and noise at every step: off is sample i of task=samples. Several
amounts, windows and concepts make several pictures on. `steering.json` says what made the folder.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor, nn

from diffdict import files
from diffdict.backbones.base import Backbone, Block
from diffdict.backbones.denoiser import Given
from diffdict.data.sample_indices import Shards
from diffdict.diffusion.chains.inversion import picture_error, psnr
from diffdict.diffusion.chains.pairs import (
    Branch,
    Pairs,
    draw_pairs,
    level_of,
    redraw_pairs,
    window_level,
)
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import length, own_noise
from diffdict.errors import UserError
from diffdict.reports.drawing.colours import as_bytes
from diffdict.reports.drawing.contact_sheet import contact_sheet
from diffdict.tasks.interventions.chains import check_invertible, check_picture_size
from diffdict.tasks.interventions.judge import Opener
from diffdict.tasks.interventions.region import Region
from diffdict.tasks.interventions.steered_latents import SteeringRequest, open_steered
from diffdict.tasks.sampling.sample_folder import (
    SampleFolder,
    check_clipping,
    check_finite,
    check_noise_start,
    say,
)

RECORD = "steering.json"
LEAST_DB = 25  # of pictures inverted and drawn again
SHEET = 12  # pictures on the contact sheet


class SteeredPair(NamedTuple):
    """One picture as it is, and as each change leaves it."""

    off: UInt8[np.ndarray, "size size 3"]
    on: UInt8[np.ndarray, "changes size size 3"]
    picture: UInt8[np.ndarray, "size size 3"] | None = None  # that was inverted
    rmse: float | None = None  # of off to it


class SteeredPairs(pl.LightningModule):
    """Draws the pairs whose shards are missing, with a frozen network and dictionary."""

    word = "steered"

    def __init__(
        self,
        net: Backbone,
        sampler: partial,
        objective: Objective,
        dictionary: str | list,
        number: int,
        shard_size: int,
        folder: str | None = None,
        *,
        name: str | None = None,
        block: Block | None = None,
        tables: str | list | None = None,
        concept: str | list | None = None,
        latents: list | None = None,
        most: int | None = None,
        how: str = "scale",
        amount: int | float | list = -2.0,
        window: list | None = None,
        where: str | None = None,
        labeller: Opener | None = None,
        seed: int = 0,
        label: int | None = None,
        root: str = "samples",
        level: int | None = None,
    ) -> None:
        """`concept`: classes of the dictionary's test, or `latents` by their numbers.

        Several dictionaries change a block each, together; `latents` and `tables` are then one for
        each. `amount` and `window` may be lists: each is combined with each. `tables`: the test's
        folder.
        `level`: a timestep that pictures are inverted to; None: chains begin with noise.
        `where`: a class of the labeller's, and codes change only where the plain picture shows it.
        """
        super().__init__()
        request = SteeringRequest(concept, latents, most, how, amount, window)
        places = {"name": name, "block": block, "tables": tables}
        self.steered = nn.ModuleList(open_steered(dictionary, net, request, **places))
        self.changes, self.net = self.steered[0].changes, self.steered[0].studied.net
        check_clipping(self.net, sampler)
        if level is None:
            check_noise_start(sampler)
        self.net.requires_grad_(False).eval()
        self.sampler, self.objective = sampler, objective
        self.how, self.seed, self.label = how, seed, label
        _check_label(self.net, label)
        self.level = top = None if level is None else level_of(level, sampler, self.net.process)
        self.levels = [window_level(c.window, sampler, self.net.process, top) for c in self.changes]
        chain = length(sampler, self.net.process) if top is None else 2 * top
        self.steps = chain + sum(level + (top is None) for level in self.levels)  # for the bar
        self.region = None if where is None else Region(where, labeller, self.net)
        self.folder = Path(folder or f"{root}/{self.net.name}_{self.word}")
        self.shards = Shards(number, shard_size)
        self.stored = SampleFolder(
            self.folder, self.shards, RECORD, lambda indices: [pairs_file(indices)]
        )
        self.stepped: Callable[[int], object] = lambda samples: None

    def setup(self, stage: str) -> None:
        """Every rank looks whether the folder is free or ours, then the first one marks it."""
        identity = self.identity()
        self.stored.check(identity, (1 + len(self.changes)) * 3 * self.net.image_size**2)
        self.trainer.strategy.barrier("pairs looked")
        if self.trainer.is_global_zero:
            self.stored.claim(identity)

    def identity(self) -> dict[str, object]:
        """All that changes a pixel, and how the pairs are cut into files."""
        keywords = {key: str(value) for key, value in sorted(self.sampler.keywords.items())}
        first, *beside = (one.identity for one in self.steered)
        return {
            "backbone": self.net.name,
            "sha256": self.net.sha256,
            **first,
            **({"beside": beside} if beside else {}),
            "how": self.how,
            **({} if self.region is None else self.region.identity),
            "sampler": self.sampler.func.__name__,
            **keywords,
            "objective": str(self.objective),
            "precision": str(self.trainer.precision),
            "seed": self.seed,
            "label": self.label,
            "number": self.shards.number,
            "shard_size": self.shards.size,
        }

    def done(self, samples: range) -> bool:
        """Whether the shard is finished."""
        return self.stored.done(samples)

    def extracted(self) -> list[dict[str, str | int]]:
        """How many pairs lie in finished shards, and where."""
        return self.stored.extracted()

    def predict_step(self, batch: Int[Tensor, " batch"], batch_idx: int) -> Pairs | None:
        """One batch of pairs; a shard is written as soon as it is complete."""
        if not len(batch):
            return None
        pairs = self.draw(batch)
        self.keep(batch.tolist(), pairs)
        return pairs

    def keep(self, indices: list[int], drawn: Pairs, pictures: Tensor | None = None) -> None:
        """Writes a shard when it is whole; `pictures`: those that were inverted."""
        for images, words in [(drawn.off, "off"), *zip(drawn.on, self.words, strict=True)]:
            maker = f"{self.sampler.func.__name__} ({words})"
            check_finite(images, indices, maker, self.trainer)
        columns = [as_bytes(drawn.off), np.stack([as_bytes(on) for on in drawn.on], axis=1)]
        if pictures is not None:
            columns += [as_bytes(pictures), picture_error(drawn.off, pictures).rmse.tolist()]
        pairs = [SteeredPair(*row) for row in zip(*columns, strict=True)]
        if (shard := self.stored.complete(indices, pairs)) is not None:
            self._write(self.shards.of(indices[0]), shard)

    def _arrays(self, shard: list[SteeredPair]) -> dict[str, np.ndarray]:
        """What a shard holds beside the pairs."""
        return {}

    @property
    def words(self) -> list[str]:
        """What each picture on is called."""
        return [change.words for change in self.changes]

    def branches(self, given: Given) -> list[Branch]:
        """The network under each change, and where its chain leaves the plain one."""
        branches = []
        for place, level in enumerate(self.levels):
            edits = dict(pair for one in self.steered for pair in one.edits(place).items())
            branches.append(Branch(partial(self.net, given=given, edits=edits), level))
        return branches

    def narrowed(
        self, branches: Sequence[Branch], indices: list[int]
    ) -> Callable[[Tensor], object] | None:
        """What gives the branches the plain picture's region; None where they are everywhere."""
        if self.region is None:
            return None
        edits = [edit for branch in branches for edit in branch.net.keywords["edits"].values()]
        return lambda off: self.region.give(edits, self.net.pictures(off), indices)

    def draw(self, indices: Int[Tensor, " batch"]) -> Pairs:
        """These pictures off and on, each from its own noise."""
        shape = self.net.noise_shape((3, *[self.net.image_size] * 2))
        noise = own_noise(self.seed, indices.tolist(), shape)
        steps = length(self.sampler, self.net.process)
        given = Given(label=self.labels(indices))
        branches = self.branches(given)
        return self._pictures(
            draw_pairs(
                lambda x, t: self.net(x, t, given),
                branches,
                self.net.process.start(noise(steps).to(indices.device)),
                self.net.process,
                self.sampler,
                objective=self.objective,
                noise=noise,
                on_step=lambda *_: self.stepped(len(indices)),
                on_plain=self.narrowed(branches, indices.tolist()),
            )
        )

    def _pictures(self, pairs: Pairs) -> Pairs:
        """Pairs of what the network's process ends in as pairs of pictures."""
        return Pairs(self.net.pictures(pairs.off), [self.net.pictures(x) for x in pairs.on])

    def labels(self, indices: Int[Tensor, " batch"]) -> Int[Tensor, " batch"] | None:
        """The class of each picture, as task=samples gives it."""
        classes = self.net.condition.classes
        if classes is None:
            return None
        return indices % classes if self.label is None else torch.full_like(indices, self.label)

    def _write(self, samples: range, shard: list[SteeredPair]) -> None:
        arrays = {
            "off": np.stack([one.off for one in shard]),
            "on": np.stack([one.on for one in shard]),
            "index": np.arange(samples.start, samples.stop),
            **self._arrays(shard),
        }
        if (labels := self.labels(torch.tensor(list(samples)))) is not None:
            arrays["label"] = labels.numpy()
        path = self.stored.paths(samples)[0]
        files.write_atomic(path, lambda stream: np.savez(stream, **arrays))

    def on_predict_end(self) -> None:
        """The first pairs on one sheet, and where everything lies."""
        self.trainer.strategy.barrier("pairs drawn")
        if not self.trainer.is_global_zero or not self.done(self.shards.ranges[0]):
            return
        with np.load(self.stored.paths(self.shards.ranges[0])[0]) as arrays:
            first = arrays["picture"][:SHEET] if "picture" in arrays else None
            sheet = pair_sheet(arrays["off"][:SHEET], arrays["on"][:SHEET], self.words, first)
            _say_psnr(arrays)
        path = self.folder / "sheet.png"
        files.write_atomic(path, lambda stream: sheet.save(stream, format="PNG"))
        finished = f"{self.stored.finished} of {self.shards.number}"
        say("steering", finished=finished, sheet=path, folder=self.folder)


class SteeredPictures(SteeredPairs):
    """The same of pictures that there are: inverted up to a level, and drawn again both ways."""

    word = "steered_pictures"

    def __init__(
        self,
        net: Backbone,
        sampler: partial,
        *,
        level: int = 400,
        fingerprint: str = "",
        picture_size: int | None = None,
        **settings: object,
    ) -> None:
        """`level`: the timestep to which pictures are inverted. All else as of pairs from noise."""
        check_invertible(sampler)
        check_picture_size(picture_size, net.image_size, net.name)
        super().__init__(net, sampler, level=level, **settings)
        self.timestep, self.fingerprint = level, fingerprint
        if self.net.condition.classes is not None and self.label is None:
            raise UserError(f"{net.name} is told the class of each picture: model.label=0")

    def identity(self) -> dict[str, object]:
        """Which pictures too, and how far up."""
        return {**super().identity(), "pictures": self.fingerprint, "level": self.timestep}

    def predict_step(self, batch: dict, batch_idx: int) -> Pairs | None:
        """One batch of pictures; a shard is written as soon as it is complete."""
        indices = batch["index"].tolist()
        if not indices:
            return None
        images = batch["image"][: len(indices)]
        label = self.labels(batch["index"])
        given = Given(label=label)
        branches = self.branches(given)
        pairs = redraw_pairs(
            lambda x, t: self.net(x, t, given),
            branches,
            self.net.prepared(images),
            self.net.process,
            self.sampler,
            objective=self.objective,
            level=self.level,
            on_step=lambda *_: self.stepped(len(indices)),
            on_plain=self.narrowed(branches, indices),
        )
        pairs = self._pictures(pairs)
        self.keep(indices, pairs, images)
        return pairs

    def _arrays(self, shard: list[SteeredPair]) -> dict[str, np.ndarray]:
        """The picture that it was, and how well the network gives it back."""
        errors = [one.rmse for one in shard]
        return {
            "picture": np.stack([one.picture for one in shard]),
            "rmse": np.array(errors, dtype=np.float32),
            "psnr": np.array([psnr(error) for error in errors], dtype=np.float32),
        }


def pair_sheet(
    off: UInt8[np.ndarray, "n size size 3"],
    on: UInt8[np.ndarray, "n changes size size 3"],
    words: Sequence[str],
    pictures: UInt8[np.ndarray, "n size size 3"] | None = None,
) -> Image.Image:
    """A row a picture: itself where it was inverted, off, on, and of one change the difference."""
    columns, names = [off, *on.swapaxes(0, 1)], ["off", *words]
    if pictures is not None:
        columns, names = [pictures, *columns], ["picture", "back", *words]
    if len(words) == 1:
        gap = np.abs(columns[-1].astype(int) - off.astype(int)).mean(-1, keepdims=True)
        columns.append(np.clip(255 - 2 * gap, 0, 255).repeat(3, -1).astype(np.uint8))
        names.append("difference")
    grid = np.stack(columns, 1).reshape(-1, *off.shape[1:])
    images = torch.from_numpy(grid).permute(0, 3, 1, 2).float() / 127.5 - 1
    captions = [*names, *[""] * (len(grid) - len(names))]
    return contact_sheet(images, columns=len(names), captions=captions)


def _say_psnr(arrays: Mapping[str, np.ndarray]) -> None:
    """How well the network gives pictures back, and a warning where it does not."""
    if "psnr" not in arrays:
        return
    mean = float(arrays["psnr"].mean())
    print(f"Pictures drawn again without a change: {mean:.1f} dB")
    if mean < LEAST_DB:
        print(
            f"Below {LEAST_DB} dB they are other pictures: more steps (sampler.respacing=ddim50), "
            "or a lower level="
        )


def pairs_file(pairs: range) -> str:
    """The file of a shard."""
    return f"pairs_{pairs.start:06d}-{pairs.stop - 1:06d}.npz"


def _check_label(net: Backbone, label: int | None) -> None:
    """A class that the network knows, where it knows some."""
    classes = net.condition.classes
    if label is None:
        return
    if classes is None:
        raise UserError(f"{net.name} knows no classes, got label={label}: leave it out")
    if not 0 <= label < classes:
        raise UserError(f"{net.name} knows the classes 0 to {classes - 1}, got label={label}")
