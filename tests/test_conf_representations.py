"""Every word of representation= and condition= composes where it is heard."""

import pytest
from omegaconf import OmegaConf, open_dict

from diffdict import checkpoints
from diffdict.errors import UserError
from diffdict.run.instantiate import drop_unset
from diffdict.run.validate import check_networks_apart
from tests.test_conf import CONF, check_keys, composed, options


@pytest.mark.parametrize("word", options("representation"))
def test_every_representation_composes(word):
    cfg = composed("extract", "task=vectors", f"representation={word}")
    check_keys(cfg, word)
    assert (cfg.timestep, cfg.block) == (None, "vector")
    cfg = composed("train", "task=rcdm", "backbone=rcdm", f"representation={word}")
    check_keys(cfg, word)
    if word in ("supervised", "simclr", "barlow", "vicreg", "dino"):
        released = composed("extract", "backbone=rcdm", f"+representation={word}").backbone
        assert released.checkpoint in checkpoints.releases()
        assert cfg.representation.checkpoint in checkpoints.releases()


@pytest.mark.parametrize("word", options("representation"))
def test_samples_are_judged_by_any_representation(word):
    cfg = composed("evaluate", "task=faithfulness", f"representation={word}", "samples=s")
    with open_dict(cfg):
        cfg.data = drop_unset(cfg.data)  # as a run does
    check_keys(cfg, word)
    assert (cfg.data.samples, cfg.data.test_split, cfg.model.samples) == ("s", "test", "s")


@pytest.mark.parametrize("word", options("condition"))
def test_every_condition_composes(word):
    cfg = composed("extract", "task=samples", f"condition={word}")
    check_keys(cfg, word)
    own = OmegaConf.load(CONF / "condition" / f"{word}.yaml")
    assert cfg.data.number == own.get("data", {}).get("number", 64)


def test_what_a_representation_looks_through_is_not_what_draws():
    words = ["task=rcdm", "backbone=toy_rcdm", "backbone@seer=swav", "seer.block=[layer4.2]"]
    cfg = composed("train", *words)
    assert (cfg.backbone.name, cfg.seer.backbone.name) == ("toy_rcdm", "swav")
    assert (cfg.seer.timestep, cfg.seer.block) == (None, ["layer4.2"])
    assert cfg.representation.block == ["layer4.2"]
    assert cfg.seer.backbone.checkpoint == "swav_imagenet"
    assert composed("train", *words[:2]).seer.backbone.checkpoint == "toy_ddpm"


@pytest.mark.parametrize("name", options("backbone"))
def test_one_network_may_draw_and_be_looked_through(name):
    """What is typed of the one does not reach the other."""
    words = ["task=vectors", f"backbone={name}", f"backbone@seer={name}"]
    own = networks("task=vectors", f"backbone={name}", "backbone@seer=pixels")[0]
    for place in (0, 1):
        node = ("backbone", "seer.backbone")[place]
        found = networks(*words, f"{node}.name=typed")
        assert found[1 - place] == own
        assert {**found[place], "name": own["name"]} == own


def networks(*words):
    """What draws, and what is looked through, as they are written."""
    cfg = composed("extract", *words)
    both = (cfg.backbone, cfg.seer.backbone)
    return [OmegaConf.to_container(one, resolve=False) for one in both]


def test_networks_made_of_one_file_are_not_mixed():
    folder = CONF / "backbone"
    choices = {"backbone": "ddae_small_edm", "backbone@seer": "ddae_small"}
    with pytest.raises(UserError, match=r"both made of ddae_unet\.yaml"):
        check_networks_apart(choices, folder)
    check_networks_apart({**choices, "backbone@seer": "ddae_small_edm"}, folder)
    check_networks_apart({**choices, "backbone@seer": "toy_ddpm"}, folder)
    check_networks_apart({"backbone": "pixels"}, folder)
