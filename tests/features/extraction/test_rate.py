"""How fast an extraction is said to be."""

import pytest

from diffdict.features.extraction.writer import spoken_rate


@pytest.mark.parametrize(
    ("pictures", "seconds", "said"),
    [
        (0, 0.0, "0.0 pictures/s"),
        (64, 8.0, "8.0 pictures/s"),
        (2, 2.0, "1.0 pictures/s"),
        (4, 90.0, "22.5 s/picture"),
    ],
)
def test_the_rate_is_never_nothing(pictures, seconds, said):
    assert spoken_rate(pictures, seconds) == said
