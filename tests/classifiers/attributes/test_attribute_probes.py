"""Closed-form probes at every place: parts are as if alone, and what is unknown changes nothing."""

import numpy as np
import pytest
import torch

from diffdict.backbones.code_encoder import CodeEncoder
from diffdict.classifiers.attributes.attribute_probes import CHOOSE, FIT, TEST, AttributeProbes
from diffdict.classifiers.attributes.attribute_sweep import AttributeSweep
from diffdict.data.attributes import Attribute
from diffdict.diffusion.segments import CodeSegments
from diffdict.errors import UserError
from diffdict.features.codes.code_parts import CodePart, code_parts
from diffdict.features.pooled import PooledPictures
from diffdict.features.store.shards import Stream

ATTRIBUTES = [
    Attribute("sign", "binary", "same"),
    Attribute("size", "number", "same"),
    Attribute("seen", "binary", "same"),
]
RIDGES = [1e-3, 1e-1, 10.0]
CODE = Stream(6, 1, 1, "fp32", None, "code")
STAGE = Stream(2, 1, 1, "fp32", None, "stage0")
PARTS = [
    CodePart("code", "whole", 0, 6),
    CodePart("stage0", "stage", 0, 2, 0, 499),
    CodePart("segment1", "segment", 2, 6, 500, 999),
    CodePart("prefix0", "prefix", 0, 2, 0, 499),
    CodePart("prefix1", "prefix", 0, 6, 500, 999),
]


def pictures(count, seed):
    """Codes whose third entry says the sign and whose first the size; half are not seen."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(count, 6, generator=generator) * torch.tensor([1, 9, 1, 1, 1e-2, 1])
    size = codes[:, 0] + 0.3 * torch.randn(count, generator=generator)
    sign = (codes[:, 2] > 0.2).float()
    seen = torch.where(sign > 0, (codes[:, 3] > 0).float(), torch.nan)
    return codes, torch.stack([sign, size, seen], dim=1).double()


def measured(probes, batch=17):
    for purpose, count in ((FIT, 160), (CHOOSE, 60), (TEST, 80)):
        codes, truth = pictures(count, purpose)
        for rows in torch.arange(count).split(batch):
            vectors = [codes[rows], codes[rows][:, :2]][: len(probes.cells)]
            probes.update(purpose, vectors, truth[rows])
    return probes.compute()


def named(findings):
    return {f.place.part.name if f.place.part else f.place.cell: f for f in findings}


def test_parts_of_a_code_are_as_if_they_stood_alone():
    found, counted = measured(AttributeProbes([CODE, STAGE], ATTRIBUTES, PARTS, RIDGES, 2))
    by_name = named(found)
    assert counted.all()
    assert [*by_name] == [
        *("code", "stage0", "segment1", "prefix0", "prefix1"),
        *("random0-2", "random0-6", "random1-2", "random1-6"),
    ]
    for one, other in (("stage0", "prefix0"), ("code", "prefix1"), ("code", "random1-6")):
        torch.testing.assert_close(by_name[one].figures, by_name[other].figures)
        assert by_name[one].ridges == by_name[other].ridges
    alone, _ = measured(AttributeProbes([CODE, STAGE], ATTRIBUTES, (), RIDGES))
    torch.testing.assert_close(named(alone)[1].figures, by_name["stage0"].figures)
    assert by_name["segment1"].figures[0] > 0.95 > 0.8 > by_name["stage0"].figures[0]
    assert by_name["stage0"].figures[1] > 0.9 > 0.5 > abs(by_name["segment1"].figures[1])


def test_batches_change_nothing():
    first, _ = measured(AttributeProbes([CODE], ATTRIBUTES, PARTS, RIDGES))
    again, _ = measured(AttributeProbes([CODE], ATTRIBUTES, PARTS, RIDGES), batch=60)
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one.figures, other.figures, atol=1e-6, rtol=0)
        assert one.ridges == other.ridges


def test_the_answer_is_that_of_ridge_regression_on_known_pictures():
    """By numpy, for the attribute that half of the pictures say nothing of."""
    found, _ = measured(AttributeProbes([CODE], ATTRIBUTES, (), [0.1]))
    rows = [pictures(count, purpose) for purpose, count in ((FIT, 160), (CHOOSE, 60))]
    x, y = (torch.cat(parts).double().numpy() for parts in zip(*rows, strict=True))
    known = ~np.isnan(y[:, 2])
    x, y = x[known], y[known, 2]
    z = (x - x.mean(0)) / x.std(0)
    weight = np.linalg.solve(z.T @ z / len(z) + 0.1 * np.eye(6), z.T @ (y - y.mean()) / len(z))
    codes, truth = pictures(80, TEST)
    scores = ((codes.double().numpy() - x.mean(0)) / x.std(0)) @ weight
    shown = truth[:, 2].numpy()
    order = np.argsort(-scores[~np.isnan(shown)])
    hits = shown[~np.isnan(shown)][order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    assert float(found[0].figures[2]) == pytest.approx((precision * hits).sum() / hits.sum())


def test_an_encoder_says_its_parts():
    net = CodeEncoder(8, 12, segments=CodeSegments(12, 4, (300, 1000), (4, 8)))
    parts = {part.name: part for part in code_parts(net)}
    assert parts["stage0"] == CodePart("stage0", "stage", 0, 4, 0, 499)
    assert parts["stage1"] == CodePart("stage1", "stage", 4, 12, 500, 999)
    assert parts["segment0"][2:] == (0, 2, 0, 249)
    assert parts["prefix2"][2:] == (0, 8, 500, 749)
    assert parts["code"] == CodePart("code", "whole", 0, 12)
    assert len(parts) == 1 + 2 + 4 + 4
    assert code_parts(CodeEncoder(8, 12)) == []


def sweep(attributes=ATTRIBUTES, parts=PARTS, orders=0):
    kinds = [attribute._asdict() for attribute in attributes]
    return AttributeSweep([CODE], kinds, [one._asdict() for one in parts], RIDGES, orders, 0)


def test_tables_tell_every_attribute_at_every_place():
    probes = sweep()
    for purpose, count in ((FIT, 160), (CHOOSE, 60), (TEST, 80)):
        codes, truth = pictures(count, purpose)
        probes.update(purpose, PooledPictures([codes], truth))
    figures = probes.compute()
    assert set(figures) == {
        f"{split}/code/{name}"
        for name in ("average_precision", "pearson")
        for split in ("val", "test")
    } | {f"test/code/{name}_random" for name in ("average_precision", "pearson")}
    tables = probes.tables()
    rows = {(row["attribute"], row["part"]): row for row in tables["attributes"]}
    assert len(rows) == len(tables["attributes"]) == 3 * len(PARTS)
    assert rows["sign", "code"]["score"] > 0.9 > rows["sign", "code"]["chance"]
    assert rows["size", "code"]["r2"] == pytest.approx(rows["size", "code"]["score"] ** 2, abs=0.05)
    assert rows["sign", "code"]["mse"] is None
    assert rows["sign", "code"]["standard_error"] > 0
    assert rows["sign", "prefix0"]["standard_error"] is None
    best = {row["attribute"]: row["part"] for row in tables["best"]}
    assert best["size"] in ("code", "stage0", "prefix0", "prefix1")
    assert [row["part"] for row in tables["cells"]] == [part.name for part in PARTS]


def test_what_never_changes_is_left_out_and_told():
    probes = sweep([*ATTRIBUTES[:2], Attribute("always", "binary")])
    for purpose, count in ((FIT, 160), (CHOOSE, 60), (TEST, 80)):
        codes, truth = pictures(count, purpose)
        truth[:, 2] = 1
        probes.update(purpose, PooledPictures([codes], truth))
    with pytest.warns(UserWarning, match="Left out.*fitted on.*always"):
        probes.compute()
    rows = probes.tables()["attributes"]
    assert {row["attribute"] for row in rows if not row["in_mean"]} == {"always"}


def test_what_no_test_picture_shows_is_left_out_of_the_means():
    """And what nobody knows of any picture."""
    probes = sweep([*ATTRIBUTES[:2], Attribute("missing", "binary")])
    for purpose, count in ((FIT, 160), (CHOOSE, 60), (TEST, 80)):
        codes, truth = pictures(count, purpose)
        truth[:, 2] = 0 if purpose == TEST else truth[:, 0]
        truth[:, 1] = torch.nan
        probes.update(purpose, PooledPictures([codes], truth))
    with pytest.warns(UserWarning, match="Left out") as said:
        figures = probes.compute()
    told = [str(one.message) for one in said]
    assert any("fitted on" in line and line.endswith(": size") for line in told), told
    assert any("tested on" in line and line.endswith(": missing") for line in told), told
    assert "test/code/pearson" not in figures
    rows = {row["attribute"]: row for row in probes.tables()["attributes"]}
    assert {name for name, row in rows.items() if not row["in_mean"]} == {"missing", "size"}
    assert figures["test/code/average_precision"] > 0.9


def test_random_orders_need_a_code_with_parts():
    with pytest.raises(UserError, match=r"model.random_orders=3.*backbone.segments="):
        sweep(parts=(), orders=3)
