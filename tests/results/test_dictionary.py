"""The kept dictionary: after each validation and at the end, with card and figures, one or many."""

import json
import math

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from diffdict.dictionary import Dictionary
from diffdict.reports.subjects import MeasuredDictionary
from diffdict.results.dictionary import KeepDictionary
from diffdict.sae.relu import Relu
from diffdict.sae.topk import TopK

FACTS = {"dataset": "drawn", "mean": torch.zeros(3), "scale": 2.0, "grid": (4, 4), "gamma": 0.5}
CARD = {"timestep": 50, "block": [3, 4], "backbone": {"name": "tiny"}, "seed": 7}


class Data(pl.LightningDataModule):
    """A few random tokens."""

    facts = FACTS

    def train_dataloader(self):
        return torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))

    def val_dataloader(self):
        return torch.zeros(1, 6, 3)


class Task(pl.LightningModule):
    """As far as the callback looks at it."""

    def __init__(self, **saes):
        super().__init__()
        self.evaluated = nn.ModuleDict(saes)

    def dictionaries(self):
        return {name: MeasuredDictionary(sae, None) for name, sae in self.evaluated.items()}

    def training_step(self, batch, _):
        return torch.stack([sae(batch).loss for sae in self.evaluated.values()]).sum()

    def validation_step(self, batch, _):
        for name, sae in self.evaluated.items():
            own = "" if name == "sae" else f"{name}/"
            self.log(f"val/{own}fvu", sae.latents / 100)
            self.log(f"val/{own}cosine", math.nan)
            sae.frequency.copy_(torch.arange(sae.latents) / 10)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def fitted(folder, task, **options):
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[KeepDictionary(CARD)],
        **options,
    )
    trainer.fit(task, Data())
    return trainer


def cards(folder):
    found = sorted(folder.glob("**/card.json"))
    return {str(path.parent.relative_to(folder)): json.loads(path.read_text()) for path in found}


def test_one_dictionary_and_its_card(tmp_path):
    task = Task(sae=TopK(3, latents=6, k=2))
    fitted(tmp_path, task, max_epochs=1)
    ((place, card),) = cards(tmp_path).items()
    assert place == "dictionary"
    assert card["figures"] == {"val/fvu": pytest.approx(0.06), "val/cosine": None}
    assert card["frequency"] == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0])
    assert card["order"] == [5, 4, 3, 2, 1, 0]
    assert card["sae"]["architecture"] == "topk"
    assert card["sae"]["k"] == 2
    assert card["step"] == 4
    assert card["versions"]["torch"] == torch.__version__
    assert {key: card[key] for key in CARD} == CARD
    assert card["dataset"] == "drawn"
    assert not {"mean", "scale"} & set(card)
    x = torch.randn(5, 3)
    back = Dictionary.load(tmp_path)
    torch.testing.assert_close(back.sae.encode(x), task.evaluated["sae"].encode(x).flip(1))


def test_several_have_a_folder_and_figures_each(tmp_path):
    fitted(tmp_path, Task(scale2=Relu(3, scale=2.0), scale3=Relu(3, scale=3.0)), max_epochs=1)
    found = cards(tmp_path)
    assert list(found) == ["dictionary/scale2", "dictionary/scale3"]
    figures = [card["figures"]["val/fvu"] for card in found.values()]
    assert figures == pytest.approx([0.06, 0.09])
    assert Dictionary.load(tmp_path, name="scale3").sae.latents == 9


def test_written_after_validations_and_at_the_end(tmp_path, monkeypatch):
    steps = []
    write = KeepDictionary._write

    def seen(self, trainer, task):
        steps.append(trainer.global_step)
        write(self, trainer, task)

    monkeypatch.setattr(KeepDictionary, "_write", seen)
    trainer = fitted(tmp_path, Task(sae=Relu(3, scale=2.0)), max_steps=3, val_check_interval=2)
    assert steps == [2, 3]
    trainer.validate(trainer.lightning_module, Data(), verbose=False)
    assert steps == [2, 3]
