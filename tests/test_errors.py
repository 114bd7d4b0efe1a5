"""What is said of a setting that is too small."""

import re

import pytest

from diffdict.errors import UserError, at_least


def test_the_first_setting_that_is_too_small_is_named_with_a_way_out():
    at_least(1, "data", batch_size=1, window=None)
    said = "data.window is at least 1, got 0: data.window=1"
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        at_least(1, "data", batch_size=1, window=0, strip=-1)
