"""Maps that are evened: by torch's own norms, the same stored and live, and said in the facts."""

import pytest
import torch
from torch.nn import functional as F

from diffdict.errors import UserError
from diffdict.features.normalisation import Normalisation, carded_normalisation, normalisation
from diffdict.features.pooled import PooledLoader
from diffdict.features.sources import LiveSource, StoredSource
from diffdict.features.store.shards import Stream
from diffdict.sae.card import check_tokens
from tests.features.tokens.test_data_module import (
    PICTURES,
    TOKENS,
    Net,
    Pictures,
    stored,
    write_store,
)

WAYS = [("token", []), ("channel", []), ("none", [1]), ("token", [0]), ("channel", [2, 0])]
MAPS = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(0)) * 3 + 1


def test_token_is_layer_norm_and_channel_is_instance_norm():
    token, channel = normalisation("token")(MAPS), normalisation("channel")(MAPS)
    torch.testing.assert_close(token, F.layer_norm(MAPS, (6,), eps=1e-6))
    expected = F.instance_norm(MAPS.mT, eps=1e-6).mT
    torch.testing.assert_close(channel, expected, atol=1e-5, rtol=1e-5)


def test_dropped_channels_are_gone_before_anything_is_measured():
    loud = MAPS.clone()
    loud[..., 4] = 1e4
    kept = MAPS[..., [0, 1, 2, 3, 5]]
    for way in ("none", "token", "channel"):
        torch.testing.assert_close(normalisation(way, [4])(loud), normalisation(way)(kept))


def test_nothing_asked_is_nothing_done():
    assert normalisation()(MAPS) is MAPS
    assert normalisation() == Normalisation()
    assert normalisation().facts == {}


@pytest.mark.parametrize(("way", "drop"), WAYS)
@pytest.mark.parametrize("mix", ["concat", "stack"])
def test_tokens_of_a_store_are_those_of_the_network(tmp_path, way, drop, mix):
    raw = LiveSource(Pictures(), Net(), 50, [2, 3], dtype="fp32")
    write_store(tmp_path, "train", raw.streams, raw.maps(range(PICTURES)))
    done = {"normalise": way, "drop_channels": drop}
    kept = [channel for channel in range(3) if channel not in drop]
    expected = [normalisation(way)(maps[..., kept]) for maps in raw.maps(range(PICTURES))]
    where, own = (50, [2, 3]), normalisation(way, drop)
    source = StoredSource(tmp_path, "noise", "net", "train", *where, normalisation=own)
    live = LiveSource(Pictures(), Net(), *where, dtype="fp32", normalisation=own)
    for one in (source, live):
        assert [stream.channels for stream in one.streams] == [len(kept)] * 2
        assert {key: one.facts[key] for key in done} == {**done, "drop_channels": sorted(drop)}
        for found, wanted in zip(one.maps(range(PICTURES)), expected, strict=True):
            torch.testing.assert_close(found, wanted)
    data = stored(tmp_path, block=[2, 3], mix=mix, window=512, **done)
    data.setup("fit")
    assert data.facts["d_in"] == len(kept) * (2 if mix == "concat" else 1)
    assert data.facts["normalise"] == way
    rows = torch.cat([batch.clone() for batch in data.train_dataloader()])
    whole = torch.cat(expected, 2 if mix == "concat" else 0).flatten(0, 1)
    assert len(rows) == len(whole) == PICTURES * TOKENS * (1 if mix == "concat" else 2)
    torch.testing.assert_close(rows.sort(0).values, whole.sort(0).values)


def test_what_cannot_be_done_is_one_line():
    stream = Stream(6, 3, 3, "fp32", 50, 2)
    for ask, said in (
        (lambda: normalisation("layer"), "none, token, channel, got 'layer'"),
        (
            lambda: normalisation("none", [1, 1]),
            r"each once, got \[1, 1\]: data.drop_channels=\[1\]",
        ),
        (lambda: normalisation("none", ["x"]), r"data.drop_channels=\[\]"),
        (lambda: normalisation("none", [6]).streams([stream]), "from 0 to 5 of t0050-b02, got 6"),
        (lambda: normalisation("none", [-1]).streams([stream]), "got -1"),
        (lambda: normalisation("none", range(6)).streams([stream]), "not all 6 of them"),
        (lambda: normalisation("channel").streams([Stream(6, 1, 1, "fp32", 50, 2)]), "has one"),
    ):
        with pytest.raises(UserError, match=said):
            ask()
    source = LiveSource(Pictures(), Net(), 50, 2, normalisation=normalisation("channel"))
    with pytest.raises(UserError, match=r"a pooled map is these means: data.normalise=token"):
        PooledLoader(source, range(2), 2, "class")


def test_a_dictionary_of_other_tokens_is_refused():
    card = {"normalise": "token", "drop_channels": [1]}
    assert carded_normalisation(card) == normalisation("token", [1])
    assert carded_normalisation({}).plain
    check_tokens(card, card, "it")
    check_tokens({}, {}, "it")
    with pytest.raises(UserError, match=r"it was learned with data.normalise=token, .*=none"):
        check_tokens(card, {}, "it")
    with pytest.raises(UserError, match=r"data.drop_channels=\[\], .*data.drop_channels=\[1\]"):
        check_tokens({"normalise": "token"}, card, "it")
