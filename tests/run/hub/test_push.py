"""Dictionaries and features go onto a hub and come back the same; mistakes are one line."""

import json
import re
import shutil
import sys

import huggingface_hub
import pytest
import torch

from diffdict import __main__
from diffdict.dictionary import Dictionary
from diffdict.errors import UserError
from diffdict.features.store import FeatureStore
from diffdict.files import hub_address, hub_repository
from diffdict.run.hub.pull import pull
from diffdict.run.hub.push import push
from diffdict.sae import saelens
from diffdict.sae.topk import TopK
from tests.fake_hub import serving
from tests.features.store.test_feature_store import fill, identity, streams

MIT = {"licence": "mit"}
FIGURES = {
    "test/fvu": 0.25,
    "test/iou": 0.5,
    "test/iou_channels": 0.375,
    "test/iou_pca": 0.3125,
    "test/iou_random": 0.125,
    "test/iou_permuted": 0.0625,
}
CARD = {
    "sae": {"architecture": "topk", "d_in": 6, "latents": 24, "k": 2},
    "dataset": "drawn",
    "dataset_hash": "ab12",
    "split": "train",
    "pictures": 10,
    "class_names": ["sky", "sea"],
    "backbone": {"name": "tiny", "checkpoint": "tiny.pt", "revision": "v7"},
    "backbone_sha256": "0f" * 32,
    "timestep": 50,
    "block": 3,
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that this process knows as the only one."""
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for name, value in (
            ("HF_HUB_DISABLE_XET", True),
            ("HF_HUB_CACHE", str(tmp_path / "cache")),
            ("HF_TOKEN_PATH", str(tmp_path / "token")),
        ):
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        yield hub


def dictionary(seed: int) -> TopK:
    sae = TopK(6, torch.arange(6.0), 2.0, latents=24, k=2)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in sae.parameters():
            weight.copy_(torch.randn(weight.shape))
    return sae


@pytest.fixture
def run(tmp_path):
    """A run's folder, with all that a push may take of it."""
    folder = tmp_path / "run"
    saelens.export(dictionary(0), folder / "dictionary", CARD)
    write_results(folder, FIGURES)
    (folder / "classes.csv").write_text("class,latent\nsky,3\n")
    (folder / "last.ckpt").write_bytes(b"not for others")
    (folder / "grid").mkdir()
    (folder / "grid" / "concepts.png").write_bytes(b"\x89PNG of concepts")
    return folder


def write_results(folder, metrics, **config):
    folder.mkdir(exist_ok=True)
    results = {"format": 1, "task": "sae", "config": config, "metrics": metrics}
    (folder / "results.json").write_text(json.dumps(results))


def test_a_dictionary_comes_back_with_the_same_codes(hub, run):
    push(str(run), "hf://user/faces", MIT)
    tokens = torch.randn(50, 6)
    here, there = Dictionary.load(run).sae, Dictionary.load("hf://user/faces").sae
    assert torch.equal(here.encode(tokens), there.encode(tokens))
    assert torch.equal(here.decode(here.encode(tokens)), there.decode(there.encode(tokens)))
    names = {*hub.files("models/user/faces")}
    parts = {f"dictionary/{name}" for name in ("cfg.json", "sae_weights.safetensors", "card.json")}
    assert names == parts | {"README.md", "concepts.png", "classes.csv"}, "and no checkpoint"


def test_the_card_says_what_the_run_knows(hub, run):
    push(str(run), "hf://user/faces", {"licence": "cc-by-nc-4.0"})
    text = hub.files("models/user/faces")["README.md"].data.decode()
    head = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1].splitlines()
    assert "license: cc-by-nc-4.0" in head
    for fact in ("drawn, 10 of its train split", "ab12", "sky, sea", "tiny.pt", "v7", "0f" * 32):
        assert f"| {fact} |" in text
    assert "| timestep | 50 |\n| block | 3 |" in text
    assert "| mean | 0.5 | 0.375 | 0.3125 | 0.125 | 0.0625 |" in text
    assert "| fvu | 0.25 |" in text
    assert "(concepts.png)" in text


def test_what_shows_pictures_can_stay_at_home(hub, run):
    push(str(run), "hf://user/faces", {**MIT, "grid": "false", "private": "true"})
    files = hub.files("models/user/faces")
    assert "concepts.png" not in files
    assert b"concepts.png" not in files["README.md"].data
    assert hub.private["models/user/faces"]


def test_figures_of_an_evaluation_of_this_run(hub, run, tmp_path):
    for name, checkpoint in (("page", run / "last.ckpt"), ("other", tmp_path / "x" / "last.ckpt")):
        write_results(tmp_path / name, {"test/fvu": 0.75}, ckpt_path=str(checkpoint))
    push(str(run), "hf://user/faces", {**MIT, "evaluation": str(tmp_path / "page")})
    assert b"| fvu | 0.75 |" in hub.files("models/user/faces")["README.md"].data
    with pytest.raises(UserError, match=r"evaluation=.*other is of .*x/last.ckpt: name a run"):
        push(str(run), "hf://user/faces", {**MIT, "evaluation": str(tmp_path / "other")})


def test_a_second_push_sends_what_changed_and_leaves_nothing_old(hub, run):
    push(str(run), "hf://user/faces", MIT)
    before = hub.commits
    assert "0 of 6 files were new" in push(str(run), "hf://user/faces", MIT)
    assert hub.commits == before, "nothing to say is no commit"
    shutil.rmtree(run / "dictionary")
    for seed, name in enumerate(("scale4", "scale8")):
        saelens.export(dictionary(seed), run / "dictionary" / name, CARD)
    write_results(run, {"test/scale8/fvu": 0.5, "test/scale8/iou": 0.25})
    push(str(run), "hf://user/faces", MIT)
    assert hub.commits == before + 1, "whole or not at all"
    files = hub.files("models/user/faces")
    assert "dictionary/cfg.json" not in files
    assert "dictionary/scale8/cfg.json" in files
    assert b"Figures on test pictures: scale8" in files["README.md"].data
    with pytest.raises(UserError, match="holds 2 dictionaries"):
        Dictionary.load("hf://user/faces")
    inside = Dictionary.load("hf://user/faces/dictionary/scale8").sae
    assert torch.equal(inside.W_enc, Dictionary.load(run, "scale8").sae.W_enc)


def test_a_revision_stays_what_it_was(hub, run):
    push(str(run), "hf://user/faces", MIT)
    first = hub.repositories["models/user/faces"][-1][0]
    old = Dictionary.load("hf://user/faces").sae.W_enc.clone()
    saelens.export(dictionary(9), run / "dictionary", CARD)
    push(str(run), "hf://user/faces", MIT)
    assert not torch.equal(Dictionary.load("hf://user/faces").sae.W_enc, old)
    assert torch.equal(Dictionary.load(f"hf://user/faces@{first}").sae.W_enc, old)


def test_without_a_network_what_was_fetched_is_read(hub, run, monkeypatch):
    push(str(run), "hf://user/faces", MIT)
    Dictionary.load("hf://user/faces")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert Dictionary.load("hf://user/faces").sae.latents == 24
    with pytest.raises(UserError, match="hf://user/sea cannot be reached") as error:
        Dictionary.load("hf://user/sea")
    assert "\n" not in str(error.value)


@pytest.fixture
def features(tmp_path):
    """A folder of two stores, of 3 shards each in two streams."""
    root = tmp_path / "features"
    for split in ("train", "test"):
        place = root / "toy_faces" / "toy_ddpm" / split
        fill(FeatureStore.create(place, identity(split=split), streams(steps=(50,), blocks=(5,))))
    return root


def test_features_come_back_and_a_broken_push_goes_on(hub, features, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_repository, "FILES", 4)
    hub.commits_left = 2
    with pytest.raises(UserError, match=r"the line broke.*the same command goes on"):
        push(str(features), "hf://datasets/user/seen", MIT)
    there = {*hub.files("datasets/user/seen")}
    assert len(there) == 8
    assert not any(name.endswith("store.json") for name in there), "no store before all its shards"
    hub.commits_left, hub.requests = None, []
    push(str(features), "hf://datasets/user/seen", MIT)
    assert len(hub.files("datasets/user/seen")) == 2 * (3 * 2 + 2 + 1) + 1
    assert sum("/commit/" in each for each in hub.requests) == 4, "10 files by 4, and the card"
    for split in ("train", "test"):
        shard = f"toy_faces/toy_ddpm/{split}/t0050-b05/000000.safetensors"
        ours = (features / shard).read_bytes()
        assert hub.files("datasets/user/seen")[shard].data == ours
    pulled = tmp_path / "pulled"
    assert "every bit" in pull("hf://datasets/user/seen", str(pulled))
    lost = pulled / "toy_faces/toy_ddpm/train/t0050-b05/000001.safetensors"
    lost.unlink()
    hub.sent = []
    pull("hf://datasets/user/seen", str(pulled))
    assert hub.sent == [str(lost.relative_to(pulled))], "only what is missing"
    ours = FeatureStore.open(features / "toy_faces/toy_ddpm/train")
    theirs = FeatureStore.open(pulled / "toy_faces/toy_ddpm/train")
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_features_never_mix_with_others(hub, features, tmp_path):
    push(str(features), "hf://datasets/user/seen", MIT)
    other = tmp_path / "other"
    place = other / "toy_faces" / "toy_ddpm" / "train"
    fill(FeatureStore.create(place, identity(dataset_hash="x"), streams(blocks=(5,))))
    before = {path: path.read_bytes() for path in place.rglob("*.json")}
    with pytest.raises(UserError, match="holds other features as toy_faces/toy_ddpm/train"):
        push(str(other), "hf://datasets/user/seen", MIT)
    with pytest.raises(UserError, match="is of other features"):
        pull("hf://datasets/user/seen", str(other))
    assert {path: path.read_bytes() for path in place.rglob("*.json")} == before
    assert not (other / "toy_faces" / "toy_ddpm" / "test").exists()


BAD = [  # words of `diffdict`, and what the one line says
    (["push", "run", "hf://user/faces"], "licence=cc-by-4.0"),
    (["push", "run", "hf://user/faces", "license=mit"], "license is no setting of push: licence"),
    (["push", "run", "hf://user/faces", "mit"], "mit has no place here"),
    (["push", "run", "hf://user/faces", "licence=mit", "private=maybe"], "'maybe': private=true"),
    (["push", "run", "hf://faces", "licence=mit"], "hf://USER/NAME"),
    (["push", "run", "hf://user/../x", "licence=mit"], "hf://USER/NAME"),
    (["push", "run", "user/faces", "licence=mit"], "'user/faces' is no address"),
    (["push", "run", "hf://user/faces/inside", "licence=mit"], "hf://user/faces"),
    (["push", "run", "hf://datasets/user/faces", "licence=mit"], "a dictionary goes to hf://user"),
    (["push", "features", "hf://user/faces", "licence=mit"], "hf://datasets/user/faces"),
    (["push", "nowhere", "hf://user/faces", "licence=mit"], "nowhere is no folder"),
    (["push", "cache", "hf://user/faces", "licence=mit"], "neither a dictionary nor features"),
    (["push", "run", "hf://user/faces", "licence=mit", "evaluation=cache"], "no results.json"),
    (["pull", "hf://datasets/user/nothing", "pulled"], "is not there, or not for you"),
    (["pull", "hf://user/old", "pulled"], "holds no features"),
    (["pull", "hf://user/old@v9", "pulled"], "no such revision: leave @v9 out"),
]


@pytest.mark.parametrize(("words", "said"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_a_mistake_is_one_line(hub, run, features, tmp_path, capsys, monkeypatch, words, said):
    (tmp_path / "cache").mkdir(exist_ok=True)
    push(str(run), "hf://user/old", MIT)
    before = hub.commits
    assert spoken(words, tmp_path, capsys, monkeypatch).find(said) > 0
    assert hub.commits == before
    assert "models/user/faces" not in hub.repositories, "nothing half-made there"
    assert not (tmp_path / "pulled").exists()


def spoken(words, folder, capsys, monkeypatch) -> str:
    """What the command says when it ends in a mistake."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["diffdict", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        __main__.main()
    lines = capsys.readouterr().err.strip().splitlines()
    assert (end.value.code, len(lines)) == (2, 1), lines
    assert lines[0].startswith(f"{words[0]}: ")
    return lines[0]


PUSH = ["push", "run", "hf://user/faces", "licence=mit"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [("gated", "accept its terms at https://"), ("readable_only", "HF_TOKEN")],
)
def test_what_the_hub_refuses_is_one_line(hub, run, tmp_path, capsys, monkeypatch, fault, said):
    setattr(hub, fault, True)
    assert said in spoken(PUSH, tmp_path, capsys, monkeypatch)


def test_a_hub_that_is_not_there_is_one_line(hub, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in spoken(PUSH, tmp_path, capsys, monkeypatch)


def test_without_the_extra_one_line(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = spoken(PUSH, tmp_path, capsys, monkeypatch)
    assert "pip install 'diffdict[hub]'" in line
    with pytest.raises(UserError, match=r"diffdict\[hub\]"):
        Dictionary.load("hf://user/faces")


def test_no_grid_without_a_report_and_no_figures_without_a_test(hub, run):
    shutil.rmtree(run / "grid")
    (run / "results.json").unlink()
    assert "No figures" in push(str(run), "hf://user/faces", MIT)
    text = hub.files("models/user/faces")["README.md"].data.decode()
    assert "Figures" not in text
    assert "concepts.png" not in text


@pytest.mark.parametrize(
    "typed",
    ["hf://user/name", "hf://datasets/user/name@v1.0", "hf://user/na-me@main/dictionary/scale8"],
)
def test_an_address_is_read_as_it_is_written(typed):
    assert str(hub_address(typed)) == typed
