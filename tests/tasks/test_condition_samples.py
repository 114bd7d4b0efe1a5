"""Samples from rows of vectors: one a row, in any batch and shard, resumed, and told in the end."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from diffdict.backbones.denoiser import Given
from diffdict.conditions.file import FileVectors
from diffdict.conditions.interpolation import InterpolatedVectors
from diffdict.conditions.pictures import PictureVectors
from diffdict.data.npz import NpzDataset
from diffdict.data.toy_faces import ToyFaces
from diffdict.diffusion.samplers import ddim, ddpm, own_noise
from diffdict.errors import UserError
from tests.tasks.test_samples import assert_alike, draw, network, stored
from tests.tiny_pdae import STAGES, tiny_pdae

FACES = partial(ToyFaces, image_size=16, train_pictures=2, val_pictures=2, test_pictures=4)
DDIM = partial(ddim, respacing="linspace4")


def pictures(**options):
    return PictureVectors(FACES, **{"number": 3, "each": 2, **options})


def drawn(folder, condition, pdae=None, sampler=DDIM, **options):
    asked = {"number": condition.number, **options}
    return draw(
        folder, net=pdae or tiny_pdae(STAGES), sampler=sampler, condition=condition, **asked
    )


@pytest.mark.parametrize("sampler", [DDIM, partial(ddpm, respacing="4")])
def test_each_row_is_a_sample_in_any_batch_and_shard(tmp_path, sampler):
    drawn(tmp_path / "a", pictures(), sampler=sampler)
    drawn(tmp_path / "b", pictures(), sampler=sampler, batch_size=6, shard_size=4)
    ours = stored(tmp_path / "a")
    assert sorted(ours) == list(range(6))
    assert len({picture.tobytes() for picture in ours.values()}) == 6
    assert_alike(ours, stored(tmp_path / "b"))


@pytest.mark.parametrize("share", ["start", "all"])
def test_a_way_is_the_same_in_any_batch_and_shard(tmp_path, share):
    sampler = partial(ddpm, respacing="4")
    ends = {"first": 0, "second": 1, "steps": 3, "each": 2, "share": share}
    way = InterpolatedVectors(FACES, **ends)
    drawn(tmp_path / "a", way, sampler=sampler)
    drawn(tmp_path / "b", way, sampler=sampler, batch_size=6, shard_size=4)
    ours = stored(tmp_path / "a")
    assert len({picture.tobytes() for picture in ours.values()}) == 6
    assert_alike(ours, stored(tmp_path / "b"))
    alone = InterpolatedVectors(FACES, **{**ends, "each": 1})
    drawn(tmp_path / "c", alone, sampler=sampler)
    assert_alike({row: ours[row] for row in range(3)}, stored(tmp_path / "c"))


@torch.no_grad()
def test_a_sample_is_the_samplers_answer_to_its_code(tmp_path):
    pdae = tiny_pdae(STAGES)
    task = drawn(tmp_path, pictures(), pdae)
    codes = pdae.codes(torch.stack([FACES(split="test")[i]["image"] for i in (0, 0, 1, 1, 2, 2)]))
    noise = own_noise(0, range(6), (3, 16, 16))(task.steps)
    told = Given(vector=codes)
    expected = DDIM(
        lambda x, t: task.net(x, t, told),
        noise,
        pdae.denoiser.process,
        objective=task.objective,
        stop=0,
    ).x
    kept = np.load(tmp_path / "conditions.npz")
    np.testing.assert_allclose(kept["vectors"], codes.numpy(), rtol=1e-5)
    assert kept["source"].tolist() == [0, 0, 1, 1, 2, 2]
    assert kept["pictures"].shape == (3, 16, 16, 3)
    ours = np.stack([picture for _, picture in sorted(stored(tmp_path).items())])
    theirs = ((expected.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_a_broken_run_goes_on_with_the_same_vectors(tmp_path):
    drawn(tmp_path, pictures())
    whole, kept = stored(tmp_path), (tmp_path / "conditions.npz").read_bytes()
    (tmp_path / "samples_000003-000005.npz").unlink()
    drawn(tmp_path, pictures(), batch_size=1)
    assert_alike(whole, stored(tmp_path))
    assert (tmp_path / "conditions.npz").read_bytes() == kept
    facts = json.loads((tmp_path / "samples.json").read_text())
    assert facts["condition"] == "pictures"
    assert facts["each"] == 2
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 128  # source, two samples, deviation
    with pytest.raises(UserError, match="their masked is True, and now False"):
        drawn(tmp_path, pictures(), masked=False)
    for other in (pictures(split="train", number=2), pictures(number=2, each=3)):
        with pytest.raises(UserError, match="holds other samples"):
            drawn(tmp_path, other, number=6 if other.number == 6 else 4)


def test_a_file_of_the_same_vectors_draws_the_same(tmp_path):
    drawn(tmp_path / "a", pictures())
    vectors = np.load(tmp_path / "a/conditions.npz")["vectors"]
    np.savez(tmp_path / "mine.npz", vectors=vectors)
    drawn(tmp_path / "b", FileVectors(str(tmp_path / "mine.npz")))
    assert_alike(stored(tmp_path / "a"), stored(tmp_path / "b"))


def test_the_last_steps_may_see_no_vector(tmp_path):
    pdae, asked = tiny_pdae(), []
    pdae.shift.register_forward_hook(lambda *_: asked.append(1))
    drawn(tmp_path / "half", pictures(undirected=0.5), pdae, batch_size=6, shard_size=6)
    assert len(asked) == 2  # of four steps
    drawn(tmp_path / "none", pictures(undirected=1.0), pdae, batch_size=6, shard_size=6)
    assert len(asked) == 2
    plain = draw(tmp_path / "bare", 6, net=tiny_pdae(), sampler=DDIM, batch_size=6, shard_size=6)
    assert plain.rows is None
    assert_alike(stored(tmp_path / "none"), stored(tmp_path / "bare"))
    assert len({p.tobytes() for p in stored(tmp_path / "half").values()}) == 6


def test_pictures_of_files(tmp_path):
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        (tmp_path / "mine").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"mine/{i}.png")
    source = PictureVectors(path=str(tmp_path / "mine"), number=None, each=1, side=16)
    assert source.number == 2
    drawn(tmp_path / "out", source)
    assert np.load(tmp_path / "out/conditions.npz")["caption"].tolist() == ["0.png", "1.png"]
    one = PictureVectors(path=str(tmp_path / "mine/1.png"), number=1, each=2, side=16)
    drawn(tmp_path / "one", one)
    shown = NpzDataset("drawn", str(tmp_path / "out"), "train", image_size=16)
    assert len(shown) == 2  # conditions.npz is none of them
    both = [np.load(tmp_path / f"{name}/conditions.npz")["vectors"] for name in ("out", "one")]
    np.testing.assert_allclose(both[0][1], both[1][0], rtol=1e-5)


def test_mistakes_are_named(tmp_path):
    np.save(tmp_path / "wide.npy", np.zeros((2, 9), np.float32))
    np.save(tmp_path / "whole.npy", np.zeros((2, 8), np.int64))
    np.save(tmp_path / "none.npy", np.zeros((0, 8), np.float32))
    np.save(tmp_path / "nan.npy", np.full((2, 8), np.nan, np.float32))
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    np.savez(tmp_path / "two.npz", a=np.zeros(2), b=np.zeros(2))
    (tmp_path / "empty").mkdir()
    read = lambda name: FileVectors(str(tmp_path / name))  # noqa: E731
    for make, said in (
        (lambda: drawn(tmp_path / "a", read("wide.npy")), "told vectors of 8 numbers, .* has 9"),
        (lambda: read("whole.npy"), "holds int64"),
        (lambda: read("none.npy"), "one row or more"),
        (lambda: drawn(tmp_path / "b", read("nan.npy")), "vector of row 0 .* NaN or infinity"),
        (lambda: read("pickled.npy"), "is no .npy or .npz of numbers"),
        (lambda: read("two.npz"), "holds a, b: call the array of vectors `vectors`"),
        (lambda: read("nowhere.npy"), "No file condition.path="),
        (lambda: FileVectors(None), "condition.path=FILE.npy"),
        (lambda: pictures(number=5), "5 pictures are asked for, .* has 4"),
        (lambda: pictures(each=0), "condition.each is at least 1, got 0"),
        (lambda: pictures(undirected=1.5), r"lies in \[0, 1\], got 1.5"),
        (lambda: PictureVectors(path=str(tmp_path / "empty")), "holds no pictures"),
        (lambda: PictureVectors(path=str(tmp_path / "nowhere")), "neither a picture nor a folder"),
        (lambda: draw(tmp_path / "c", 6, condition=pictures()), "is told no vector"),
    ):
        with pytest.raises(UserError, match=said):
            make()
    assert network().condition.width is None
