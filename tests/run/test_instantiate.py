"""A class names its bare argument; the message says where in the config it stands."""

import pytest
from omegaconf import OmegaConf

from diffdict.errors import UserError
from diffdict.run.instantiate import make


class Refuses:
    def __init__(self, width: int = 1, net: object = None):
        if width < 1:
            raise UserError(f"width must be at least 1, got {width}")
        if width > 9:
            raise UserError(f"pictures of {width} are too wide")


REFUSES = f"{__name__}.Refuses"


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"model": {"_target_": REFUSES, "width": 0}}, "model.width must be at least 1, got 0"),
        (
            {"model": {"_target_": REFUSES, "net": {"_target_": REFUSES, "width": 0}}},
            "model.net.width must be at least 1, got 0",
        ),
        (
            {
                "backbone": {"_target_": REFUSES, "width": 0},
                "model": {"_target_": REFUSES, "net": "${backbone}"},
            },
            "backbone.width must be at least 1, got 0",
        ),
        ({"model": {"_target_": REFUSES, "width": 10}}, "pictures of 10 are too wide"),
    ],
    ids=["of the node", "of a node in it", "of a node it refers to", "of no argument"],
)
def test_a_message_says_where_the_argument_is_typed(cfg, message):
    with pytest.raises(UserError) as error:
        make(OmegaConf.create(cfg).model)
    assert str(error.value) == message


def test_a_node_by_itself_has_no_place():
    with pytest.raises(UserError, match=r"^width must be at least 1, got 0$"):
        make(OmegaConf.create({"_target_": REFUSES, "width": 0}))
