"""`report=latent_attributes`: which latent of a dictionary tells each attribute of a picture.

Latents are pooled over the picture. The best one of each attribute is chosen on training pictures
and measured on test pictures, beside as many random directions and the raw channels. With `codes=`
a second table says how much of each latent's pooled activity each part of a code explains.
"""

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from diffdict import files
from diffdict.data.attributes import Attribute
from diffdict.errors import UserError, at_least
from diffdict.features.base import FeatureDataModule
from diffdict.features.codes.pooled_codes import POOLED
from diffdict.metrics.attributes.attribute_scores import chances
from diffdict.metrics.attributes.best_predictors import BestPredictors, best_predictors
from diffdict.metrics.attributes.explained_by_parts import CodedPictures, explained_by_parts
from diffdict.reports.attributes.pooled_features import LATENTS, PooledFeatures
from diffdict.reports.attributes.stored_codes import StoredCodes
from diffdict.reports.subjects import HasDictionaries, require
from diffdict.results.tables import Row, as_csv, print_rows
from diffdict.sae.base import Sae
from diffdict.sae.grid import ALONE
from diffdict.seeds import permutation

SPLITS = "train", "test"
SHOWN = 12  # rows of a table on the screen


class LatentAttributes(pl.Callback):
    """After a test of task=sae `<folder>/latent_attributes.csv`, and with codes `latent_codes.csv`;
    of several dictionaries a file each."""

    def __init__(
        self, folder: str, pictures: int = 400, codes: str | None = None, seed: int = 0
    ) -> None:
        """`pictures` of each split, at most. `codes`: the name of a store of codes of the same set.

        `seed`: of the random directions.
        """
        at_least(2, "report.latent_attributes", pictures=pictures)
        self.folder, self.pictures, self.codes, self.seed = Path(folder), pictures, codes, seed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what has no dictionary or no attributes before anything is computed."""
        require(type(pl_module), HasDictionaries, "report=latent_attributes", "try report=grid")
        check_pooled(trainer.datamodule, trainer.strategy.root_device)
        if self.codes is not None:
            self._stored(trainer.datamodule)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first rank looks at the pictures once more, and writes."""
        if not trainer.is_global_zero:
            return
        data, folder = trainer.datamodule, files.writable_folder(self.folder)
        for name, measured in pl_module.dictionaries().items():
            end = "" if name == ALONE else f"-{name}"
            for word, rows in self._tables(data, measured.sae).items():
                path = files.unused(folder / f"{word}{end}.csv")
                files.write_atomic(path, as_csv(rows).encode())
                print_rows(rows[:SHOWN], title=f"{word}: {path}")

    def _tables(self, data: FeatureDataModule, sae: Sae) -> dict[str, list[Row]]:
        """Both tables of a dictionary."""
        sources = {split: data.sources.open(split, sae.b_dec.device) for split in SPLITS}
        chosen = {
            split: permutation(len(source), 0)[: self.pictures].sort().values.tolist()
            for split, source in sources.items()
        }
        pooled = {
            split: PooledFeatures(source, sae, self.seed).of(chosen[split])
            for split, source in sources.items()
        }
        truth = {
            split: torch.stack([source.attributes(index) for index in chosen[split]])
            for split, source in sources.items()
        }
        attributes = [Attribute(**one) for one in sources["train"].facts["attributes"]]
        tables = {"latent_attributes": predictor_rows(attributes, pooled, truth)}
        if self.codes is not None:
            stored = self._stored(data)
            pairs = [
                CodedPictures(stored[split].of(chosen[split]), pooled[split][LATENTS])
                for split in SPLITS
            ]
            tables["latent_codes"] = code_rows(*pairs, stored["train"].parts)
        return tables

    def _stored(self, data: FeatureDataModule) -> dict[str, StoredCodes]:
        """The codes of both splits."""
        root, dataset = data.sources.root, data.sources.dataset_name
        return {split: StoredCodes(root, dataset, self.codes, split) for split in SPLITS}


def check_pooled(data: FeatureDataModule, device: torch.device) -> None:
    """Pictures with something to be told, and one map of each."""
    source = data.sources.open("test", device)
    if not source.facts.get("attributes"):
        raise UserError(
            f"report=latent_attributes is about attributes of whole pictures, and "
            f"{source.facts['dataset']} has none: dataset=toy_faces, or dataset=folder where "
            "attributes.csv lies beside the pictures"
        )
    if data.facts.get("mix") == "stack" and len(source.streams) > 1:
        raise UserError(
            f"report=latent_attributes pools one map of a picture, got {len(source.streams)} "
            "stacked ones: one timestep= and block="
        )


def predictor_rows(
    attributes: Sequence[Attribute],
    pooled: dict[str, dict[str, Float[Tensor, "pictures _"]]],
    truth: dict[str, Float[Tensor, "pictures attributes"]],
) -> list[Row]:
    """A row an attribute, and first the means: the best latent beside what needs no dictionary."""
    binary = torch.tensor([attribute.kind == "binary" for attribute in attributes])
    best: dict[str, BestPredictors] = {}
    for kind in pooled["train"]:
        pairs = ((pooled[split][kind], truth[split]) for split in SPLITS)
        best[kind] = best_predictors(*pairs, binary)
    chance = chances(truth["test"], binary)
    half = pooled["train"][LATENTS].shape[1] // len(POOLED)
    rows: list[Row] = []
    for i, attribute in enumerate(attributes):
        feature = int(best[LATENTS].feature[i])
        row = {
            "attribute": attribute.name,
            "figure": "average_precision" if attribute.kind == "binary" else "pearson",
            "latent": feature % half,
            "pooled": POOLED[feature // half],
            "sign": int(best[LATENTS].sign[i]),
            "train": float(best[LATENTS].chosen_by[i]),
        }
        row |= {kind: float(predictor.figure[i]) for kind, predictor in best.items()}
        rows.append(row | {"chance": float(chance[i])})
    return [*mean_rows(rows, list(best)), *rows]


def mean_rows(rows: Sequence[Row], kinds: Sequence[str]) -> list[Row]:
    """Over binary attributes, and over numbers, of those that the test pictures tell."""
    means: list[Row] = []
    for figure in dict.fromkeys(row["figure"] for row in rows):
        group = [row for row in rows if row["figure"] == figure and row[LATENTS] == row[LATENTS]]
        if group:
            columns = ("train", *kinds, "chance")
            mean = {column: sum(row[column] for row in group) / len(group) for column in columns}
            means.append({"attribute": f"mean of {len(group)}", "figure": figure, **mean})
    return means


def code_rows(train: CodedPictures, test: CodedPictures, parts: dict[str, slice]) -> list[Row]:
    """R² of each latent's pooled activity by part, the best explained first; first the mean."""
    moves = (train.numbers.std(0) > 0) & (test.numbers.std(0) > 0)
    ids = moves.nonzero()[:, 0].tolist()
    if not ids:
        return []
    shares = explained_by_parts(
        train._replace(numbers=train.numbers[:, ids]),
        test._replace(numbers=test.numbers[:, ids]),
        list(parts.values()),
    )
    half = train.numbers.shape[1] // len(POOLED)
    means = dict(zip(parts, shares.nanmean(1).tolist(), strict=True))
    rows: list[Row] = [{"latent": f"mean of {len(ids)}", "pooled": "", **means}]
    order = shares[0].argsort(descending=True).tolist()
    for place in order:
        row = dict(zip(parts, shares[:, place].tolist(), strict=True))
        rows.append({"latent": ids[place] % half, "pooled": POOLED[ids[place] // half], **row})
    return rows
