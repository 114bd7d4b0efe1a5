"""Which networks are drawn from which vectors, and which without any."""

import pytest

from diffdict.backbones.autoencoders.pdae_denoiser import PdaeDenoiser
from diffdict.backbones.pixels import Pixels
from diffdict.backbones.rcdm import RCDM
from diffdict.conditions.base import check_condition, check_unconditioned
from diffdict.errors import UserError
from diffdict.representations.pooled import Pooled
from tests.tiny_pdae import tiny_pdae

FLAGS = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,1"}
MAKER = Pooled(Pixels(image_size=16), None, ["pixels"], grid=2, name="cells")


def test_without_a_vector_draws_what_learned_so(capsys):
    net = RCDM(**FLAGS, attention_resolutions="8", ssl_dim=5)
    with pytest.raises(UserError, match=r"no picture without its vector.*condition=pictures"):
        check_unconditioned(net)
    net.learned_with = {"drop": "0.1"}
    check_unconditioned(net)
    assert "learned 10% of its pictures so" in capsys.readouterr().out
    check_unconditioned(RCDM(**FLAGS, attention_resolutions="8"))
    check_unconditioned(PdaeDenoiser(tiny_pdae()))


def test_vectors_of_another_width_are_named_with_both():
    net = RCDM(**FLAGS, attention_resolutions="8", ssl_dim=5)
    with pytest.raises(UserError, match=r"width 5, cells gives 20: .*representation\.part=head"):
        check_condition(net, MAKER)
    check_condition(RCDM(**FLAGS, attention_resolutions="8", ssl_dim=20), MAKER)
    with pytest.raises(UserError, match="is told no vector"):
        check_condition(RCDM(**FLAGS, attention_resolutions="8"), MAKER)
