"""Pictures in batches: order, random flips and crops, each rank's part, resume in mid-epoch."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffdict.data.base import Pictures, PictureSample
from diffdict.data.batches.augmented import Augmented
from diffdict.data.batches.workers import seed_worker
from diffdict.data.views import TwoViews
from diffdict.errors import UserError


class Part(NamedTuple):
    """Which of the ranks this process is."""

    rank: int = 0
    world: int = 1


def epoch_order(pictures: int, seed: int, epoch: int) -> list[int]:
    """The order of all pictures in one epoch, the same on every rank."""
    return np.random.default_rng([seed, epoch]).permutation(pictures).tolist()


def training_batches(
    order: Sequence[int], batch_size: int, part: Part, drop_last: bool
) -> list[list[int]]:
    """The rank's batches of an epoch: equally many on every rank, no picture on two of them.

    Without drop_last the ranks share what the full rounds leave, if there is one for each.
    """
    round_size = batch_size * part.world
    full = len(order) // round_size
    starts = [round_size * step + batch_size * part.rank for step in range(full)]
    batches = [list(order[start : start + batch_size]) for start in starts]
    rest = list(order[round_size * full :])
    if not drop_last and len(rest) >= part.world:
        batches.append(rest[part.rank :: part.world])
    return batches


def evaluation_batches(pictures: int, batch_size: int, part: Part) -> list[list[int]]:
    """The rank's batches of all pictures in order: those of one process, dealt round the ranks.

    They are smaller where there are fewer than ranks: who has none would not measure with the rest.
    """
    if pictures <= batch_size * (part.world - 1):
        batch_size = max(1, pictures // part.world)
    starts = range(batch_size * part.rank, pictures, batch_size * part.world)
    return [list(range(start, min(start + batch_size, pictures))) for start in starts]


class _Batches:
    """A batch sampler whose list of keys is set anew for each pass over a loader that stays."""

    def __init__(self):
        self.batches: list[list[object]] = []

    def __iter__(self) -> Iterator[list[object]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class EvaluationLoader:
    """All pictures in order, this rank's part; no torch DataLoader: Lightning re-deals those."""

    def __init__(
        self,
        dataset: Pictures | TwoViews,
        batch_size: int,
        workers: int,
        seed: int,
        part: Part,
    ) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self.batches = evaluation_batches(len(dataset), batch_size, part)
        self.workers, self.seed = workers, seed

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[PictureSample]:
        keys = _Batches()
        keys.batches = self.batches
        return iter(_torch_loader(self.dataset, keys, self.workers, self.seed, stay=False))


class TrainingLoader:
    """An endless stream of shuffled, augmented epochs; one pass is as long as one of them.

    A pass starts where the last one stopped, so what comes next follows from the number of batches
    trained on alone. `trained` tells that number: a batch in flight when the run broke comes again.
    """

    def __init__(
        self,
        dataset: Augmented | TwoViews,
        batch_size: int,
        workers: int,
        part: Part,
        drop_last: bool,
    ):
        self.dataset, self.batch_size, self.part = dataset, batch_size, part
        self.drop_last, self.position = drop_last, 0
        self.repeat = False  # to overfit, every pass is the first one
        self.trained: Callable[[], float] = lambda: math.inf
        self.keys, self.workers = _Batches(), workers
        self.loader: DataLoader | None = None
        self.length = len(self._epoch(0))

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[PictureSample]:
        epoch, batch = divmod(0 if self.repeat else self.position, self.length)
        following = self._epoch(epoch + 1) if batch else []
        self.keys.batches = self._epoch(epoch)[batch:] + following[:batch]
        if self.loader is None:
            stay, seed = self.workers > 0, self.dataset.seed
            self.loader = _torch_loader(self.dataset, self.keys, self.workers, seed, stay)
        for sample in self.loader:
            self.position += 1
            yield sample

    def close(self) -> None:
        """Let the workers go now: left to the garbage collector, each would be waited for 5 s."""
        self.loader = None

    def _epoch(self, epoch: int) -> list[list[tuple[int, int]]]:
        order = epoch_order(len(self.dataset.dataset), self.dataset.seed, epoch)
        batches = training_batches(order, self.batch_size, self.part, self.drop_last)
        return [[(epoch, index) for index in batch] for batch in batches]

    def place(self) -> dict[str, int]:
        """Where the next batch lies, and what its number means."""
        epoch, batch = divmod(int(min(self.position, self.trained())), self.length)
        return {"epoch": epoch, "batch": batch} | self._meaning()

    def go_to(self, state: dict[str, int]) -> None:
        """Go on from a place; in mid-epoch the batches must be cut as they were."""
        for name, ours in self._meaning().items():
            if state["batch"] and state.get(name, ours) != ours:
                raise UserError(
                    f"The checkpoint stopped after batch {state['batch']} of an epoch with "
                    f"{name} = {state[name]}, and this run has {ours}: resume with {state[name]}, "
                    "or from a checkpoint that ended its epoch"
                )
        self.position = state["epoch"] * self.length + state["batch"]

    def _meaning(self) -> dict[str, int]:
        pictures = len(self.dataset.dataset)
        cut = {"batch_size": self.batch_size, "ranks": self.part.world, "pictures": pictures}
        return cut | {"seed": self.dataset.seed}


def _torch_loader(
    dataset: Pictures | Augmented | TwoViews, keys: _Batches, workers: int, seed: int, stay: bool
) -> DataLoader:
    """A DataLoader that leaves torch's global generator alone."""
    return DataLoader(
        _WholeBatches(dataset),
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_as_it_comes,
        generator=torch.Generator().manual_seed(seed),
        worker_init_fn=seed_worker,
        persistent_workers=stay,
        pin_memory=torch.cuda.is_available(),
    )


class _WholeBatches(Dataset):
    """What torch's loaders ask for a list of keys, where a set is asked for a batch."""

    def __init__(self, dataset: Pictures | Augmented | TwoViews) -> None:
        self.dataset = dataset

    def __getitems__(self, keys: list[object]) -> PictureSample:
        return self.dataset.batch(keys)


def _as_it_comes(batch: PictureSample) -> PictureSample:
    return batch


class ImageDataModule(pl.LightningDataModule):
    """Batches of any dataset of pictures: `dataset` is called with a split and gives that part."""

    def __init__(
        self,
        dataset: Callable[..., Pictures],
        batch_size: int = 16,
        num_workers: int = 0,
        flip: bool = False,
        crop_padding: int = 0,
        zoom: float = 1.0,
        seed: int = 0,
        drop_last: bool = True,
        predict_split: str | Sequence[str] = "test",
        test_split: str = "test",
    ):
        super().__init__()
        if batch_size < 1 or num_workers < 0 or crop_padding < 0 or seed < 0 or not 1 <= zoom <= 2:
            raise UserError(
                "Pictures come in batches of at least 1, with 0 or more workers, padding and seed, "
                f"zoomed by 1 to 2: data.batch_size={batch_size} "
                f"data.num_workers={num_workers} data.crop_padding={crop_padding} "
                f"data.zoom={zoom} data.seed={seed}"
            )
        self.make, self.batch_size, self.num_workers = dataset, batch_size, num_workers
        self.flip, self.crop_padding, self.zoom, self.seed = flip, crop_padding, zoom, seed
        self.drop_last, self.predict_split = drop_last, predict_split
        self.test_split = test_split
        # a rank whose share of a small test set is empty still takes part
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._made: dict[str, Pictures] = {}
        self._training: TrainingLoader | None = None
        self._resumed: dict[str, int] = {}

    def split(self, name: str) -> Pictures:
        """The dataset of this split, made once."""
        if name not in self._made:
            self._made[name] = self.make(split=name)
        return self._made[name]

    def samples(self, split: str, training: bool = False) -> Dataset:
        """What the loaders read: the pictures, or more than those."""
        return self.split(split)

    @property
    def facts(self) -> dict[str, object]:
        """What the pictures know, for the constructors of tasks."""
        return self.split(self._predicted()[0]).facts

    def picture(self, split: str, index: int) -> Float[Tensor, "3 height width"]:
        """A picture in [-1, 1]."""
        return self.split(split)[index]["image"]

    def picture_names(self, split: str) -> list[str]:
        """What a person may call the pictures of a split."""
        pictures = self.split(split)
        return [pictures.picture_name(index) for index in range(len(pictures))]

    def train_dataloader(self) -> TrainingLoader:
        pictures = self.split("train")
        if self.crop_padding >= pictures.image_size:
            raise UserError(
                f"data.crop_padding={self.crop_padding} must be smaller than the pictures of "
                f"{pictures.name}, {pictures.image_size} pixels wide"
            )
        samples = self.samples("train", training=True)
        loader = TrainingLoader(
            self._training_pictures(samples),
            self.batch_size,
            self.num_workers,
            self._part(),
            self.drop_last,
        )
        if self.trainer:
            fit = self.trainer.fit_loop
            loader.trained = lambda: fit.epoch_loop.batch_progress.total.processed
            loader.repeat = self.trainer.overfit_batches > 0
        if self._resumed:
            loader.go_to(self._resumed)
        self._training = loader
        if not len(loader):
            ranks = f" on {loader.part.world} ranks" if loader.part.world > 1 else ""
            raise UserError(
                f"{pictures.name} has {len(pictures)} training pictures, fewer than one batch of "
                f"{self.batch_size}{ranks}: a smaller data.batch_size, or data.drop_last=false"
            )
        return loader

    def _training_pictures(self, pictures: Pictures) -> Augmented:
        """The pictures and what happens to them."""
        return Augmented(pictures, self.seed, self.flip, self.crop_padding, self.zoom)

    def state_dict(self) -> dict[str, int]:
        """The training's place; kept here, for Lightning forgets a loader's at an epoch's end."""
        return self._training.place() if self._training else self._resumed

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """The place that the training loader will start from."""
        self._resumed = state_dict

    def teardown(self, stage: str) -> None:
        """The training workers end with the fit."""
        if stage == "fit" and self._training is not None:
            self._training.close()

    def val_dataloader(self) -> EvaluationLoader | list:
        """No loader where the dataset has no validation pictures."""
        return self._measured("val") if len(self.split("val")) else []

    def test_dataloader(self) -> EvaluationLoader:
        return self._measured(self.test_split)

    def predict_dataloader(self) -> EvaluationLoader | list[EvaluationLoader]:
        """One loader for each split asked for."""
        if isinstance(self.predict_split, str):
            return self._evaluation(self.predict_split)
        return [self._evaluation(name) for name in self.predict_split]

    def _evaluation(self, split: str) -> EvaluationLoader:
        part = self._part()
        return EvaluationLoader(
            self.samples(split), self.batch_size, self.num_workers, self.seed, part
        )

    def _measured(self, split: str) -> EvaluationLoader:
        """Figures are those of all ranks: each needs a picture, else the others wait for it."""
        pictures, world = self.split(split), self._part().world
        if len(pictures) < world:
            raise UserError(
                f"{pictures.name} has {len(pictures)} pictures for {split}, fewer than the {world} "
                f"ranks: trainer.devices={max(1, len(pictures))}"
            )
        return self._evaluation(split)

    def _predicted(self) -> list[str]:
        splits = self.predict_split
        return [splits] if isinstance(splits, str) else list(splits)

    def _part(self) -> Part:
        trainer = self.trainer
        return Part(trainer.global_rank, trainer.world_size) if trainer else Part()
