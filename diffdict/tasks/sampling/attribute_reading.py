"""What samples keep of their sources' attributes, read off their vectors by ridge."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffdict.data.attributes import Attribute
from diffdict.metrics.attributes import AttributeReader, KeptAttributes, kept_attributes
from diffdict.metrics.attributes.ridge import AttributeSums
from diffdict.metrics.samples.kernel_distance import ChosenRows
from diffdict.representations.base import Representation
from diffdict.results.tables import Row

LEARNED, REAL = "learned", "real"  # as the task calls its pictures


class AttributeReading(nn.Module):
    """Sums up what readings are learned from, and keeps the vectors that they are of."""

    def __init__(
        self,
        readers: Sequence[Representation],
        width: int,
        attributes: Sequence[Attribute],
        ridge: float,
        numbers: tuple[int, int],
    ) -> None:
        """`width`: of what was told; `numbers`: of real pictures and of samples."""
        super().__init__()
        self.readers = nn.ModuleList(readers)  # frozen, and on the pictures' device
        self.ridge, self.attributes = ridge, list(attributes)
        self.binary = torch.tensor([one.kind == "binary" for one in attributes])
        count, real, samples = len(attributes), *numbers
        self.of_reader = AttributeSums(sum(one.dim for one in readers), count)
        self.of_told = AttributeSums(width, count)
        self.read, self.told, self.truth = (ChosenRows(real, real) for _ in range(3))
        self.drawn = ChosenRows(samples, samples)

    def reset(self) -> None:
        """Begins anew."""
        for metric in (self.of_reader, self.of_told, self.read, self.told, self.truth, self.drawn):
            metric.reset()

    def update(
        self, kind: str, read: Float[Tensor, "n _"], told: Float[Tensor, "n _"], batch: Mapping
    ) -> None:
        """Some pictures' vectors, by the readers and by what was told."""
        if kind == LEARNED:
            self.of_reader.update(read, batch["attributes"])
            self.of_told.update(told, batch["attributes"])
            return
        if kind == REAL:
            self.read.update(read, batch["index"])
            self.told.update(told, batch["index"])
            self.truth.update(batch["attributes"], batch["index"])
            return
        self.drawn.update(read, batch["index"])

    def tables(
        self, source: Int[Tensor, " samples"], sources: Float[Tensor, "sources _"], same: bool
    ) -> tuple[dict[str, float], list[Row]]:
        """The agreement of what vectors tell with what samples keep, and a row an attribute.

        `sources`: the vectors of the source pictures by the readers; `same`: they are the first
        of the split, so that the truth is known.
        """
        reader = AttributeReader(self.of_reader.groups(), self.ridge)
        teller = AttributeReader(self.of_told.groups(), self.ridge)
        truth = self.truth.compute().cpu()
        of_source = truth[: len(sources)] if same else self._said(reader, sources)
        measures = kept_attributes(
            reader,
            teller,
            self.binary,
            real=(self.read.compute().cpu(), self.told.compute().cpu()),
            truth=truth,
            drawn=self.drawn.compute().cpu(),
            source=source,
            of_source=of_source,
        )
        agreement, variance = measures.agreement(self.binary)
        figures = {"attributes_kept": agreement, "attributes_variance": variance}
        figures = {name: value for name, value in figures.items() if value == value}
        return figures, self._rows(measures, "truth" if same else "reading")

    def _said(
        self, reader: AttributeReader, sources: Float[Tensor, "sources _"]
    ) -> Float[Tensor, "sources attributes"]:
        """What is read off source pictures whose truth nobody knows."""
        answers = reader.read(sources)
        return torch.where(self.binary, (answers > reader.cutoffs).double(), answers)

    def _rows(self, measures: KeptAttributes, source_by: str) -> list[Row]:
        rows = []
        for place, attribute in enumerate(self.attributes):
            number = attribute.kind == "number"
            figures = {
                "reader": measures.reader[place],
                "reader_r2": measures.reader_r2[place] if number else torch.nan,
                "vector_tells": measures.vector[place],
                "samples_keep": measures.kept[place],
                "chance": measures.chance[place],
                "variance_kept": measures.variance[place],
            }
            rows.append(
                {
                    "attribute": attribute.name,
                    "figure": "pearson" if number else "balanced_accuracy",
                    **{key: None if x != x else float(x) for key, x in figures.items()},
                    "source_by": source_by,
                }
            )
        return rows
