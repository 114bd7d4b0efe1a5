"""Two sets of pictures to compare: the real ones of a data set, and samples beside them."""

from collections.abc import Callable

from diffdict.data.base import Pictures
from diffdict.data.images import EvaluationLoader, ImageDataModule
from diffdict.data.sampled import open_samples
from diffdict.errors import UserError

SAMPLES = "samples"  # what their split is called


class ComparedPictures(ImageDataModule):
    """The pictures of `test_split`, then the samples; neither is flipped or moved."""

    def __init__(
        self,
        dataset: Callable[..., Pictures],
        *,
        samples: str | None = None,
        statistics: str | None = None,
        **images: object,
    ) -> None:
        """`samples`: a folder or an .npz file. `statistics` of the real ones: no one opens those.

        `images` are ImageDataModule's arguments.
        """
        super().__init__(dataset, **images)
        if samples is None:
            raise UserError(
                "Samples are compared with pictures: samples=FOLDER of task=samples, of "
                "pictures, or an .npz file"
            )
        self.path, self.statistics = samples, statistics

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
        return {**real.facts, **source, "real": described, "sampled": _described(sampled)}

    def test_dataloader(self) -> list[EvaluationLoader]:
        """The real pictures, unless the task knows what it needs of them; then the samples."""
        real = [] if self.trainer.lightning_module.knows_real else [self.test_split]
        return [self._measured(name) for name in (*real, SAMPLES)]


def _described(pictures: Pictures) -> dict[str, str | int]:
    """What tells one set from another."""
    return {
        "dataset": pictures.name,
        "split": pictures.split,
        "pictures": len(pictures),
        "fingerprint": pictures.fingerprint,
    }
