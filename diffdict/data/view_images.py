"""Two views of every picture in batches: what SimCLR and SimSiam learn from."""

from collections.abc import Callable

from torch.utils.data import Dataset

from diffdict.data.base import Pictures
from diffdict.data.images import ImageDataModule
from diffdict.data.views import TwoViews, Views


class ViewImages(ImageDataModule):
    """Batches with `image` and `other`; those that measure see the same views every time."""

    def __init__(
        self,
        dataset: Callable[..., Pictures],
        views: Views | None = None,
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        """`views`: what happens to each of the two; None shows the same picture twice."""
        super().__init__(dataset, batch_size, num_workers, seed=seed)
        self.views = views

    @property
    def facts(self) -> dict[str, object]:
        """Those of the pictures, and how many are told apart at once."""
        return {**super().facts, "batch_size": self.batch_size}

    def samples(self, split: str, training: bool = False) -> Dataset:
        """The pictures, each twice."""
        return TwoViews(self.split(split), self.views, self.seed)

    def _training_pictures(self, pictures: TwoViews) -> TwoViews:
        """Views are all that happens to them."""
        return pictures
