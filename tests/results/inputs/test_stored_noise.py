"""Folders of noise are read when they are whole and as they were written, else refused by name."""

import json

import numpy as np
import pytest
import torch

from diffdict.errors import UserError
from diffdict.results.inputs.stored_noise import RECORD, StoredNoise, shard_name

FACTS = {
    "backbone": "net",
    "sha256": "a" * 64,
    "dataset": "faces",
    "split": "test",
    "respacing": "ddim4",
    "clip_denoised": False,
    "steps": 3,
    "timestep": 750,
    "image_size": 4,
    "number": 5,
    "shard_size": 2,
}
NOISE = np.random.default_rng(0).standard_normal((5, 3, 4, 4), dtype=np.float32)


@pytest.fixture
def folder(tmp_path):
    """Five pictures' noise in three shards."""
    (tmp_path / RECORD).write_text(json.dumps(FACTS))
    for start in range(0, 5, 2):
        rows = range(start, min(start + 2, 5))
        labels = np.array(rows) * 10
        np.savez(tmp_path / shard_name(rows), noise=NOISE[rows.start : rows.stop], label=labels)
    return tmp_path


def test_rows_come_by_index_in_any_order(folder):
    held = StoredNoise(folder)
    held.check_whole()
    wanted = [4, 0, 3, 0]
    assert torch.equal(held.noise(wanted), torch.from_numpy(NOISE[wanted]))
    assert held.labels(wanted).tolist() == [40, 0, 30, 0]


def test_the_fingerprint_follows_every_fact(folder):
    before = StoredNoise(folder).fingerprint
    (folder / RECORD).write_text(json.dumps(dict(reversed(FACTS.items())), indent=2))
    assert StoredNoise(folder).fingerprint == before
    (folder / RECORD).write_text(json.dumps(FACTS | {"timestep": 751}))
    assert StoredNoise(folder).fingerprint != before


def test_the_network_size_and_chain_are_those_of_the_noise(folder):
    held = StoredNoise(folder)
    held.check_network("net", "a" * 64, 4)
    held.check_timestep(750, "ddim4")
    for check, rule in (
        (lambda: held.check_network("net", "b" * 64, 4), "with other weights"),
        (lambda: held.check_network("net", "a" * 64, 8), "noise of 4×4, net draws 8×8"),
        (lambda: held.check_timestep(980, "ddim50"), "sampler.respacing=ddim4"),
        (lambda: held.check_whole(6), "noise of 5 pictures, and 6"),
    ):
        with pytest.raises(UserError, match=rule):
            check()


def test_a_missing_shard_is_named_unless_it_is_not_asked_for(folder):
    (folder / shard_name(range(4, 5))).unlink()
    held = StoredNoise(folder)
    held.check_whole(4)
    with pytest.raises(UserError, match="2 of its 3 shards"):
        held.check_whole()
    (folder / RECORD).write_text(json.dumps(FACTS | {"number": 10**15}))
    with pytest.raises(UserError, match="2 of its 500000000000000 shards"):
        StoredNoise(folder).check_whole()


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps(FACTS | {"number": 0}).encode(),
        json.dumps(FACTS | {"shard_size": True}).encode(),
        json.dumps({k: v for k, v in FACTS.items() if k != "sha256"}).encode(),
    ],
)
def test_a_damaged_record_is_refused(folder, record):
    (folder / RECORD).write_bytes(record)
    with pytest.raises(UserError, match=r"noise\.json (cannot be read|was edited)"):
        StoredNoise(folder)


def test_other_folders_are_no_noise(tmp_path):
    with pytest.raises(UserError, match=r"holds no noise\.json"):
        StoredNoise(tmp_path / "nowhere")


class Code:
    def __reduce__(self):
        return exec, ("raise SystemExit",)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"noise": NOISE[:1]}, r"float32 of shape \[1, 3, 4, 4\]"),
        ({"noise": NOISE[:2].astype(np.float64)}, "float64"),
        ({"noise": NOISE[:2, :, :2]}, r"\[2, 3, 2, 4\]"),
        ({"noise": np.full((2, 3, 4, 4), np.nan, np.float32)}, "float32"),
        ({"noise": np.array([Code(), Code()], dtype=object)}, "Object arrays"),
        ({"noise": np.float32(1)}, r"shape \[\]"),
        ({"other": NOISE[:2]}, "holds no noise"),
    ],
)
def test_a_shard_of_another_form_is_refused(folder, arrays, named):
    np.savez(folder / shard_name(range(2)), **arrays)
    with pytest.raises(UserError, match=f"noise_000000-000001.npz is no whole shard.*{named}"):
        StoredNoise(folder).noise([0])


@pytest.mark.parametrize("kept", [0, 10, 300, -1])
def test_a_truncated_or_flipped_shard_is_refused(folder, kept):
    path = folder / shard_name(range(2))
    whole = bytearray(path.read_bytes())
    if kept == -1:
        whole[250] ^= 1
    path.write_bytes(whole if kept == -1 else whole[:kept])
    if kept != -1:
        with pytest.raises(UserError, match=r"000001\.npz is no whole shard"):
            StoredNoise(folder).check_whole()
    with pytest.raises(UserError, match=r"delete it and run the same extract\.py"):
        StoredNoise(folder).noise([0])
