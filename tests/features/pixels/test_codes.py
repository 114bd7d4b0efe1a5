"""Codes as features: those of upsampled features, whichever way they are made."""

import pytest
import torch
from torch.nn import functional as F

from diffdict.backbones.base import Backbone
from diffdict.bilinear.maps import NativeMaps
from diffdict.data.base import Pictures
from diffdict.errors import UserError
from diffdict.features.pixels import PixelDataModule
from diffdict.features.pixels.codes import CodedMaps
from diffdict.sae import saelens
from diffdict.sae.load import load_dictionary
from diffdict.sae.relu import Gated, JumpRelu, Relu
from diffdict.sae.topk import BatchTopK, Matryoshka, TopK

GRIDS, WIDTHS, SIZE = [(4, 5), (4, 5), (2, 3)], [3, 2, 2], (13, 10)
VARIANTS = {
    "relu": (Relu, {}),
    "gated": (Gated, {}),
    "jumprelu": (JumpRelu, {"threshold": 0.4}),
    "topk": (TopK, {"k": 3}),
    "batch_topk": (BatchTopK, {"k": 3}),
    "matryoshka": (Matryoshka, {"k": 3, "groups": (0.5, 0.5)}),
}


@pytest.fixture
def maps():
    made = NativeMaps.empty(2, WIDTHS, GRIDS, SIZE, torch.float32)
    for room in made.maps:
        room.copy_(torch.randn(room.shape, generator=torch.Generator().manual_seed(room.shape[1])))
    return made


def dictionary(name):
    kind, options = VARIANTS[name]
    torch.manual_seed(0)
    sae = kind(7, torch.randn(7), 1.7, latents=24, **options).requires_grad_(False)
    sae.b_enc.normal_(-0.2, 0.3)
    sae.b_dec.normal_(0, 0.3)
    if hasattr(sae, "threshold") and sae.threshold.ndim == 0:
        sae.threshold.fill_(0.5)
    return sae.eval()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("piece", [2**23, 24 * 20])
def test_codes_are_those_of_upsampled_features(maps, name, piece, monkeypatch):
    monkeypatch.setattr("diffdict.features.pixels.codes.PIECE", piece)
    sae = dictionary(name)
    coded = CodedMaps(maps, sae)
    upsampled = [F.interpolate(x, SIZE, mode="bilinear") for x in maps.images()]
    rows = torch.cat(upsampled, 1)[1].flatten(1).T
    expected = sae.encode(rows)
    assert 0 < (expected > 0).float().mean() < 0.8
    place = torch.arange(SIZE[0] * SIZE[1])
    found = coded.gather(torch.ones_like(place), place // SIZE[1], place % SIZE[1])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weight = torch.randn(6, 24)
    places, parts = zip(*coded.linear(1, weight), strict=True)
    assert [p.start for p in places[1:]] == [p.stop for p in places[:-1]]
    torch.testing.assert_close(torch.cat(parts), expected @ weight.T, atol=1e-4, rtol=1e-4)
    assert (len(coded), coded.size, coded.channels) == (2, SIZE, 24)


def data(tmp_path, d_in=6, **options):
    """Pixels of noise, seen by a dictionary of that width."""
    torch.manual_seed(0)
    saelens.export(TopK(d_in, latents=20, k=3), tmp_path / "dictionary", {})
    asked = {"block": 2, "source": "live", "dtype": "fp32", "batch_size": 16}
    return PixelDataModule(dataset=Noise, backbone=Twice, sae=str(tmp_path), **{**asked, **options})


class Noise(Pictures):
    """Two labelled pictures."""

    name, image_size, num_classes, labelled, split = "noise", 8, 2, True, "train"
    class_names, palette, ignore_label = ["a", "b"], [(0, 0, 0)] * 2, None

    def __init__(self, split):
        self.generator = torch.Generator()

    def __len__(self):
        return 2

    def __getitem__(self, index):
        image = torch.rand(3, 8, 8, generator=self.generator.manual_seed(index)) * 2 - 1
        return {"image": image, "mask": (image[0] > 0).long(), "index": index}


class Twice(Backbone):
    """Colours and their opposites."""

    name, image_size, shapes = "twice", 8, {2: (6, 8, 8)}

    def __init__(self):
        super().__init__()

    def features(self, images, timestep=None, blocks=None, noise=None):
        return {2: torch.cat([images, -images], 1)}


def test_a_data_module_gives_codes_everywhere(tmp_path):
    module, plain = data(tmp_path), data(tmp_path)
    plain.sae = None
    for each in (module, plain):
        each.setup("fit")
    assert (module.facts["d_in"], plain.facts["d_in"]) == (20, 6)
    assert module.facts["sae"] == str(tmp_path)
    sae = load_dictionary(tmp_path).sae
    for ours, theirs in zip(module.train_dataloader(), plain.train_dataloader(), strict=True):
        assert torch.equal(ours.labels, theirs.labels)
        torch.testing.assert_close(ours.features, sae.encode(theirs.features))
    picture = next(iter(module.test_dataloader()))
    assert module.on_after_batch_transfer(picture, 0).maps.channels == 20
    assert plain.on_after_batch_transfer(picture, 0).maps.channels == 6


def test_a_dictionary_of_another_width_is_refused(tmp_path):
    said = r"learned on tokens of width 5, pixels of b02 have 6: give the timestep= and block="
    with pytest.raises(UserError, match=said):
        _ = data(tmp_path, d_in=5).facts
