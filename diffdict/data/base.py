"""What every set of pictures offers: one split of them, their labels, and what tells it apart."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import Dataset


class Pictures(Dataset, ABC):
    """The pictures of one split; the constructor takes `split` and sets the rest of these."""

    name: str  # names what is stored of it
    split: str  # train, val or test
    image_size: int  # side of the pictures
    fingerprint: str  # changes with whatever changes a picture, a label, or how many there are
    labelled: bool = False  # whether they come with masks; then also
    num_classes: int = 0
    class_names: Sequence[str] = ()
    palette: Sequence[Sequence[int]] = ()  # a colour a class; none: some are found
    ignore_label: int | None = None  # in masks what counts for nothing

    @abstractmethod
    def __len__(self) -> int:
        """So many pictures; val may have none."""

    @abstractmethod
    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        """`image` [3, size, size] in [-1, 1], `index`, and where labelled `mask` [size, size]."""

    def picture_name(self, index: int) -> str:
        """What a person knows the picture by."""
        return f"{self.name}/{self.split}/{index:05d}"
