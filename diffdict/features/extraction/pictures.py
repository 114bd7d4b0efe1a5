"""DataModule of extraction: whole shards dealt to ranks, in batches that never cross a shard."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffdict.backbones.base import Block
from diffdict.data.base import Pictures
from diffdict.data.batches.workers import end_with_parent
from diffdict.errors import UserError
from diffdict.features.store.stored_latents import StoredLatents


class Chunk(NamedTuple):
    """One batch to come: some pictures of one shard."""

    split: str
    shard: int
    images: range
    wanted: list[tuple[int | None, Block]]  # the streams that the shard still lacks


class Chunks(Dataset):
    """The batch of every chunk."""

    def __init__(self, splits: dict[str, Pictures], chunks: list[Chunk]) -> None:
        self.splits, self.chunks = splits, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, i: int) -> dict:
        chunk = self.chunks[i]
        split = self.splits[chunk.split]
        pictures = [split[image] for image in chunk.images]
        batch = {
            key: torch.stack([torch.as_tensor(picture[key]) for picture in pictures])
            for key in ("image", *split.label_kinds)
        }
        index = torch.tensor(list(chunk.images))
        return {
            **batch,
            "index": index,
            "name": [split.picture_name(image) for image in chunk.images],
            "split": chunk.split,
            "shard": chunk.shard,
            "wanted": chunk.wanted,
        }


def _as_it_is(batch: dict) -> dict:
    return batch


class PictureLoader:
    """The batches in order; no torch DataLoader, for Lightning re-deals those."""

    def __init__(self, chunks: Dataset, num_workers: int) -> None:
        self.chunks, self.num_workers = chunks, num_workers

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        workers = min(self.num_workers, len(self))
        return iter(
            DataLoader(
                self.chunks,
                batch_size=None,
                num_workers=workers,
                collate_fn=_as_it_is,
                worker_init_fn=end_with_parent,
                generator=torch.Generator().manual_seed(0),  # leaves the global one alone
                pin_memory=torch.cuda.is_available(),
            )
        )


class ExtractionPictures(pl.LightningDataModule):
    """Pictures of one or more splits; FeatureWriter says which shards of them are still to do."""

    def __init__(
        self,
        dataset: Callable[..., Pictures],
        batch_size: int = 16,
        num_workers: int = 0,
        split: str | Sequence[str] = ("train", "test"),
        image_size: int | None = None,
        latents: bool = False,
        root: str = "features",
        backbone_name: str = "",
    ) -> None:
        """`image_size`: the side of the pictures; None: the data set's own.

        With `latents` a picture is what task=latents has stored of it for this network in `root`.
        """
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise UserError(
                "Extraction takes data.batch_size ≥ 1 and data.num_workers ≥ 0, "
                f"got {batch_size} and {num_workers}"
            )
        self.batch_size, self.num_workers = batch_size, num_workers
        names = [split] if isinstance(split, str) else list(split)
        if not names:
            raise UserError("split=[] extracts nothing: split=test, or split=[train,test]")
        size = {} if image_size is None else {"image_size": image_size}
        splits = {name: dataset(split=name, **size) for name in dict.fromkeys(names)}
        if latents:
            splits = {k: StoredLatents(x, root, backbone_name) for k, x in splits.items() if len(x)}
        self.splits = {name: each for name, each in splits.items() if len(each) or len(splits) == 1}
        self.chunks: list[Chunk] = []
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a rank may be done already

    @property
    def facts(self) -> dict:
        """What the pictures know, for the constructors of tasks."""
        return next(iter(self.splits.values())).facts

    def deal(
        self, split: str, shard: int, images: range, wanted: list[tuple[int | None, Block]]
    ) -> None:
        """Adds a shard to what this rank computes."""
        for start in range(0, len(images), self.batch_size):
            part = images[start : start + self.batch_size]
            self.chunks.append(Chunk(split, shard, part, wanted))

    def predict_dataloader(self) -> PictureLoader:
        warnings.filterwarnings("ignore", "Total length of")  # nothing left to do is no mistake
        return PictureLoader(Chunks(self.splits, self.chunks), self.num_workers)
