"""What reports need of a task's module: a Protocol for each kind of subject, and who is one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor

from diffdict.backbones.pdae import Pdae
from diffdict.errors import UserError
from diffdict.features.store import FeatureStore
from diffdict.metrics.concepts.findings import Cell, Findings
from diffdict.metrics.effects.latent_changes import SwitchedPairs
from diffdict.metrics.segmentation import Confusion
from diffdict.results.tables import HasTables
from diffdict.sae.base import Sae


class MeasuredDictionary(NamedTuple):
    """A dictionary, and what the last test found of it."""

    sae: Sae
    findings: Findings | None  # None: not tested, or not on labelled pictures


class SegmentedPicture(NamedTuple):
    """A test picture's truth, and what a segmenter says of it."""

    index: int  # in its split
    mask: Int64[Tensor, "height width"]
    labels: Int64[Tensor, "height width"]
    uncertainty: Float[Tensor, "height width"] | None  # None: it says none


class SteeredDictionary(NamedTuple):
    """A dictionary whose latents were changed while its network drew."""

    sae: Sae
    class_names: Sequence[str]
    palette: Sequence[Sequence[int]]  # of the classes; empty: no colours are known
    density: Float[Tensor, " latents"] | None
    amount: float | int  # by which codes were multiplied
    facts: Mapping[str, str | int]


class LabelledPictures(NamedTuple):
    """Pictures in [-1, 1], and what a labeller says of them."""

    images: Float[Tensor, "n 3 height width"]
    labels: Int64[Tensor, "n height width"]


class SteeredStrip(NamedTuple):
    """One class's pictures off and on, of indices that show it."""

    concept: str
    latents: Sequence[int]
    indices: Sequence[int]
    off: LabelledPictures
    on: Sequence[Sequence[LabelledPictures]]  # windows × amounts
    singly: Sequence[LabelledPictures]  # by latent, at the measured amount, in all timesteps


@runtime_checkable
class HasDictionaries(Protocol):
    """A module of dictionaries: pages and figures show their latents, exports hand them on."""

    def dictionaries(self) -> dict[str, MeasuredDictionary]:
        """Those that are measured and handed on, by name; a single one is `sae`."""


@runtime_checkable
class Segments(Protocol):
    """A module that labels every pixel of its test pictures: they are drawn, with its mistakes."""

    def segmented(self, outputs: object, batch: object) -> list[SegmentedPicture]:
        """The pictures of a test batch, from what its test_step answered."""

    def confusion(self) -> Confusion:
        """What was taken for what in the last test."""


@runtime_checkable
class DrawsFromCodes(Protocol):
    """A module that draws pictures from noise and codes: sheets show what a code holds."""

    def pdae(self) -> Pdae:
        """The network as it is handed on, in evaluation."""


class DrawnLatents(NamedTuple):
    """Latents that were switched on in drawing, and what became of them."""

    sae: Sae
    maps: Callable[[Tensor], Tensor]  # pictures in [-1, 1] → [batch, latents, rows, columns]
    latents: Sequence[int]  # numbers in the dictionary of the columns of maps and codes
    codes: Float[Tensor, "pictures latents"]  # pooled, of real pictures
    rows: Sequence[Mapping[str, Cell]]  # what was measured of each, in their order
    pairs: SwitchedPairs


@runtime_checkable
class SwitchesLatents(Protocol):
    """A module that measures samples with a latent off and on: a page shows them side by side."""

    def switched_dictionary(self) -> Sae | None:
        """Whose latents they are; None where the samples are of something else."""

    def drawn_latents(self) -> DrawnLatents:
        """As they were last measured."""


@runtime_checkable
class LooksAtPictures(Protocol):
    """A module that says something of one picture without any data set: `picture=PATH`."""

    def look(
        self, image: Float[Tensor, "3 height width"], *, folder: Path
    ) -> list[Mapping[str, Cell]]:
        """Draws its answer in `folder`, and gives it as the rows of a table.

        It is also given what it has a parameter for: `maps`, the picture's features through the
        run's backbone, and `tables`, those that its own run left.
        """


@runtime_checkable
class SteersConcepts(Protocol):
    """A module that draws pictures with a class's latents changed, and has labelled them."""

    def steered(self) -> SteeredDictionary:
        """Whose latents they are."""

    def windows(self, number: int) -> list[list[int] | None]:
        """All timesteps (None), and so many equal parts of them."""

    def strips(
        self, amounts: Sequence[float | int], windows: Sequence[Sequence[int] | None], seeds: int
    ) -> Iterator[SteeredStrip]:
        """Each class's pictures under every amount in every window, drawn now."""


@runtime_checkable
class ReadsStores(Protocol):
    """A data module whose features lie in stores: loggers say which ones a run has seen."""

    def stores(self) -> dict[str, FeatureStore]:
        """Those that were read from, by split."""


class Subject(NamedTuple):
    """What a report that needs this kind of module shows, and which tasks are that kind."""

    shown: str
    tasks: tuple[str, ...]


SUBJECTS: dict[type, Subject] = {
    HasTables: Subject(
        "tables of figures",
        (
            *("alignment", "causality", "deeplab", "direction", "doctor", "faithfulness", "fid"),
            *("fine_tuning", "geometry", "lifetimes", "linear_probe", "noisy_classifier"),
            *("noisy_classifier_wrn", "pdae", "pixel_mlp", "probe_sweep", "sae", "screening"),
            *("sparse_probe", "substitution"),
        ),
    ),
    HasDictionaries: Subject("the latents of a dictionary", ("sae",)),
    Segments: Subject("the label of every pixel", ("deeplab", "pixel_mlp")),
    SwitchesLatents: Subject("latents that were switched on in drawing", ("faithfulness",)),
    SteersConcepts: Subject("concepts off and on", ("causality",)),
    DrawsFromCodes: Subject("what a code holds", ("pdae", "samples")),
    LooksAtPictures: Subject(
        "what was learned about pictures",
        ("deeplab", "fine_tuning", "linear_probe", "pdae", "pixel_mlp", "sae"),
    ),
}


def task_of(module: type) -> str:
    """The word after task=: the file that the module's class stands in."""
    return module.__module__.rpartition(".")[2]


def require(module: type, kind: type, report: str, way_out: str) -> None:
    """Nothing, or that a report cannot show this class of modules, and whose it shows."""
    if issubclass(module, kind):
        return
    shown, tasks = SUBJECTS[kind]
    raise UserError(
        f"{report} shows {shown} ({_listed(tasks)}), this run is of task={task_of(module)}: "
        f"{way_out}"
    )


def _listed(tasks: tuple[str, ...]) -> str:
    *others, last = (f"task={task}" for task in tasks)
    return f"{', '.join(others)} or {last}" if others else last
