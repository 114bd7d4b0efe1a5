"""The doors on evened features: the doctor's advice, a dictionary that follows it, and its card."""

import json

import pytest
import torch

from diffdict.data.toy_faces import ToyFaces
from diffdict.dictionary import Dictionary
from diffdict.errors import UserError
from diffdict.features.normalisation import normalisation
from tests.doors import FACES, NET, QUIET, SAE, TOKENS, open_door

DONE = ["data.normalise=token", "data.drop_channels=[3,7]"]


def opened(door, words, folder, capfd):
    closed = open_door(door, words, folder, capfd)
    assert closed.code == 0, closed.lines
    return closed


def test_the_doctor_advises_and_a_dictionary_follows(tmp_path, capfd):
    places = ["timestep=[50,250]", "block=[0,1]"]
    probe = [*QUIET, *NET, *FACES, *places]
    opened("evaluate", [*probe, "task=probe_sweep", "hydra.run.dir=probes"], tmp_path, capfd)
    words = [*probe, "task=doctor", "data.num_workers=0", "probes=probes", "hydra.run.dir=doctor"]
    assert open_door("evaluate", words, tmp_path, capfd).code == 0
    found = json.loads((tmp_path / "doctor" / "results.json").read_text())
    assert len(found["tables"]["cells"]) == 4
    assert {row["cells"] for row in found["tables"]["agreement"]} == {4}
    assert (tmp_path / "doctor" / "heatmap.png").is_file()
    learn = [*SAE, *TOKENS, "data.source=live", "trainer.max_steps=2", "test=false", *DONE]
    opened("train", [*learn, "hydra.run.dir=sae"], tmp_path, capfd)
    own = Dictionary.load(tmp_path / "sae")
    assert (own.sae.d_in, own.card["normalise"], own.card["drop_channels"]) == (30, "token", [3, 7])
    assert Dictionary.load(tmp_path / "sae" / "last.ckpt").card["normalise"] == "token"
    picture = ToyFaces("train", image_size=16, train_pictures=4)[0]["image"]
    del own.card["backbone_sha256"]  # fresh weights, other ones in every process
    noise = own.source.passes.noise.for_pictures([0], (3, 16, 16))[0]
    tokens = own.source.net.features(picture[None], 50, [1], noise)[1]
    evened = normalisation("token", [3, 7])(tokens.flatten(2).mT)[0]
    expected = own.sae.encode(evened)
    torch.testing.assert_close(own.encode(picture).codes.dense(own.sae.latents), expected)
    with pytest.raises(UserError, match=r"data\.normalise=token"):
        own.steer([0], number=1)


MISTAKES = [
    ("train", [*SAE, *TOKENS, "data.normalise=layer"], ["'layer'", "data.normalise=none"]),
    ("train", [*SAE, *TOKENS, "data.drop_channels=[99]", "data.source=live"], ["got 99", "doctor"]),
    ("evaluate", ["task=doctor", "noise.shared=true"], ["noise.shared=false"]),
    ("evaluate", ["task=doctor", "probes=nowhere"], ["nowhere", "task=probe_sweep"]),
    ("evaluate", ["task=doctor", "model.massive=1"], ["got 1", "10"]),
    ("evaluate", ["task=doctor", "block=99"], ["99", "Its blocks"]),
]


@pytest.mark.parametrize(("door", "words", "said"), MISTAKES)
def test_a_mistake_is_one_line(tmp_path, capfd, door, words, said):
    plain = [] if door == "train" else [*QUIET, *NET, *FACES, "data.num_workers=0"]
    closed = open_door(door, [*plain, *words], tmp_path, capfd)
    assert (closed.code, len(closed.lines)) == (2, 1), closed.lines
    assert [word for word in said if word not in closed.lines[0]] == [], closed.lines[0]
