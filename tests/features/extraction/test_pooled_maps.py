"""Extraction with pool=mean: of each map one token, in a store beside that of the maps."""

import pytest
import torch

from diffdict.errors import UserError
from diffdict.features.sources import StoredSource
from diffdict.features.store import FeatureStore
from tests.features.extraction.test_writer import extract


@pytest.mark.parametrize("storage", ["fp16", "fp32"])
def test_pooled_maps_are_one_token_in_a_store_of_their_own(tmp_path, storage):
    words = {"timestep": [50, 150], "storage": storage}
    maps = FeatureStore.open(extract(tmp_path, **words) / "train")
    folder = extract(tmp_path, pool="mean", batch_size=5, **words)
    pooled = FeatureStore.open(folder / "train-mean")
    assert "pool" not in maps.identity  # as before there were others
    assert pooled.identity["pool"] == "mean"
    assert {name for name, s in pooled.streams.items() if s.is_label} == {"mask", "attributes"}
    assert pooled.mask(3).equal(maps.mask(3))
    values = pooled.attributes(3), maps.attributes(3)  # some are unknown
    torch.testing.assert_close(*values, rtol=0, atol=0, equal_nan=True)
    for stream in pooled.features.values():
        assert (stream.height, stream.width, stream.dtype) == (1, 1, storage)
    for index in (0, 7):
        for name in pooled.features:
            mean = maps[index][name].float().mean((1, 2))
            torch.testing.assert_close(
                pooled[index][name][:, 0, 0].float(), mean, rtol=2e-3, atol=2e-3
            )
    assert len(StoredSource(tmp_path, "toy_faces", "tiny", "train", 50, 1, pool="mean")) == 36
    with pytest.raises(UserError, match="pool is mean or null, got 'max'"):
        extract(tmp_path, pool="max")
