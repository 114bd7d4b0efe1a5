"""JSON that is read everywhere, and that no file of the package's own leaves by another way."""

import ast
import json
import math
from pathlib import Path

import pytest

from diffdict import files

PACKAGE = Path(files.__file__).parent.parent
FACTS = {"name": "Pferd ü", "grid": (4, 4), "noise": {"seed": 0, "device": None}, "lr": 3e-4}


def test_what_is_no_number_is_null():
    value = {"loss": math.nan, 3: [math.inf, (-math.inf, 1.5)], "ok": True, "none": None}
    text = files.json_text(value, indent=1)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "loss": None,
        "3": [None, [None, 1.5]],
        "ok": True,
        "none": None,
    }


@pytest.mark.parametrize(
    "style", [{}, {"sort_keys": True}, {"indent": 1, "ensure_ascii": False}, {"default": sorted}]
)
def test_all_else_is_as_json_writes_it(style):
    """Fingerprints of stored features are hashes of this text."""
    assert files.json_text(FACTS, **style) == json.dumps(FACTS, **style)
    with pytest.raises(TypeError):
        files.json_text({"what": object()})


def test_nothing_writes_json_by_another_way():
    for path in PACKAGE.rglob("*.py"):
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        names = {ast.unparse(call.func) for call in calls}
        own = path.name == "json_text.py"
        assert own or not names & {"json.dump", "json.dumps"}, path
