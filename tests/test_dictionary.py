"""From a picture file to concepts, from an export or a checkpoint, without touching a config."""

from functools import partial

import pytest
import torch
from PIL import Image

from diffdict.backbones.carded import build_backbone
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.pixels import Pixels
from diffdict.data.toy_faces import ToyFaces
from diffdict.dictionary import Dictionary
from diffdict.errors import UserError
from diffdict.features.tokens import TokenDataModule
from diffdict.sae import saelens
from diffdict.sae.relu import Relu
from diffdict.sae.topk import TopK

UNET = {
    "_target_": "diffdict.backbones.guided_unet.GuidedUNet",
    "name": "tiny",
    "checkpoint": None,  # a file, made below
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1",
    "attention_resolutions": "8",
}
PIXELS = {"_target_": "diffdict.backbones.pixels.Pixels", "name": "pixels", "image_size": 16}


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """The config node of a small U-Net with weights of its own."""
    torch.manual_seed(0)
    net = GuidedUNet(**{key: value for key, value in UNET.items() if key != "_target_"})
    for value in net.state_dict().values():  # its last layers start at zero
        value.add_(0.05 * torch.randn(value.shape))
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(net.state_dict(), path)
    return {**UNET, "checkpoint": str(path)}


def streamed(node, **asked):
    """The tokens of a training, its facts, and the card that it would write."""
    backbone = build_backbone(node)
    data = TokenDataModule(
        dataset=partial(ToyFaces, image_size=16, train_pictures=3),
        backbone=backbone,
        source="live",
        dtype="fp32",
        val_pictures=0,
        **asked,
    )
    data.prepare_data()
    facts = {key: value for key, value in data.facts.items() if key not in ("mean", "scale")}
    keys = ("timestep", "block", "noise")
    card = {**facts, "backbone": node, **{key: asked[key] for key in keys if key in asked}}
    return data, card


def exported(path, facts, card, variant=TopK, **options):
    sae = variant(facts["d_in"], facts["mean"], facts["scale"], latents=40, **options).eval()
    saelens.export(sae, path, card)
    return sae


ASKED = {
    "one": {"timestep": 50, "block": 1},
    "timesteps and blocks": {"timestep": [50, 200], "block": [0, 1]},
    "own noise": {"timestep": 50, "block": 1, "noise": {"shared": False, "seed": 3, "draws": 2}},
}


@pytest.mark.parametrize("case", ASKED)
def test_a_picture_gives_the_codes_of_its_training_tokens(unet, tmp_path, case):
    data, card = streamed(unet, **ASKED[case])
    sae = exported(tmp_path / "out", data.facts, card, k=4)
    dictionary = Dictionary.load(tmp_path / "out")
    for index in (0, 2):
        picture = ToyFaces(image_size=16)[index]["image"]
        codes, maps, grid = dictionary.encode(picture, index=index)
        tokens = torch.empty(256, sae.d_in)
        data._pool("train", [index]).fill(torch.tensor([0]), tokens)
        assert grid == (16, 16)
        assert maps.shape == (40, 16, 16)
        torch.testing.assert_close(maps.flatten(1).T, sae.encode(tokens), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(codes.dense(40), maps.flatten(1).T)
        close = {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(
            dictionary.decode(codes), sae.decode(sae.encode(tokens)), **close
        )


def test_stacked_streams_are_looked_at_one_by_one(unet, tmp_path):
    data, card = streamed(unet, timestep=[50, 200], block=1, mix="stack")
    sae = exported(tmp_path / "out", data.facts, card, k=4)
    dictionary, picture = Dictionary.load(tmp_path / "out"), ToyFaces(image_size=16)[0]["image"]
    tokens = torch.empty(512, sae.d_in)
    data._pool("train", [0]).fill(torch.tensor([0]), tokens)
    maps = dictionary.encode(picture, stream="t0200-b01").maps
    expected = sae.encode(tokens[256:])
    torch.testing.assert_close(maps.flatten(1).T, expected, rtol=1e-4, atol=1e-4)
    for wrong in (None, "t0300-b01"):
        with pytest.raises(UserError, match="one of t0050-b01, t0200-b01"):
            dictionary.encode(picture, stream=wrong)


def test_files_pictures_and_tensors_are_the_same(tmp_path):
    data, card = streamed(PIXELS, timestep=None, block="pixels")
    exported(tmp_path / "out", data.facts, card, k=2)
    dictionary = Dictionary.load(tmp_path / "out")
    face = ToyFaces(image_size=16)[0]["image"]
    pixels = ((face + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    wide = Image.new("RGB", (24, 16))
    wide.paste(Image.fromarray(pixels), (4, 0))  # its middle square is the face
    wide.save(tmp_path / "face.png")
    expected = dictionary.encode(face).maps
    for picture in (tmp_path / "face.png", str(tmp_path / "face.png"), wide):
        torch.testing.assert_close(dictionary.encode(picture).maps, expected)
    for wrong, words in (
        (torch.zeros(3, 8, 8), r"\[3, 16, 16\]"),
        (face * 255, r"in \[-1, 1\]"),
        (tmp_path / "none.png", "No picture at"),
        (tmp_path / "out" / "cfg.json", "no whole picture"),
    ):
        with pytest.raises(UserError, match=words):
            dictionary.encode(wrong)
    with pytest.raises(UserError, match="left out"):
        dictionary.encode(face, stream="pixels")


# ------------------------------------------------------------------ what is found where


def test_one_of_several_is_named(tmp_path):
    for name in ("scale5", "scale10"):
        exported(tmp_path / "dictionary" / name, streamed(PIXELS, block=None)[0].facts, {}, k=2)
    exported(tmp_path / "dictionary" / "scale5.1f.tmp", {"d_in": 4, "mean": None, "scale": 1.0}, {})
    for place in (tmp_path, tmp_path / "dictionary"):
        assert Dictionary.load(place, name="scale5").sae.k == 2
        for wrong in (None, "scale7"):
            with pytest.raises(UserError, match=r"2 dictionaries \(scale10, scale5\)"):
                Dictionary.load(place, name=wrong)
    assert Dictionary.load(tmp_path / "dictionary" / "scale5").card["order"]


def test_without_a_card_there_are_tokens(tmp_path):
    sae = exported(tmp_path / "out", {"d_in": 4, "mean": None, "scale": 1.0}, {}, k=2)
    (tmp_path / "out" / "card.json").unlink()
    dictionary, x = Dictionary.load(tmp_path / "out"), torch.randn(5, 4)
    torch.testing.assert_close(dictionary.sae.encode(x), sae.encode(x))
    with pytest.raises(UserError, match="does not say its backbone, timestep, block"):
        dictionary.encode(torch.zeros(3, 16, 16))


def test_other_weights_than_the_card_says_are_refused(unet, tmp_path):
    data, card = streamed(unet, timestep=50, block=1)
    exported(tmp_path / "out", data.facts, {**card, "backbone_sha256": "0" * 64}, k=4)
    with pytest.raises(UserError, match="put the right weights there"):
        Dictionary.load(tmp_path / "out").encode(torch.zeros(3, 16, 16))
    exported(tmp_path / "other", data.facts, {**card, "block": [0, 1]}, k=4)
    with pytest.raises(UserError, match="not of one export"):
        Dictionary.load(tmp_path / "other").encode(torch.zeros(3, 16, 16))


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "os.system", "command": "true"},
        {"_target_": "diffdict.backbones.base.hashlib.new", "name": "md5"},
        {"_target_": "diffdict.backbones.base.Sequence"},
        {"_target_": "diffdict.backbones.guided_unet.nothing"},
        {**PIXELS, "colour": 3},
        {"name": "pixels"},
        "pixels",
    ],
)
def test_a_card_builds_backbones_and_nothing_else(node):
    with pytest.raises(UserError, match="The card's backbone"):
        build_backbone(node)
    assert isinstance(build_backbone(PIXELS), Pixels)


# ------------------------------------------------------------------ checkpoints


def checkpoint(saes, variant, settings, card, averages=None):
    """As a training of task=sae leaves it, with its config unresolved."""
    target = f"{variant.__module__}.{variant.__qualname__}"
    state = {
        f"{place}.{name}.{key}": value
        for place, held in (("saes", saes), ("ema", averages or {}))
        for name, sae in held.items()
        for key, value in sae.state_dict().items()
    }
    config = {
        "dataset": {"name": "toy_faces", "image_size": 16},
        "backbone": {**PIXELS, "image_size": "${dataset.image_size}"},
        "timestep": None,
        "block": "pixels",
        "noise": {"shared": True, "seed": 0, "draws": 1},
        "data": {"mix": "concat", "root": "${hydra:runtime.output_dir}"},
        **card,
    }
    return {
        "pytorch-lightning_version": "2.6.0",
        "state_dict": state,
        "dictionaries": {"sae": {"_target_": target, **settings}, "d_in": 5},
        "config": config,
    }


def some(variant=TopK, **options):
    return variant(5, torch.arange(5.0), 0.5, **options).eval()


def test_a_checkpoint_is_a_dictionary_too(tmp_path):
    path, sae = tmp_path / "last.ckpt", some(k=2, latents=12)
    torch.save(checkpoint({"sae": sae}, TopK, {"k": 2, "latents": 12}, {}), path)
    dictionary = Dictionary.load(path)
    x = torch.randn(7, 5)
    assert torch.equal(dictionary.sae.encode(x), sae.encode(x))
    assert dictionary.encode(ToyFaces(image_size=16)[0]["image"]).maps.shape == (12, 16, 16)
    averaged = some(k=2, latents=12, seed=9)
    torch.save(checkpoint({"sae": sae}, TopK, {"k": 2, "latents": 12}, {}, {"sae": averaged}), path)
    assert torch.equal(Dictionary.load(path).sae.W_enc, averaged.W_enc)


def test_a_checkpoint_of_several_is_asked_by_name(tmp_path):
    path = tmp_path / "last.ckpt"
    saes = {
        "scale2_sparsity0p1": some(Relu, scale=2.0),
        "scale3_sparsity0p1": some(Relu, scale=3.0),
    }
    torch.save(checkpoint(saes, Relu, {"scale": [2.0, 3.0], "sparsity": [0.1]}, {}), path)
    with pytest.raises(UserError, match="2 dictionaries"):
        Dictionary.load(path)
    assert Dictionary.load(path, name="scale3_sparsity0p1").sae.latents == 15


def test_a_checkpoint_that_cannot_serve_is_said(tmp_path):
    path, saes = tmp_path / "last.ckpt", {"sae": some(k=2, latents=12)}
    whole = checkpoint(saes, TopK, {"k": 2, "latents": 12}, {})
    for change, words in (
        ({"dictionaries": None}, "no run of task=sae"),
        ({"config": None}, "keeps no config"),
        ({"config": {**whole["config"], "backbone": {"name": "${nowhere}"}}}, "cannot be resolved"),
        ({"dictionaries": {"sae": {"_target_": "os.system"}, "d_in": 5}}, "none of diffdict's"),
        ({"dictionaries": {**whole["dictionaries"], "d_in": 6}}, "does not fit"),
    ):
        torch.save({**whole, **change}, path)
        with pytest.raises(UserError, match=words):
            Dictionary.load(path)
    bare = {"encoder.weight": torch.randn(9, 5), "encoder.bias": torch.randn(9)}
    torch.save({**bare, "decoder.weight": torch.randn(5, 9), "bias": torch.zeros(5)}, path)
    assert Dictionary.load(path).sae.latents == 9  # of dictionary_learning
    with pytest.raises(UserError, match="No dictionary at"):
        Dictionary.load(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match=r"has no cfg\.json"):
        Dictionary.load(tmp_path)


def test_the_ten_lines(tmp_path, monkeypatch):
    """What the README shows."""
    data, card = streamed(PIXELS, timestep=None, block="pixels")
    exported(tmp_path / "dictionary", data.facts, card, k=2)
    face = (ToyFaces(image_size=16)[0]["image"].permute(1, 2, 0) + 1) * 127.5
    Image.fromarray(face.byte().numpy()).save(tmp_path / "face.png")
    monkeypatch.chdir(tmp_path)

    dictionary = Dictionary.load("dictionary")
    codes, maps, grid = dictionary.encode("face.png")
    strength = maps.amax(dim=(1, 2))
    for latent in strength.topk(5).indices.tolist():
        print(latent, f"{strength[latent]:.2f}")
    best = maps[strength.argmax()]
    Image.fromarray((255 * best / best.max()).byte().numpy()).resize((256, 256)).save("latent.png")
    assert Image.open("latent.png").size == (256, 256)
    assert len(codes.values) <= 2 * grid[0] * grid[1]
    assert dictionary.card["dataset"] == "toy_faces"


# ------------------------------------------------------------------ steering


def test_pictures_are_steered_by_the_numbers_of_training(unet, tmp_path, monkeypatch):
    monkeypatch.setattr("diffdict.dictionary.STEPS", 4)
    data, card = streamed(unet, timestep=300, block=0)
    sae = TopK(data.facts["d_in"], data.facts["mean"], data.facts["scale"], latents=40, k=4).eval()
    sae.frequency.copy_(torch.rand(40, generator=torch.Generator().manual_seed(1)))
    saelens.export(sae, tmp_path / "out", card)
    dictionary = Dictionary.load(tmp_path / "out")
    latents = list(range(12))
    off, on = dictionary.steer(latents, number=2)
    assert off.shape == on.shape == (2, 3, 16, 16)
    assert not torch.equal(off, on)
    own = Dictionary(sae, card).steer(latents, number=2)
    assert torch.equal(own.off, off)
    torch.testing.assert_close(own.on, on, rtol=0, atol=1e-3)
    assert torch.equal(dictionary.steer(latents, 1, number=2).on, off)
    assert torch.equal(dictionary.steer([], number=2).on, off)
    late = dictionary.steer(latents, number=2, window=(0, 100))
    assert not torch.equal(late.on, on)
    picture = ToyFaces(image_size=16)[0]["image"]
    back = dictionary.steer(latents, picture=picture, where=torch.ones(16, 16))
    assert back.off.shape == back.on.shape == (1, 3, 16, 16)
    assert not torch.equal(back.off, back.on)
    for settings, words in (
        ({"number": 0}, "number is at least 1"),
        ({"window": (301, 302)}, "holds no step of this chain"),
        ({"where": torch.ones(5, 5)}, "the map's size"),
        ({"latents": [40]}, "latents 0 to 39, got 40"),
    ):
        with pytest.raises(UserError, match=words):
            dictionary.steer(**{"latents": latents, **settings})
