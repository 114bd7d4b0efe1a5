"""Extractions killed, doubled and starved, and shards flipped: nothing wrong is ever read."""

import errno
import os
import random
import re
import subprocess
import time
from collections import Counter

import pytest

from diffdict.features.store.sealed import StoreError, read_sealed
from diffdict.features.store.shards import check, map_shard

pytestmark = pytest.mark.faults

PICTURES, PER_SHARD = 48, 3
IN_FLIGHT = 2  # shards a rank: one being computed, one being written


def finished(root) -> set[int]:
    """The pictures of shards that stand under their names in every stream."""
    folders = [path.parent for path in root.rglob("stream.json")]
    shards = [{int(path.name[:6]) for path in f.glob("*.safetensors")} for f in folders]
    whole = set.intersection(*shards) if len(shards) == 6 else set()
    return {PER_SHARD * shard + i for shard in whole for i in range(PER_SHARD)}


def test_thirty_kills_of_two_ranks_change_nothing(start, run, contents, undisturbed, tmp_path):
    dice, kills, wasted, interrupted = random.Random(0), 0, [], 0
    while kills < 30:
        root = tmp_path / str(kills)
        for part in range(3):
            kept, diary = finished(root), tmp_path / f"{kills}.{part}.diary"
            diary.touch()
            ranks = [start(root, rank=rank, world=2, diary=diary) for rank in range(2)]
            moment = dice.randint(0, (PICTURES - len(kept)) // 2)  # so many pictures on
            while len(diary.read_text().split()) < moment:
                assert any(process.is_alive() for process in ranks)
                time.sleep(0.002)
            interrupted += any(process.is_alive() for process in ranks)
            for process in ranks:
                process.kill()
                process.join()
            kills += 1
            computed = Counter(map(int, diary.read_text().split()))
            assert not kept & set(computed)  # what is finished is never computed again
            assert all(times == 1 for times in computed.values())
            wasted.append(len(set(computed) - finished(root)))
        assert run(root, world=2).codes == [0, 0]
        assert contents(root) == undisturbed[1]
    assert interrupted >= 25  # else the kills came too late to test anything
    assert max(wasted) <= 2 * IN_FLIGHT * PER_SHARD
    print(
        f"{kills} kills, {interrupted} in mid-extraction, {sum(wasted) / kills:.1f} pictures each"
    )


def test_two_extractions_of_the_same_at_once(both, contents, undisturbed, tmp_path):
    for attempt in range(5):
        root = tmp_path / str(attempt)
        assert both(root, {}, {}).codes == [0, 0]
        assert contents(root) == undisturbed[1]


def test_two_extractions_of_different_noise_at_once(both, open_store, tmp_path):
    for attempt in range(5):
        root = tmp_path / str(attempt)
        codes, said = both(root, {"seed": 0}, {"seed": 1})
        assert sorted(codes) == [0, 1]
        assert "holds other features than asked for: noise is" in said
        store = open_store(root)
        store.verify()
        assert store.facts["noise_seed"] == codes.index(0)


def test_every_flipped_byte_of_a_shard_is_detected(undisturbed, open_store, tmp_path):
    store, dice = open_store(undisturbed[0]), random.Random(0)
    shard = store.file("t0150-b00", 2)
    raw = shard.path.read_bytes()
    header, x = len(shard.header), len(raw) - 16 * PER_SHARD
    positions = [
        *dice.sample(range(header), 300),
        *dice.sample(range(header, x), 300),
        *range(x, len(raw)),
    ]
    flipped = shard._replace(path=tmp_path / shard.path.name)
    flipped.path.write_bytes(raw)
    check(flipped, map_shard(flipped))
    for position in positions:
        damaged = bytearray(raw)
        damaged[position] ^= 1 << dice.randrange(8)
        flipped.path.write_bytes(damaged)
        with pytest.raises(StoreError, match="000002"):
            check(flipped, map_shard(flipped))


@pytest.mark.parametrize("name", ["store.json", "mask/stream.json"])
def test_every_flipped_byte_of_the_index_is_detected_or_harmless(name, undisturbed, tmp_path):
    source = undisturbed[0] / "toy_faces" / "tiny" / "train" / name
    raw, facts, path = source.read_bytes(), read_sealed(source), tmp_path / "index.json"
    harmless = 0
    for position in range(len(raw)):
        damaged = bytearray(raw)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            harmless += read_sealed(path) == facts
            assert read_sealed(path) == facts
        except StoreError:
            continue
    assert harmless < len(raw) / 20  # white space, or an escape for the same letter


def test_an_edited_shard_length_or_number_is_refused(undisturbed, open_store, tmp_path):
    store = open_store(undisturbed[0])
    shard = store.file("mask", 1)
    raw = shard.path.read_bytes()
    moved = shard._replace(path=tmp_path / shard.path.name)
    for damaged in [raw[:-1], raw + b"\0", raw[:4096], b"", raw[:3], b"\xff" * 8 + raw[8:]]:
        moved.path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"is cut or torn|has a damaged header"):
            map_shard(moved)
    text = raw.replace(b'"shard": "000001"', b'"shard": "000003"')
    moved.path.write_bytes(text)
    with pytest.raises(StoreError, match="is another shard: mask/000003"):
        map_shard(moved)


def fill(disk, but: int) -> None:
    """Takes all but so many bytes of the disk, or every one, where a shard grows meanwhile."""
    left = os.statvfs(disk)
    try:
        (disk / "filler").write_bytes(b"\0" * (left.f_bavail * left.f_frsize - but))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def test_a_full_disk_is_one_sentence_and_goes_on(run, contents, undisturbed, small_disk):
    root = small_disk / "features"
    codes, said = run(root, before=lambda batch: batch == 3 and fill(small_disk, 8192))
    assert codes == [1]
    assert re.search(r"UserError: Disk full: .*safetensors needs .* free. Make room", said)
    assert not [*root.rglob("*.tmp")]
    assert 2 * PER_SHARD <= len(finished(root)) < 48
    (small_disk / "filler").unlink()
    assert run(root).codes == [0]
    assert contents(root) == undisturbed[1]


def test_a_disk_too_small_is_refused_before_the_first_picture(run, small_disk):
    root = small_disk / "features"
    fill(small_disk, 1_000_000)  # of 2.3 MB
    codes, said = run(root)
    assert codes == [1]
    assert "No room for the features that are missing" in said
    assert not [*root.rglob("*.safetensors")]


def test_a_read_only_store_is_read_and_never_written(run, open_store, small_disk):
    root = small_disk / "features"
    assert run(root, steps=[50]).codes == [0]
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert open_store(root)[7]["t0050-b00"].isfinite().all()
    assert "every bit" in open_store(root).verify()
    assert run(root, steps=[50]).codes == [0]  # nothing is missing: nothing is written
    codes, said = run(root)
    assert codes == [1]
    assert "Read-only file system. Choose a folder that you may write in" in said
