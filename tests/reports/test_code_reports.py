"""Sheets of codes: exact ends, nothing moved by nothing, chains that stand alone, and mistakes."""

import re
from functools import partial

import numpy as np
import pytest
import scipy
import torch

from diffdict.backbones.autoencoders.autoencode import check_drawn
from diffdict.backbones.autoencoders.pdae_denoiser import PdaeDenoiser
from diffdict.backbones.denoiser import Given
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.metrics.attributes import RIDGES
from diffdict.reports.codes.chains import Chains
from diffdict.reports.codes.code_reader import fit_code_reader, read_along
from diffdict.reports.codes.parts import code_slices, random_entries
from diffdict.reports.codes.slice_effects import (
    ReadPairs,
    effect_rows,
    pair_differences,
    slice_effect,
)
from diffdict.reports.counterfactual import Counterfactual, exchange_slice
from diffdict.reports.interpolate import Interpolate, trajectory
from diffdict.reports.manipulate import Manipulate, moved_codes
from diffdict.reports.stages import Stages
from diffdict.results.inputs.directions import Directions
from tests.inputs import image, normal
from tests.tiny_pdae import STAGES, tiny_pdae

FACES = partial(ToyFaces, image_size=16, train_pictures=2, val_pictures=2, test_pictures=3)
SHEET = {"folder": "out", "dataset": FACES, "respacing": "linspace4", "clip_denoised": True}


def chains(**options):
    return Chains(tiny_pdae(STAGES), "linspace4", clip_denoised=True, **options)


def directions(weight=None):
    weight = torch.eye(8)[:2] if weight is None else weight
    return Directions(["hat", "beard"], weight, torch.zeros(2), torch.zeros(8), torch.ones(8))


def test_a_chain_does_not_depend_on_those_beside_it():
    images, codes = image(1, (3, 3, 16, 16)), normal(2, (3, 8))
    together, alone = chains(), chains(batch=1)
    noise = together.invert(images, codes)
    torch.testing.assert_close(noise, alone.invert(images, codes), atol=1e-4, rtol=1e-4)
    drawn = together.draw(noise, codes)
    torch.testing.assert_close(drawn, alone.draw(noise, codes), atol=1e-3, rtol=1e-3)
    turned = together.draw(noise.flip(0), codes.flip(0)).flip(0)
    torch.testing.assert_close(drawn, turned, atol=1e-3, rtol=1e-3)


def test_a_picture_comes_back_from_its_noise_as_steps_grow():
    pdae, errors, images = tiny_pdae(STAGES), [], image(1, (2, 3, 16, 16))
    for last in (pdae.denoiser.out[2], pdae.shift.shift_out[2]):
        last.weight.mul_(0.002)  # else so few steps along a drawn network lead nowhere
        last.bias.zero_()
    for steps in (4, 16, 32):
        own = Chains(pdae, f"linspace{steps}")
        codes = own.codes(images)
        again = own.draw(own.invert(images, codes), codes)
        errors.append(float((again - images).square().mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.03


def test_a_sampler_that_leaves_the_numbers_draws_nothing():
    broken, images = chains(), image(1, (2, 3, 16, 16))
    broken.net.pdae.denoiser.out[2].bias.fill_(torch.nan)
    with pytest.raises(UserError, match="report=stages: the sampler ended in what is no number"):
        Stages(**SHEET, pictures=2).sheet(broken, images)
    with pytest.raises(UserError, match="drew pictures that are no numbers"):
        check_drawn(images.log())


def test_shares_of_0_and_1_are_exact():
    codes = normal(1, (2, 8))
    report = Counterfactual(**SHEET, pairs=[[0, 1]], alphas=[0, 0.5, 1])
    own = report.lines(tiny_pdae(STAGES))
    assert len(own) == 4
    for line in own:
        told = exchange_slice(codes, line, report.alphas)
        begin, end = codes[line.of].clone(), codes[line.of].clone()
        begin[line.entries], end[line.entries] = codes[0, line.entries], codes[1, line.entries]
        assert torch.equal(told[0], begin)
        assert torch.equal(told[2], end)
        others = [i for i in range(8) if i not in line.entries.tolist()]
        assert torch.equal(told[:, others], codes[line.of, others].expand(3, -1))
    coming, leaving = own[:2]
    assert torch.equal(exchange_slice(codes, coming, [0.0])[0], codes[0])
    assert torch.equal(exchange_slice(codes, leaving, [1.0])[0], codes[1])
    whole = torch.cat([line.entries for line in own[::2]])
    assert sorted(whole.tolist()) == list(range(8))


def test_all_parts_with_the_others_noise_are_the_other():
    together, images = chains(), image(1, (2, 3, 16, 16))
    codes = together.codes(images)
    noise = together.invert(images, codes)
    report = Counterfactual(
        **SHEET, pairs=[[0, 1]], segments=[[0, 4]], alphas=[0, 1], noise="slerp"
    )
    coming, _ = report.lines(together.net.pdae)
    drawn = report._draw(together, codes, noise, [coming], [0.0, 1.0])[0]
    torch.testing.assert_close(drawn, together.draw(noise, codes), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_trajectory_begins_and_ends_at_its_codes():
    together = chains()
    start, codes = normal(1, (1, 3, 16, 16)), normal(2, (2, 8))
    x, t = start.repeat(2, 1, 1, 1), torch.tensor([700, 700])
    both = torch.cat([codes.flatten().repeat(2, 1), torch.tensor([[0.0], [1.0]])], 1)
    passed = []
    hook = together.net.pdae.denoiser.middle_block.register_forward_hook(
        lambda *_: passed.append(1)
    )
    mixed = trajectory(together)(both)(x, t)
    hook.remove()
    assert len(passed) == 1  # one way down for both gradients
    torch.testing.assert_close(mixed, together.net(x, t, Given(vector=codes)))


def test_nothing_is_moved_at_scale_0_and_equally_far_both_ways():
    codes = normal(1, (3, 8))
    moved = moved_codes(codes, directions(), [0, 1], [-1.0, 0.0, 1.0])
    assert moved.shape == (2, 3, 3, 8)
    assert torch.equal(moved[:, :, 1], codes.expand(2, -1, -1))
    step = moved[0, :, 2] - codes
    torch.testing.assert_close(step.norm(dim=1), torch.full((3,), 8**0.5))
    torch.testing.assert_close(codes - moved[0, :, 0], step, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="The direction of beard is zero, so nothing would move"):
        moved_codes(codes, directions(torch.eye(8)[:2] * torch.tensor([[1.0], [0.0]])), [1], [1.0])


def direction_file(path):
    """As task=direction writes it."""
    facts = {"attributes": ["glasses"], "backbone": "pdae", "backbone_sha256": None}
    buffers = {"best_weight": torch.eye(8)[:1], "best_bias": torch.zeros(1)}
    buffers |= {"code_mean": torch.zeros(8), "code_std": torch.ones(8)}
    torch.save({"direction": facts, "state_dict": buffers}, path)
    return str(path)


def test_what_moved_is_read_by_a_probe_that_knows_no_direction(tmp_path, capsys):
    faces, together = partial(FACES, train_pictures=24), chains()
    images = torch.stack([faces(split="test")[i]["image"] for i in range(3)])
    sheet = SHEET | {"dataset": faces, "direction": direction_file(tmp_path / "last.ckpt")}
    report = Manipulate(**sheet, scales=[-1, 1], pictures=1, probe_pictures=20)
    (row,) = report.sheet(together, images)[1]
    codes = together.codes(images)
    drawn = report._draw(together, codes, together.invert(images, codes), [-1.0, 1.0])[0]
    reader = fit_code_reader(together, faces(split="train"), 20)
    low, high = (reader.read(together, drawn[:, side]) for side in (0, 1))
    change, own = ((high - low) / reader.deviation).mean(0), reader.names.index("glasses")
    assert row["moved"] == pytest.approx(float(change[own]), rel=1e-3)
    others = ((high - low) / reader.deviation).abs().mean(0)
    others = torch.cat([others[:own], others[own + 1 :]]).mean()
    assert row["others_moved"] == pytest.approx(float(others), rel=1e-3)
    assert (row["read_by"], row["pictures"]) == ("ridge", 3)
    for words in ({"probe": None}, {"dataset": FACES}):
        (row,) = Manipulate(**sheet | words, scales=[-1, 1], pictures=1).sheet(together, images)[1]
        assert row["read_by"] == "direction"
    assert "tell no attribute apart" in capsys.readouterr().out


def test_readings_follow_all_the_way_or_not_at_all():
    begin, end, differ = normal(1, (6, 3)), normal(2, (6, 3)), normal(3, (6, 3)) > 0
    pairs = ReadPairs(begin, end, differ, ~differ, torch.tensor([1.0, 2.0, 4.0]))
    arrived, stayed = slice_effect(pairs, end), slice_effect(pairs, begin)
    torch.testing.assert_close(arrived.followed, torch.ones(3))
    torch.testing.assert_close(stayed.followed, torch.zeros(3))
    assert torch.equal(stayed.moved, torch.zeros(3))
    halfway = slice_effect(pairs, torch.lerp(begin, end, 0.5))
    torch.testing.assert_close(halfway.followed, torch.full((3,), 0.5))
    for column in range(3):
        own = (end - begin)[~differ[:, column], column] / (1.0, 2.0, 4.0)[column]
        torch.testing.assert_close(arrived.moved[column], own.square().mean().sqrt())
    rows = effect_rows("stage 0", 2, ["hat", "beard", "wave"], pairs, [arrived, stayed])
    assert [row["attribute"] for row in rows] == ["mean", "hat", "beard", "wave"]
    assert rows[0]["followed"] == pytest.approx(1)
    assert rows[0]["random_followed"] == 0
    assert [row["differing"] for row in rows] == [6, *differ.sum(0).tolist()]


def test_pairs_differ_as_the_set_says_and_else_as_they_are_read():
    faces, reader = FACES(split="test"), read_along(directions())
    begin, end = torch.tensor([[1.0, -1.0]]), torch.tensor([[-1.0, -1.0]])
    differ, alike = pair_differences(faces, [(0, 1)], reader, begin, end)
    truth = torch.stack([faces[i]["attributes"] for i in (0, 1)])
    places = {attribute.name: place for place, attribute in enumerate(faces.attributes)}
    hats = truth[:, places["hat"]]
    assert bool(differ[0, 0]) == bool(hats[0] != hats[1]) != bool(alike[0, 0])
    unheard = reader._replace(names=["no such", "nor this"])
    differ, alike = pair_differences(faces, [(0, 1)], unheard, begin, end)
    assert (differ.tolist(), alike.tolist()) == ([[True, False]], [[False, True]])
    numbers = unheard._replace(binary=torch.zeros(2, dtype=torch.bool))
    differ, alike = pair_differences(faces, [(0, 1)], numbers, begin, end - 0.4)
    assert (differ.tolist(), alike.tolist()) == ([[True, False]], [[False, True]])


def test_the_probe_of_a_sheet_is_ridge_in_closed_form():
    faces = partial(ToyFaces, image_size=16, train_pictures=24)(split="train")
    together = chains(batch=5)
    reader = fit_code_reader(together, faces, 20)
    assert {"glasses", "yaw"} <= set(reader.names) <= {one.name for one in faces.attributes}
    images = torch.stack([faces[i]["image"] for i in range(20)])
    rows = together.codes(images).double().numpy()
    place = reader.names.index("yaw")
    column = [one.name for one in faces.attributes].index("yaw")
    truth = torch.stack([faces[i]["attributes"][column] for i in range(20)]).double().numpy()
    scale = rows.std(0)
    x, y = (rows - rows.mean(0)) / scale, truth - truth.mean()
    said = reader.read(together, images)[:, place].double()
    answers = []
    for ridge in RIDGES:
        tall = np.concatenate([x, np.sqrt(20 * ridge) * np.eye(8)])
        weight = scipy.linalg.lstsq(tall, np.concatenate([y, np.zeros(8)]))[0]
        answers.append((said - torch.from_numpy(x @ weight + truth.mean())).abs().max())
    assert min(answers) < 1e-5
    assert reader.deviation.shape == reader.cutoffs.shape == (len(reader.names),)


def test_a_set_that_says_nothing_has_no_probe(capsys):
    class Unnamed(ToyFaces):
        attributes = ()

    faces = Unnamed("train", image_size=16, train_pictures=8)
    assert fit_code_reader(chains(), faces, 8) is None
    assert "says no attributes" in capsys.readouterr().out
    assert fit_code_reader(chains(), FACES(split="train"), 8) is None
    assert "tell no attribute apart" in capsys.readouterr().out


def test_beneath_each_picture_stands_what_moves():
    report = Counterfactual(**SHEET, pairs=[[0, 1]], alphas=[0, 1])
    images = torch.stack([FACES(split="test")[i]["image"] for i in range(2)])
    (line, *_), drawn = report.lines(tiny_pdae(STAGES)), images
    assert report._captions(chains(), images, line, drawn) == [
        *("stage 0 comes", "0", "1", "the other"),
    ]
    report.reader = read_along(directions())
    words = report._captions(chains(), images, line, drawn)
    assert words[0].startswith("stage 0 comes")
    assert words[1].split()[:1] + words[2].split()[:1] == ["0", "1"]
    assert words[1].split()[1] in ("hat", "beard")
    assert all(len(word) <= 20 for word in words)


def test_parts_of_a_code():
    pdae = tiny_pdae(STAGES)
    names = {part.name: part.entries for part in code_slices(pdae, None, "stages")}
    assert names == {"stage 0": slice(0, 2), "stage 1": slice(2, 8)}
    (part,) = code_slices(pdae, [[1, 3]], "counterfactual")
    ends = pdae.segments.ends.tolist()
    assert part.entries == slice(ends[0], ends[2])
    entries = random_entries(8, part, 0)
    assert len(set(entries.tolist())) == ends[2] - ends[0]
    assert len(code_slices(tiny_pdae(), None, "stages")) == 8
    assert len(code_slices(tiny_pdae({"number": 4}), None, "stages")) == 4
    empty = tiny_pdae({"number": 4, "stages": [250, 500, 1000], "dims": [2, 0, 6]})
    assert [part.name for part in code_slices(empty, "stages", "stages")] == ["stage 0", "stage 2"]


def test_the_figures_and_tables_of_each_sheet():
    together, images = chains(), torch.stack([FACES(split="test")[i]["image"] for i in range(2)])
    figure, rows = Stages(**SHEET, pictures=2).sheet(together, images)
    assert [row["part"] for row in rows] == ["stage 1", "stage 0"]
    assert rows[0]["entries"] == 6
    assert figure.width > 4 * 128
    report = Counterfactual(**SHEET, pairs=[[0, 1]], alphas=[0, 1])
    report.reader, report.shown = read_along(directions()), FACES(split="test")
    _, rows = report.sheet(together, images)
    assert [(row["part"], row["attribute"]) for row in rows] == [
        (f"stage {stage}", name) for stage in (0, 1) for name in ("mean", "hat", "beard")
    ]
    assert all(row["differing"] <= 1 for row in rows)
    figure, rows = Interpolate(**SHEET, steps=3, segments="stages").sheet(together, images)
    assert rows == []
    assert figure.height > 4 * 128  # both, trajectory, two stages


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Counterfactual(**SHEET, alphas=[1.5]), "alphas lie in [0, 1], got [1.5]"),
        (lambda: Counterfactual(**SHEET, noise="any"), "noise is own or slerp, got 'any'"),
        (lambda: Counterfactual(**SHEET, pairs=[[0]]), "pairs are two pictures each, got [[0]]"),
        (lambda: Interpolate(**SHEET, steps=1), "steps is at least 2, both ends, got 1"),
        (lambda: Stages(**SHEET, pictures=0), "report.stages.pictures is at least 1, got 0"),
        (lambda: chains(batch=0), "batch is at least 1, got 0"),
        (
            lambda: code_slices(tiny_pdae(STAGES), [[2, 6]], "counterfactual"),
            "within the 4 segments of pdae, got [2, 6]",
        ),
        (
            lambda: code_slices(tiny_pdae(), [[0, 1]], "counterfactual"),
            "pdae has a code without segments",
        ),
    ],
)
def test_mistakes_are_named(make, said):
    with pytest.raises(UserError, match=re.escape(said)):
        make()


def test_the_same_picture_twice_is_told(capsys):
    Interpolate(**SHEET, pairs=[[1, 1]])
    assert "picture 1 stands twice in a pair" in capsys.readouterr().out
    assert isinstance(chains().net, PdaeDenoiser)
