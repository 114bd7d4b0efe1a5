"""The ensemble as one network: the original's classifiers, and each member as if it were alone."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diffdict.bilinear.maps import NativeMaps
from diffdict.classifiers.pixel_ensemble import Ensemble, Linear, Norm, majority
from diffdict.errors import UserError
from diffdict.metrics.segmentation import top_tenth

GRIDS = [(3, 5), (12, 9), (3, 5), (1, 2)]
WIDTHS = [4, 3, 2, 5]
SIZE = (12, 10)


def alone(ensemble, i):
    """Member i as the published network."""
    sizes, layers = [ensemble.d_in, *ensemble.hidden], []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.BatchNorm1d(outputs)]
    net = nn.Sequential(*layers, nn.Linear(sizes[-1], ensemble.num_classes))
    state = {key.removeprefix("layers."): x for key, x in ensemble.member(i).items()}
    net.load_state_dict(state, strict=True)
    return net.train(ensemble.training)


def lived(members=3, d_in=14, classes=5, **options):
    """An ensemble whose every number is its own."""
    torch.manual_seed(0)
    ensemble = Ensemble(members, d_in, classes, **options)
    for key, x in ensemble.state_dict().items():
        if x.is_floating_point():
            x.copy_(torch.rand_like(x) + 0.5 if key.endswith("var") else torch.randn_like(x) / 3)
    return ensemble


def native(pictures=2, dtype=torch.float32, seed=0):
    maps = NativeMaps.empty(pictures, WIDTHS, GRIDS, SIZE, dtype)
    for room in maps.maps:
        room.copy_(torch.randn(room.shape, generator=torch.Generator().manual_seed(seed)))
    return maps


# ---------------------------------------------------------------- the original


@pytest.mark.parametrize("case", ["c15", "c34"])
def test_classifiers_and_their_prediction_are_the_originals(golden, case):
    known = golden("dseg_classifier")
    facts = known.facts["classifiers"][case]
    ensemble = Ensemble(4, facts["dim"], facts["classes"])
    for i in range(4):
        state = {
            key: known.weight(f"model_{i}.{key}", tuple(shape))
            if dtype == "float32"
            else torch.zeros(shape, dtype=torch.int64)
            for key, shape, dtype in facts["state_dict"]
        }
        ensemble.set_member(i, state, "golden")
    for probe in facts["weight_probe_model0"]:
        first = ensemble.member(0)[probe["key"]].flatten()[:3]
        torch.testing.assert_close(first, torch.tensor(probe["first3"]))
    size = tuple(known.facts["inputs"]["size"])
    x = np.random.default_rng(3101).standard_normal((240, facts["dim"]), dtype=np.float32)
    with torch.no_grad():
        logits = ensemble.eval()(torch.from_numpy(x).expand(4, -1, -1))
    for i in (0, 3):
        known.check(f"{case}.model{i}.logits", logits[i])
    maps = NativeMaps.empty(1, [facts["dim"]], [size], size, torch.float32)
    maps.maps[0].copy_(torch.from_numpy(x))
    (place, whole), *rest = ensemble.pixels(maps)
    assert (place, rest) == (slice(0, 240), [])
    torch.testing.assert_close(whole, logits, atol=2e-6, rtol=0)
    found = ensemble.predict(maps)
    known.check(f"{case}.predict.labels", found.majority)
    known.check(f"{case}.js_per_pixel", found.uncertainty.flatten())
    known.check(f"{case}.predict.uncertainty", top_tenth(found.uncertainty)[None])
    assert torch.equal(found.soft, logits.softmax(-1).mean(0).argmax(-1).view(size))


def test_widths_go_by_the_number_of_classes():
    assert [Ensemble(1, 4, n).hidden for n in (29, 30)] == [(128, 32), (256, 128)]


def test_a_fresh_member_is_a_published_one():
    ensemble = Ensemble(2, 500, 7)
    for layer in ensemble.layers:
        if isinstance(layer, Linear):
            assert float(layer.weight.detach().std(unbiased=False)) == pytest.approx(0.02, rel=0.15)
            assert not layer.bias.any()
        if isinstance(layer, Norm):
            plain = nn.BatchNorm1d(layer.weight.shape[1]).state_dict()
            assert all(torch.equal(layer.state_dict()[k][1], x) for k, x in plain.items())
    more = Ensemble(3, 500, 7)
    for i in range(2):
        assert all(torch.equal(more.member(i)[k], x) for k, x in ensemble.member(i).items())
    assert not torch.equal(more.member(0)["layers.0.weight"], more.member(1)["layers.0.weight"])


# ---------------------------------------------------------------- one by one


@pytest.mark.parametrize("hidden", [(7, 6), (4,)])
def test_steps_are_those_of_each_member_alone(hidden):
    """Five steps of Adam: outputs, weights and running statistics."""
    ensemble = Ensemble(3, 6, 4, hidden, seed=1)
    members = [alone(ensemble, i) for i in range(3)]
    ours = torch.optim.Adam(ensemble.parameters(), lr=1e-2)
    theirs = [torch.optim.Adam(net.parameters(), lr=1e-2) for net in members]
    generator = torch.Generator().manual_seed(2)
    for _ in range(5):
        x = torch.randn(3, 16, 6, generator=generator)
        y = torch.randint(4, (3, 16), generator=generator)
        losses = F.cross_entropy(ensemble(x).flatten(0, 1), y.flatten(), reduction="none")
        ours.zero_grad()
        losses.view(3, 16).mean(1).sum().backward()
        ours.step()
        for i, (net, optimizer) in enumerate(zip(members, theirs, strict=True)):
            optimizer.zero_grad()
            F.cross_entropy(net(x[i]), y[i]).backward()
            optimizer.step()
    for i, net in enumerate(members):
        for key, x in net.state_dict().items():
            torch.testing.assert_close(ensemble.member(i)[f"layers.{key}"], x, atol=1e-5, rtol=1e-5)


def test_the_first_ones_live_in_the_same_memory():
    ensemble = lived()
    part = ensemble.first(2)
    assert part.members == 2
    before = {key: x.clone() for key, x in ensemble.state_dict().items()}
    x = torch.randn(2, 8, ensemble.d_in)
    optimizer = torch.optim.SGD(part.parameters(), lr=0.1)
    part(x).square().sum().backward()
    optimizer.step()
    for key, now in ensemble.state_dict().items():
        assert torch.equal(now[2], before[key][2])
        assert not torch.equal(now[:2], before[key][:2])
    ensemble.swap(0, 2)
    assert torch.equal(part.member(0)["layers.0.weight"], before["layers.0.weight"][2])


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_pixels_are_those_of_upsampled_features(dtype):
    """The first layer before upsampling, BatchNorm in the layer after it: the same logits."""
    ensemble, maps = lived().eval(), native(dtype=dtype)
    images = [F.interpolate(x.float(), SIZE, mode="bilinear") for x in maps.images()]
    rows = torch.cat(images, 1)[1].flatten(1).T
    with torch.no_grad():
        expected = ensemble(rows.expand(3, -1, -1))
    places, parts = zip(*ensemble.pixels(maps, 1), strict=True)
    assert [p.start for p in places[1:]] == [p.stop for p in places[:-1]]
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=2e-5, rtol=1e-5)


def test_a_vote_is_the_mode_and_ties_go_to_the_smallest():
    labels = torch.randint(6, (10, 500), generator=torch.Generator().manual_seed(0))
    assert torch.equal(majority(labels, 6), labels.mode(0).values)
    assert majority(torch.tensor([[5], [2], [5], [2], [0]]), 6).tolist() == [2]


def test_soft_and_majority_may_differ():
    """Two members are a little for class 0, one is very much for class 1."""
    ensemble = Ensemble(3, 2, 2, (1,))
    layer = ensemble.layers[-1]
    layer.weight.data.zero_()
    layer.bias.data.copy_(torch.tensor([[0.1, 0], [0.1, 0], [0, 5.0]]))
    maps = NativeMaps.empty(1, [2], [(1, 1)], (2, 2), torch.float32)
    maps.maps[0].zero_()
    found = ensemble.predict(maps)
    assert found.majority.unique().tolist() == [0]
    assert found.soft.unique().tolist() == [1]
    assert (found.uncertainty > 0.1).all()


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Ensemble(1, 9, 5), r"member\.pth takes pixels of 9 dimensions to 5 classes, by 128"),
        (Ensemble(1, 14, 6), r"of 14 dimensions to 6 classes.*here they are 14, 5 and 128"),
        (Ensemble(1, 14, 5, (64, 32)), r"by 64 units at first; here they are 14, 5 and 128"),
        (Ensemble(1, 14, 5, (128,)), r"is no pixel classifier with 16 entries like layers\.0"),
    ],
)
def test_another_classifier_is_no_member(other, said):
    with pytest.raises(UserError, match=said):
        Ensemble(2, 14, 5).set_member(0, other.member(0), "member.pth")
