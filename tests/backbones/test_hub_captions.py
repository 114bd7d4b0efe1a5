"""A caption a picture: each is looked at as with its text alone, and what captions must be."""

import diffusers
import pytest
import torch

from diffdict.backbones.hub import Hub, memory
from diffdict.errors import UserError
from diffdict.features.passes import Passes
from tests.tiny_pipelines import FACTOR, SIDE, save_with_encoders

LATENT = SIDE // FACTOR
TEXTS = {"a.png": "a cat", "b/c.png": "two dogs, far away"}


def write(path, rows):
    path.write_text("\n".join(rows) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sdxl")
    save_with_encoders("sdxl", path)
    return path


@pytest.fixture
def captions(tmp_path):
    rows = ["file,caption", *(f'{name},"{text}"' for name, text in TEXTS.items())]
    return write(tmp_path / "captions.csv", rows)


def test_each_picture_is_told_its_own_caption(folder, captions, tmp_path, monkeypatch):
    kept, loads = str(tmp_path / "kept"), []
    load = diffusers.DiffusionPipeline.from_pretrained

    def counted(*args, **options):
        loads.append(1)
        return load(*args, **options)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", counted)
    net = Hub(str(folder), SIDE, prompt=captions, prompts=kept).eval()
    assert len(loads) == 1, "the encoders are loaded once for all captions"
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    passes = Passes(net, 300, "mid_block")
    maps = passes.maps(images, [0, 1], names=list(TEXTS))[300, "mid_block"]
    for row, text in enumerate(TEXTS.values()):
        alone = Hub(str(folder), SIDE, prompt=text, prompts=kept).eval()
        own = Passes(alone, 300, "mid_block").maps(images[row : row + 1], [row])
        torch.testing.assert_close(maps[row : row + 1], own[300, "mid_block"], atol=1e-5, rtol=1e-4)
    assert len(loads) == 1
    turned = passes.maps(images, [0, 1], names=list(TEXTS)[::-1])[300, "mid_block"]
    assert (turned - maps).abs().max() > 1e-4


def test_other_captions_are_another_network(folder, captions, tmp_path):
    kept = str(tmp_path / "kept")
    first = Hub(str(folder), SIDE, prompt=captions, prompts=kept).sha256
    assert Hub(str(folder), SIDE, prompt=captions, prompts=kept).sha256 == first
    other = write(tmp_path / "other.csv", ["file,caption", "a.png,a cat", "b/c.png,a dog"])
    assert Hub(str(folder), SIDE, prompt=other, prompts=kept).sha256 != first


def test_who_does_not_say_which_picture_it_is_is_refused(folder, captions, tmp_path):
    net = Hub(str(folder), SIDE, prompt=captions, prompts=str(tmp_path / "kept")).eval()
    images = torch.zeros(1, 3, SIDE, SIDE)
    with pytest.raises(UserError, match=r"2 captions and none for d\.png.*as a\.png"):
        Passes(net, 300, "mid_block").maps(images, [0], names=["d.png"])
    with pytest.raises(UserError, match=r"data\.source=live ask for"):
        net.features(images, 300, ["mid_block"])
    with pytest.raises(UserError, match=r"a sample has none: backbone\.prompt=TEXT"):
        net(torch.zeros(1, 4, LATENT, LATENT), torch.tensor([300]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "Cannot read"),
        ([], "got nothing"),
        (["file,caption"], "must hold a first line"),
        (["name,text", "a.png,a cat"], "must hold a first line"),
        (["file,caption", "a.png,a cat, black"], "a line of 3 cells: put a text"),
        (["file,caption", "a.png,a cat", "a.png,a dog"], "two captions for a.png"),
    ],
)
def test_what_is_no_file_of_captions(folder, tmp_path, rows, message):
    path = tmp_path / "captions.csv"
    if rows is not None:
        write(path, rows)
    with pytest.raises(UserError, match=message):
        Hub(str(folder), SIDE, prompt=str(path), prompts=str(tmp_path / "kept"))
    assert not (tmp_path / "kept").exists()


def test_weights_that_cannot_fit_are_refused_before_they_are_read(folder, tmp_path, monkeypatch):
    assert memory.free_memory() > 1_000_000
    monkeypatch.setattr(memory, "free_memory", lambda: 1000)
    more = {"prompt": "a cat", "prompts": str(tmp_path / "kept")}
    said = r"parameters, .* in float32, and .* of memory are free: backbone\.dtype=bf16"
    with pytest.raises(UserError, match=said):
        Hub(str(folder), SIDE, **more)
    with pytest.raises(UserError, match=r"in bfloat16, .* free: choose a smaller network"):
        Hub(str(folder), SIDE, dtype="bf16", **more)
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    Hub(str(folder), SIDE, **more)
