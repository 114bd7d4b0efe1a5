"""Exports: the installed SAELens says what we say of raw tokens; both ways, all or nothing."""

import json
import os
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffdict.errors import UserError
from diffdict.files import folder as folders
from diffdict.sae import saelens
from diffdict.sae.relu import Gated, JumpRelu, Relu
from diffdict.sae.topk import BatchTopK, Matryoshka, TopK
from diffdict.sae.variants import find_variant
from tests.processes import PATIENCE

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-saelens" / "bin" / "python"
D, LATENTS = 8, 24
MEAN = torch.linspace(20, 40, D)  # far off centre: a fold that loses digits would show
MAKE = {
    "relu": Relu,
    "relu-forward": lambda *a, **o: Relu(*a, normalise="forward", **o),
    "gated": Gated,
    "jumprelu": JumpRelu,
    "topk": lambda *a, **o: TopK(*a, k=4, aux_k=5, **o),
    "batch_topk": lambda *a, **o: BatchTopK(*a, k=4, **o),
    "matryoshka": lambda *a, **o: Matryoshka(*a, k=4, groups=(0.25, 0.25, 0.5), **o),
}
MAKE |= {f"{name}-outside": partial(MAKE[name], apply_b_dec_to_input=False) for name in MAKE}
THEIRS = [f"{a}-{b}" for a in ("standard", "gated", "jumprelu", "topk") for b in (True, False)]


def tokens():
    return MEAN + 3 * torch.randn(50, D, generator=torch.Generator().manual_seed(0))


def made(name):
    """The variant with random biases, thresholds and frequencies, as training leaves them."""
    sae = MAKE[name](D, MEAN + 0.5, 0.3, latents=LATENTS, seed=2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, value in sae.named_parameters():
            if value.ndim == 1:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
            elif key == "W_dec" and sae.normalise == "forward":
                value.mul_(1.7)
        if name.startswith(("batch_topk", "matryoshka")):
            sae.threshold.fill_(0.37)
        sae.frequency.copy_(torch.rand(LATENTS, generator=generator))
    return sae.eval()


def close(ours, theirs, size=1.0):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * size)


@pytest.fixture(scope="module")
def lens(tmp_path_factory):
    """What SAELens, installed in an environment of its own, says of our exports and of its own."""
    assert (PYTHON.parents[1] / ".installed").exists(), (
        "SAELens is not installed here, and exports are checked against it: run `make saelens` "
        "(`make test` does), which makes .venv-saelens"
    )
    path = tmp_path_factory.mktemp("lens")
    save_file({"tokens": tokens()}, path / "tokens.safetensors")
    for name in MAKE:
        saelens.export(made(name), path / "ours" / name, {"block": 4})
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("in_saelens.py"), path],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return path, load_file(path / "said.safetensors")


@pytest.mark.parametrize("name", MAKE)
def test_saelens_says_the_same_of_raw_tokens(lens, name):
    path, said = lens
    sae, x = made(name), tokens()
    order = torch.tensor(json.loads((path / "ours" / name / "card.json").read_text())["order"])
    codes = sae.encode(x)
    assert 0 < (codes > 0).float().mean() < 0.6
    told = json.loads((path / "ours" / name / "cfg.json").read_text())["apply_b_dec_to_input"]
    assert told is ("outside" not in name)
    close(codes[:, order], said[f"ours/{name}/codes"])
    close(sae.decode(codes), said[f"ours/{name}/decoded"], 50)
    close(sae(x).reconstruction, said[f"ours/{name}/forward"], 50)


@pytest.mark.parametrize("name", MAKE)
def test_our_own_come_back_as_they_were(lens, name):
    path, _ = lens
    sae, x = made(name), tokens()
    order = saelens.by_frequency(sae)
    for place in ("ours", "saved_again"):  # by SAELens, which keeps what cfg.json says of us
        back = saelens.load(path / place / name)
        assert type(back) is type(sae)
        assert back.options == sae.options
        close(back.mean, sae.mean, 0)
        close(back.encode(x), sae.encode(x)[:, order])
        close(back.decode(back.encode(x)), sae.decode(sae.encode(x)), 50)
        close(back.dictionary, sae.dictionary[order])
    frequency = saelens.load(path / "ours" / name).frequency
    torch.testing.assert_close(frequency, sae.frequency[order])
    if not name.startswith("matryoshka"):
        assert frequency.tolist() == sorted(frequency.tolist(), reverse=True)


@pytest.mark.parametrize("name", THEIRS)
def test_strangers_are_read_as_the_same_maths(lens, name):
    path, said = lens
    sae, x = saelens.load(path / "theirs" / name), tokens()
    codes = said[f"theirs/{name}/codes"]
    assert 0 < (codes > 0).float().mean() < 1
    close(sae.encode(x), codes, 100)
    close(sae.decode(codes), said[f"theirs/{name}/decoded"], 1000)


def test_a_matryoshka_stays_nested(tmp_path):
    sae = made("matryoshka")
    saelens.export(sae, tmp_path / "out", {})
    back = saelens.load(tmp_path / "out")
    assert back.group.tolist() == sae.group.tolist()
    for group in range(3):
        own = back.frequency[back.group == group].tolist()
        assert own == sorted(own, reverse=True)
        assert sorted(own) == pytest.approx(sorted(sae.frequency[sae.group == group].tolist()))


def test_before_the_first_validation_the_order_stays(tmp_path):
    sae = made("topk")
    sae.frequency.zero_()
    saelens.export(sae, tmp_path / "out", {})
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card == {"frequency": None, "order": list(range(LATENTS))}
    assert not saelens.load(tmp_path / "out").frequency.any()


def test_an_old_topk_of_saelens_is_known(tmp_path):
    saelens.export(made("topk"), tmp_path / "old", {})
    cfg = tmp_path / "old" / "cfg.json"
    config = json.loads(cfg.read_text())
    for key in ("metadata", "architecture", "k"):
        del config[key]
    old = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}
    cfg.write_text(json.dumps(config | old | {"normalize_activations": False}))
    back, x = saelens.load(tmp_path / "old"), tokens()
    close(back.encode(x), made("topk").encode(x)[:, saelens.by_frequency(made("topk"))], 10)


# ------------------------------------------------------------------ all or nothing


def test_an_export_is_replaced_whole_or_kept(tmp_path, monkeypatch):
    path = tmp_path / "out"
    saelens.export(made("topk"), path, {"step": 1})
    saelens.export(made("relu"), path, {"step": 2})
    assert isinstance(saelens.load(path), Relu)
    monkeypatch.setattr(folders, "exchange", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        saelens.export(made("gated"), path, {"step": 3})
    assert json.loads((path / "card.json").read_text())["step"] == 2
    assert isinstance(saelens.load(path), Relu)
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_an_export_replaces_nothing_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        saelens.export(made("topk"), tmp_path, {})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_diverged_dictionary_is_not_exported(tmp_path):
    sae = made("topk")
    saelens.export(sae, tmp_path / "out", {})
    with torch.no_grad():
        sae.W_dec[3, 2] = torch.nan
    with pytest.raises(UserError, match="W_dec are no numbers"):
        saelens.export(sae, tmp_path / "out", {})
    saelens.load(tmp_path / "out")


# ------------------------------------------------------------------ what cannot be read


def config(**changes):
    def change(path):
        facts = json.loads((path / "cfg.json").read_text())
        facts.pop("metadata")
        (path / "cfg.json").write_text(json.dumps(facts | changes))

    return change


def own(**changes):
    def change(path):
        facts = json.loads((path / "cfg.json").read_text())
        facts["metadata"]["diffdict"].update(changes)
        (path / "cfg.json").write_text(json.dumps(facts))

    return change


def weights(how):
    def change(path):
        state = load_file(path / "sae_weights.safetensors")
        how(state)
        save_file(state, path / "sae_weights.safetensors")

    return change


BAD = {
    "no folder": (lambda p: [f.unlink() for f in p.iterdir()], "has no cfg.json"),
    "no weights": (lambda p: (p / "sae_weights.safetensors").unlink(), "has no sae_weights"),
    "torn config": (lambda p: (p / "cfg.json").write_text('{"d_in": 8'), "no whole JSON"),
    "a list": (lambda p: (p / "cfg.json").write_text("[]"), "facts by name"),
    "torn weights": (
        lambda p: os.truncate(p / "sae_weights.safetensors", 900),
        "no whole safetensors file",
    ),
    "architecture": (config(architecture="temporal"), "standard, gated, jumprelu, topk"),
    "in training": (config(architecture="batchtopk"), "save_inference_model"),
    "normalised": (config(normalize_activations="layer_norm"), "raw tokens"),
    "old normalised": (config(normalize_activations=True), "normalize_activations=True"),
    "no k": (config(k=None), "must say k"),
    "k too large": (config(k=99), r"1\.\.24"),
    "wide": (config(d_in=9), r"W_enc is \(8, 24\), wanted \(9, 24\)"),
    "no size": (config(d_sae=None), "wanted"),
    "missing": (weights(lambda s: s.pop("b_enc")), "b_enc is missing"),
    "extra": (weights(lambda s: s.update(b_mag=torch.ones(24))), "wanted none"),
    "nan": (weights(lambda s: s["b_dec"].fill_(torch.nan)), "no numbers: b_dec"),
    "own mean": (own(mean=[1.0]), "mean and token_scale"),
    "own word": (own(**{"class": "diffdict.sae.topk.Mlp"}), "no diffdict.sae.topk.Mlp here"),
    "own options": (own(options={"colour": 1}), "colour"),
    "own other": (own(**{"class": "diffdict.sae.relu.Relu"}), "beside 'relu'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_said(tmp_path, case):
    change, words = BAD[case]
    saelens.export(made("topk"), tmp_path / "out", {})
    change(tmp_path / "out")
    with pytest.raises(UserError, match=words) as said:
        saelens.load(tmp_path / "out")
    assert str(tmp_path / "out") in str(said.value) or case == "k too large"


# ------------------------------------------------------------------ a variant of one's own


class Bare(Relu):
    """A variant that lies outside the package, and is a plain ReLU once it has learned."""

    architecture = "bare"


def test_a_variant_from_elsewhere_has_its_codes_here(tmp_path):
    torch.manual_seed(0)
    sae, x = Bare(8, latents=24, standardise=False).eval(), tokens()
    saelens.export(sae, tmp_path / "out", {})
    back, order = saelens.load(tmp_path / "out"), saelens.by_frequency(sae)
    assert type(back) is Relu
    close(back.encode(x), sae.encode(x)[:, order])


@pytest.mark.parametrize(
    "path",
    ["os.system", "diffdict.sae.base.torch.save", "diffdict.sae.base.Tensor", "diffdict.sae.no.A"],
)
def test_nothing_but_a_variant_is_found_by_its_path(path):
    assert find_variant(path) is None
    assert find_variant("diffdict.sae.relu.Gated") is Gated
