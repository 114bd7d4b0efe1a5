"""All that is known of one dictionary's concepts after a test on labelled pictures."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from diffdict.metrics.activations import Histogram
from diffdict.metrics.concepts import Counts
from diffdict.metrics.ranking import Ranking
from diffdict.metrics.selection import Choice, Report


class Together(NamedTuple):
    """A few latents that are taken for one class."""

    latents: list[int]  # in the order in which they came in; the first alone may not be `best`
    iou_train: float  # of their areas together; nan where the class is absent
    iou_test: float


class Findings(NamedTuple):
    """Latents and thresholds are chosen on the training pictures; `test` figures are of others."""

    class_names: tuple[str, ...]
    thresholds: Float[Tensor, "latents thresholds"]  # pre-activations; column 0 the floors
    ranked: int | None  # only so many largest latents are active at a pixel
    train: Counts
    test: Counts
    best: Report  # for each class its best latent, at that latent's best threshold
    zero: Report  # the same where every latent is active above 0: the original's protocol
    matched: Report  # as `best`, but no latent for two classes
    second: Choice  # the runners-up of `best`
    unions: list[Together]  # class by class
    activity: Histogram  # on the tokens of the test pictures
    ranking: Ranking  # by average precision on tokens
    baselines: dict[str, Report]  # random, permuted, channels, pca: what is found without learning
