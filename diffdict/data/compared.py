"""Two sets of pictures to compare: the real ones of a data set, and samples beside them."""

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property

from diffdict.data.archives.sampled import open_samples, sampled_condition
from diffdict.data.base import Pictures, PictureSample
from diffdict.data.images import EvaluationLoader, ImageDataModule
from diffdict.errors import UserError, at_least

SAMPLES = "samples"  # what their split is called
FEWEST = 100  # pictures, from fewer of which no attribute is learned


class ComparedPictures(ImageDataModule):
    """The pictures of `test_split`, then the samples; neither is flipped or moved."""

    def __init__(
        self,
        dataset: Callable[..., Pictures],
        *,
        samples: str | None = None,
        statistics: str | None = None,
        learned_pictures: int | None = 0,
        **images: object,
    ) -> None:
        """`samples`: a folder or an .npz file. `statistics` of the real ones: no one opens those.

        `learned_pictures` of the training split come first, where the set has attributes to learn
        from them; None: all. `images` are ImageDataModule's arguments.
        """
        super().__init__(dataset, **images)
        if samples is None:
            raise UserError(
                "Samples are compared with pictures: samples=FOLDER of task=samples, of "
                "pictures, or an .npz file"
            )
        at_least(0, "data", learned_pictures=learned_pictures)
        self.path, self.statistics, self.learned_pictures = samples, statistics, learned_pictures

    def split(self, name: str) -> Pictures:
        """The samples, or a split of the data set."""
        if name == SAMPLES and name not in self._made:
            self._made[name] = open_samples(self.path)
        return super().split(name)

    @property
    def facts(self) -> dict[str, object]:
        """Those of the real pictures, or of the samples where there are none; and of each set."""
        sampled = self.split(SAMPLES)
        if self.statistics is not None:
            return {**sampled.facts, "real": None, "sampled": _described(sampled)}
        real = self.split(self.test_split)
        if real.image_size != sampled.image_size:
            side = sampled.image_size
            raise UserError(
                f"samples={self.path} are {side}×{side}, and the pictures of {real.name} "
                f"{real.image_size}×{real.image_size}: dataset.image_size={side}"
            )
        described = _described(real)
        source = {key: described[key] for key in ("split", "pictures")}
        source["dataset_hash"] = described["fingerprint"]
        both = {"real": described, "sampled": _described(sampled), "learned": self.learned}
        classes = list(sampled.class_names) if sampled.labelled else []
        return {**real.facts, **source, **both, "sampled_classes": classes}

    @cached_property
    def learned(self) -> dict[str, str | int] | None:
        """The training pictures that attributes are learned from, where there are enough.

        Samples of latents that were switched have no source whose attributes they might keep.
        """
        if self.learned_pictures == 0 or sampled_condition(self.path) == "latents":
            return None
        if not self.split(self.test_split).attributes:
            return None
        pictures = self.split("train")
        number = min(len(pictures), self.learned_pictures or len(pictures))
        if number < FEWEST:
            warnings.warn(
                f"Attributes of {pictures.name} are left out: {number} training pictures are too "
                f"few to learn them from, {FEWEST} or more are needed: dataset.train_pictures="
                "3000, or data.learned_pictures=0 for none.",
                stacklevel=2,
            )
            return None
        return {**_described(pictures), "pictures": number}

    def test_dataloader(self) -> list[EvaluationLoader]:
        """Those that are learned from; the real ones, unless the task knows them; the samples."""
        real = [] if self.trainer.lightning_module.knows_real else [self.test_split]
        loaders = [self._measured(name) for name in (*real, SAMPLES)]
        if self.learned is None:
            return loaders
        first = FirstPictures(self.split("train"), self.learned["pictures"])
        part = (self.batch_size, self.num_workers, self.seed, self._part())
        return [EvaluationLoader(first, *part), *loaders]


class FirstPictures(Pictures):
    """The first so many of a set, which is as it was otherwise."""

    def __init__(self, pictures: Pictures, number: int) -> None:
        self.pictures, self.number = pictures, number
        self.attributes = pictures.attributes

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> PictureSample:
        return self.pictures[index]

    def batch(self, indices: Sequence[int]) -> PictureSample:
        """As the whole set gathers them."""
        return self.pictures.batch(indices)


def _described(pictures: Pictures) -> dict[str, str | int]:
    """What tells one set from another."""
    return {
        "dataset": pictures.name,
        "split": pictures.split,
        "pictures": len(pictures),
        "fingerprint": pictures.fingerprint,
    }
