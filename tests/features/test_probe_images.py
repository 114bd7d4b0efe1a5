"""What is true of probed pictures: with their pixels, and where their features are kept."""

import pytest
import torch

from diffdict.data.attributes import Attribute
from diffdict.data.base import Pictures
from diffdict.features.probe_images import KeptFolder, ProbeImages


class Gazes(Pictures):
    """Attributes that a mirror exchanges, negates and leaves; some are unknown."""

    name, image_size, fingerprint = "gazes", 8, "gazes"
    attributes = (
        Attribute("left", "number", "right"),
        Attribute("hat", "binary", "same"),
        Attribute("yaw", "number", "negated"),
        Attribute("right", "number", "left"),
        Attribute("age", "number", None),
    )

    def __init__(self, split="train"):
        self.split, self.count = split, 0 if split == "val" else 24

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index + 1000 * (self.split == "test"))
        image = torch.randn(3, 8, 8, generator=generator).clamp(-1, 1)
        left, right = image[0, :, :4].mean(), image[0, :, 4:].mean()
        values = torch.tensor([left, index % 2, right - left, right, index])
        values[index % 3 + 2 if index % 4 == 0 else 4] = torch.nan
        return {"image": image, "attributes": values, "index": index}


def gazes(**options):
    known = {"batch_size": 5, "flip": True, "crop_padding": 1, "drop_last": False}
    asked = {"target": "attributes", "attributes": ["left", "hat", "yaw"], "val_share": 0.25}
    return ProbeImages(Gazes, **{**known, **asked, **options})


def batches(loader, passes):
    return [batch for _ in range(passes) for batch in loader]


@pytest.mark.parametrize("flip", [True, False])
def test_kept_epochs_bring_the_truth_of_the_mirrors_that_were_seen(tmp_path, flip):
    live, kept = gazes(flip=flip), gazes(flip=flip)
    for name in ("train-0000", "train-0001", "val", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "store.json").touch()
        kept.read_kept(KeptFolder(tmp_path), name.partition("-")[0])
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        pairs = zip(*(batches(getattr(data, loader)(), 2) for data in (live, kept)), strict=True)
        for first, second in pairs:
            assert "image" in first
            assert second.keys() == {"truth", "index"}
            for key, value in second.items():
                assert first[key].dtype == value.dtype
                torch.testing.assert_close(first[key], value, rtol=0, atol=0, equal_nan=True)
    every = torch.cat([batch["truth"] for batch in batches(kept.train_dataloader(), 1)])
    index = torch.cat([batch["index"] for batch in batches(kept.train_dataloader(), 1)])
    plain = torch.stack([Gazes()[i]["attributes"][:3] for i in index.tolist()]).double()
    moved = ~torch.isclose(every, plain, rtol=0, atol=0, equal_nan=True).all(1)
    assert 0 < moved.sum() < len(moved) if flip else not moved.any()


def test_every_truth_is_the_values_and_those_a_mirror_puts_there():
    pictures = gazes().split("test")
    assert [attribute.name for attribute in pictures.attributes] == ["left", "hat", "yaw", "right"]
    expected = torch.stack([Gazes("test")[i]["attributes"][:4] for i in range(24)])
    torch.testing.assert_close(pictures.every_truth, expected, rtol=0, atol=0, equal_nan=True)
    assert pictures.every_truth.isnan().any()
    assert pictures.batch([0, 5])["truth"].shape == (2, 3)
    assert gazes().facts["class_names"] == ["left", "hat", "yaw"]
