"""FeatureDataModule: the base class of data modules that read features, stored or live."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from diffdict.backbones.base import Backbone
from diffdict.data.batches.resumable import ResumableLoader
from diffdict.errors import UserError
from diffdict.features.locations import Blocks, Timesteps
from diffdict.features.sources import FeatureSources, Source, StoredSource
from diffdict.features.store import FeatureStore
from diffdict.features.whole_pictures import LabelledPicture, LabelledPictureLoader

Loader = TypeVar("Loader", bound=ResumableLoader)


class FeatureDataModule(pl.LightningDataModule):
    """Features of a dataset's pictures; training resumes in the middle of an epoch."""

    def __init__(
        self,
        *,
        dataset: Callable[..., Dataset] | None = None,
        backbone: Callable[[], Backbone] | Backbone | None = None,
        dataset_name: str = "",
        backbone_name: str = "",
        checkpoint: str | None = None,
        root: str = "features",
        timestep: Timesteps = 50,
        block: Blocks = 6,
        noise: Mapping | None = None,
        source: str = "store",
        dtype: str = "fp16",
        compute: str = "fp32",
        pool: str | None = None,
        normalise: str = "none",
        drop_channels: Sequence[int] = (),
    ) -> None:
        """`backbone`, `dtype` and `compute` are used with source="live" only.

        `normalise` and `drop_channels` are what is done to the maps (`normalisation.py`).
        `pool=mean`: the store of maps that were pooled. A store made from another `dataset` or
        `checkpoint` than those given is refused.
        """
        super().__init__()
        self.sources = FeatureSources(
            dataset=dataset,
            backbone=backbone,
            dataset_name=dataset_name,
            backbone_name=backbone_name,
            checkpoint=checkpoint,
            root=root,
            timestep=timestep,
            block=block,
            noise=noise,
            source=source,
            dtype=dtype,
            compute=compute,
            pool=pool,
            normalise=normalise,
            drop_channels=drop_channels,
        )
        self._training: ResumableLoader | None = None
        self._resumed: dict = {}

    def stores(self) -> dict[str, FeatureStore]:
        """The stores that were read from, by split; none where the network looks itself."""
        opened = self.sources.opened.items()
        return {split: one.store for split, one in opened if isinstance(one, StoredSource)}

    def labelled(self, split: str) -> Iterable[LabelledPicture]:
        """Every picture of a split with its labels, for reports."""
        source = self._source(split)
        return LabelledPictureLoader(source, range(len(source)))

    def picture(self, split: str, index: int) -> Float[Tensor, "3 height width"] | None:
        """The backbone's input picture, in [-1, 1]; None if the dataset is not on this machine."""
        pictures = self.sources.pictures(split)
        return None if pictures is None else pictures[index]["image"]

    def picture_name(self, split: str, index: int) -> str:
        """The picture's name in its dataset, or its number if the dataset is not here."""
        pictures = self.sources.pictures(split)
        return f"{split}/{index:05d}" if pictures is None else pictures.picture_name(index)

    def picture_names(self, split: str) -> list[str]:
        """The names of all pictures of a split."""
        return [self.picture_name(split, i) for i in range(len(self._source(split)))]

    def state_dict(self) -> dict:
        """The training loader's position, which Lightning would forget at the end of an epoch."""
        return self._training.place() if self._training else self._resumed

    def load_state_dict(self, state_dict: dict) -> None:
        """Stores the position from which the training loader will start."""
        self._resumed = state_dict

    def _start(self, loader: Loader, samples: str) -> Loader:
        """Registers the training loader and moves it to the position of a resumed run.

        `samples` names what it draws from, for the message if they fill no batch.
        """
        if not len(loader):
            raise UserError(
                f"{samples} fill no batch of {loader.plan['batch_size']} "
                f"on {loader.plan['world']} rank(s): lower data.batch_size"
            )
        if self._resumed:
            loader.go_to(self._resumed)
        self._training = loader
        return loader

    def _source(self, split: str) -> Source:
        return self.sources.open(split, self._device())

    def _rank_and_world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _device(self) -> torch.device:
        if self.trainer is not None:
            return self.trainer.strategy.root_device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
