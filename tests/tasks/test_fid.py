"""task=fid: pytorch-fid's numbers on any shards, kept statistics, what does not compare."""

import numpy as np
import pytest
import pytorch_lightning as pl
import scipy.linalg
import torch
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance

from diffdict.backbones.base import Backbone
from diffdict.backbones.inception import Inception
from diffdict.data.base import Pictures
from diffdict.data.compared import ComparedPictures
from diffdict.errors import UserError
from diffdict.features.noise import Noise
from diffdict.metrics.frechet import Statistics
from diffdict.metrics.manifold import precision_recall
from diffdict.results.inputs.feature_statistics import read_statistics, write_statistics
from diffdict.tasks.fid import Fid

SIDE = 8


def pixels(number, seed):
    random = np.random.default_rng(seed)
    bright = random.integers(40, 200, (number, 1, 1, 3))
    noise = random.integers(-40, 40, (number, SIDE, SIDE, 3))
    return (bright + noise).astype(np.uint8)


class Dots(Pictures):
    """Pictures of noise."""

    name, image_size = "dots", SIDE

    def __init__(self, split, count=23):
        self.split, self.fingerprint = split, f"dots {split} {count}"
        self.pixels = pixels(count, 1 if split == "train" else 2)

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        image = torch.from_numpy(self.pixels[index]).permute(2, 0, 1).float() / 127.5 - 1
        return {"image": image, "index": index}


class Net(Backbone):
    """Two blocks that differ by what noise adds."""

    name, image_size, num_timesteps = "net", SIDE, 1000

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.shapes = {1: (3, 4, 4), 2: (6, SIDE, SIDE)}

    def features(self, images, timestep=None, blocks=None, noise=None):
        x = self.scale * (images + noise * timestep / 1000)
        maps = {1: F.avg_pool2d(x, 2), 2: torch.cat([x, x.square()], 1)}
        return {block: maps[block] for block in self.chosen(blocks)}


@pytest.fixture
def samples(tmp_path):
    np.savez(tmp_path / "samples.npz", arr_0=pixels(17, 3))
    return str(tmp_path / "samples.npz")


def measured(folder, samples, batch_size=4, net=None, dataset=Dots, split="train", **options):
    """A whole run; statistics are kept in the folder."""
    asked = {"timestep": 50, "block": "all", "noise": Noise(shared=False), "root": str(folder)}
    data = ComparedPictures(
        dataset,
        samples=samples,
        statistics=options.get("statistics"),
        batch_size=batch_size,
        test_split=split,
    )
    facts = {key: data.facts[key] for key in ("real", "sampled")}
    module = Fid(
        net or Net(), **{**asked, **options}, **facts, dataset_name="dots", samples=samples
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", default_root_dir=folder, **quiet)
    trainer.test(module, data, verbose=False)
    return module


def distances(module):
    return [row["frechet"] for row in module.tables()["cells"]]


def vectors(images, block, noise):
    """One picture after the other."""
    rows = []
    for index, image in enumerate(images):
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        own = noise.for_pictures([index], (3, SIDE, SIDE))[0]
        rows.append(Net().features(x, 50, [block], own)[block].mean((2, 3)))
    return torch.cat(rows).detach().double().numpy()


def test_figures_are_pytorch_fids_formula(tmp_path, samples):
    module = measured(tmp_path, samples)
    for row, block in zip(module.tables()["cells"], (1, 2), strict=True):
        first, second = (
            vectors(images, block, Noise(shared=False))
            for images in (Dots("train").pixels, pixels(17, 3))
        )
        sigmas = [np.cov(x, rowvar=False) for x in (first, second)]
        root = scipy.linalg.sqrtm(sigmas[0] @ sigmas[1]).real
        wanted = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(sum(sigmas) - 2 * root)
        assert row["frechet"] == pytest.approx(wanted, rel=1e-5)
        assert (row["network"], row["timestep"], row["block"]) == ("net", 50, block)
        assert (row["pictures"], row["sampled"], row["biased"]) == (23, 17, False)
        assert row["weights"] == module.passes.net.sha256


def test_inceptions_own_vectors_have_its_score_and_sfid_beside(tmp_path, samples):
    torch.manual_seed(0)
    np.savez(samples, arr_0=pixels(6, 3))
    net = Inception(image_size=SIDE).eval()
    place = {"timestep": None, "block": [2048, "spatial"], "net": net}
    few = lambda split: Dots(split, count=6)  # noqa: E731
    module = measured(tmp_path, samples, batch_size=4, dataset=few, **place)
    spatial, pooled = module.tables()["cells"]
    assert (spatial["block"], spatial["dim"], pooled["dim"]) == ("spatial", 2023, 2048)
    assert spatial["inception_score"] is None
    images = torch.from_numpy(pixels(6, 3)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        shares = net.class_shares(net(images)).double()
    gain = (shares * (shares / shares.mean(0)).log()).sum(1).mean().exp()
    assert pooled["inception_score"] == pytest.approx(float(gain), rel=1e-6)
    rows = module.real_rows[1].compute(), module.sample_rows[1].compute()
    assert (pooled["precision"], pooled["recall"]) == precision_recall(*rows)


def test_torchmetrics_finds_the_same_through_our_inception(tmp_path, samples):
    torch.manual_seed(0)
    net = Inception(image_size=SIDE).eval()
    place = {"timestep": None, "block": 192, "net": net}  # 192: as many as a test has time for
    module = measured(tmp_path, samples, batch_size=8, **place)

    class Pooled(torch.nn.Module):
        num_features = 192

        def forward(self, images):
            x = images.float() / 127.5 - 1
            return net.features(x, blocks=[192])[192].mean((2, 3))

    theirs = FrechetInceptionDistance(feature=Pooled(), input_img_size=(3, SIDE, SIDE))
    theirs.set_dtype(torch.float64)
    for images, real in ((Dots("train").pixels, True), (pixels(17, 3), False)):
        with torch.no_grad():
            theirs.update(torch.from_numpy(images).permute(0, 3, 1, 2), real=real)
    assert distances(module)[0] == pytest.approx(float(theirs.compute()), rel=1e-4)
    assert module.tables()["cells"][0]["biased"]


def test_batches_do_not_matter(tmp_path, samples):
    whole = measured(tmp_path / "a", samples, batch_size=30)
    parted = measured(tmp_path / "b", samples, batch_size=3)
    assert distances(whole) == pytest.approx(distances(parted), rel=1e-6)
    kernel = [[row["kid"] for row in each.tables()["cells"]] for each in (whole, parted)]
    assert kernel[0] == pytest.approx(kernel[1], rel=1e-5)


def test_nothing_lies_between_a_set_and_itself(tmp_path):
    np.savez(tmp_path / "same.npz", arr_0=Dots("train").pixels)
    assert max(distances(measured(tmp_path, str(tmp_path / "same.npz")))) < 1e-6


def test_statistics_are_kept_and_taken_again(tmp_path, samples):
    first = measured(tmp_path, samples)
    kept = sorted((tmp_path / "statistics").iterdir())
    assert [path.name.rpartition("-")[0] for path in kept] == [
        "dots-train-net-t0050-b01",
        "dots-train-net-t0050-b02",
    ]
    with np.load(kept[0]) as arrays:  # what pytorch-fid reads
        assert {"mu", "sigma"} < set(arrays)
    about = read_statistics(kept[0]).provenance
    assert (about["fingerprint"], about["pictures"]) == ("dots train 23", 23)
    assert about["backbone_sha256"] == Net().sha256
    again = measured(tmp_path, samples, dataset=Unseen)
    assert again.tables() == first.tables()
    given = measured(tmp_path, samples, block=2, statistics=str(kept[1]))
    assert given.tables()["cells"] == first.tables()["cells"][1:]


class Unseen(Dots):
    """Of these no picture may be opened."""

    def __getitem__(self, index):
        raise AssertionError


@pytest.mark.parametrize(
    "change", [{"split": "test"}, {"noise": Noise(seed=1)}, {"timestep": 51}, {"compute": "bf16"}]
)
def test_statistics_of_anything_else_are_not_taken(tmp_path, samples, change):
    measured(tmp_path, samples, block=1)
    with pytest.raises(AssertionError):
        measured(tmp_path, samples, block=1, dataset=Unseen, **change)


def test_other_weights_have_statistics_of_their_own(tmp_path, samples):
    measured(tmp_path, samples, block=1)
    other = Net()
    other.scale.data.fill_(2)
    measured(tmp_path, samples, block=1, net=other)
    assert len(list((tmp_path / "statistics").iterdir())) == 2


def test_pytorch_fids_file_serves(tmp_path, samples):
    first = measured(tmp_path, samples, block=2)
    kept = read_statistics(next((tmp_path / "statistics").iterdir()))
    write_statistics(tmp_path / "theirs.npz", kept.statistics)
    row = measured(
        tmp_path, samples, block=2, statistics=str(tmp_path / "theirs.npz"), dataset=Unseen
    ).tables()["cells"][0]
    assert row["frechet"] == pytest.approx(distances(first)[0], rel=1e-12)
    assert row["kid"] is row["pictures"] is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"block": 1}, r"are of 6 values a picture, and block 1 of net gives 3"),
        ({"block": "all"}, r"those of one block, and 2 places"),
        ({"timestep": 51}, r"of other features: their timestep is 50, here it is 51"),
        ({"noise": Noise(seed=4)}, r"their noise is .*'seed': 0.*'seed': 4"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(tmp_path, samples, change, said):
    measured(tmp_path, samples, block=2)
    given = str(next((tmp_path / "statistics").iterdir()))
    with pytest.raises(UserError, match=said):
        measured(tmp_path, samples, statistics=given, **{"block": 2, **change})


def test_statistics_of_another_set_are_refused(tmp_path, samples):
    fine = Statistics(torch.zeros(6).double(), torch.eye(6).double())
    about = {"dataset": "cats", "backbone_sha256": Net().sha256, "block": 2, "timestep": 50}
    about["noise"] = Noise(shared=False).facts()
    write_statistics(tmp_path / "cats.npz", fine, about)
    with pytest.raises(UserError, match="are of cats, and the pictures asked for are dots"):
        measured(tmp_path, samples, block=2, statistics=str(tmp_path / "cats.npz"))


def test_a_damaged_file_among_the_kept_ones_is_said(tmp_path, samples):
    measured(tmp_path, samples, block=2)
    path = next((tmp_path / "statistics").iterdir())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"no whole \.npz .* made again once it is deleted"):
        measured(tmp_path, samples, block=2)


def test_one_sample_and_what_is_no_number_are_refused(tmp_path, samples):
    np.savez(tmp_path / "one.npz", arr_0=pixels(1, 0))
    with pytest.raises(UserError, match=r"hold 1 picture, and a covariance needs 2"):
        measured(tmp_path, str(tmp_path / "one.npz"))
    broken = Net()
    broken.scale.data.fill_(torch.inf)
    with pytest.raises(UserError, match="Features must be finite"):
        measured(tmp_path, samples, net=broken)
    assert not (tmp_path / "statistics").exists()
