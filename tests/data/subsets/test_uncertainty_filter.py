"""The uncertainty filter: the published rule against its authors' own, and the plain one."""

import numpy as np
import pytest

from diffdict.data.subsets.uncertainty_filter import keep_certain
from diffdict.errors import UserError


@pytest.mark.parametrize(("portion", "count"), [(0.1, 0), (0.25, 300), (0.0, 120)])
def test_the_published_rule_is_its_authors(golden, portion, count):
    case = golden("dseg_prepare")
    unsure = np.random.default_rng(3201 + 900).random(400, dtype=np.float32)[: count or None]
    kept = keep_certain(unsure, "published", portion, "set")
    case.check(f"deeplab_filter.portion{portion}.max{count}", kept)


def test_the_plain_rule_drops_the_most_uncertain_alone():
    unsure = np.random.default_rng(0).random(50)
    kept = keep_certain(unsure, "portion", 0.25, "set")
    assert sorted(unsure)[:38] == unsure[kept].tolist()
    assert keep_certain(unsure, "portion", 0.0, "set").tolist() == list(range(50))
    assert len(keep_certain(unsure[:3], "portion", 0.1, "set")) == 3


@pytest.mark.parametrize(("portion", "least"), [(0.1, 310), (0.25, 124), (0.2, 155)])
def test_the_published_rule_needs_so_many(portion, least):
    assert len(keep_certain(np.arange(least) / least, "published", portion, "set"))
    told = rf"leaves none of the {least - 1} pictures of set.* needs {least} .*filter=portion"
    with pytest.raises(UserError, match=told) as refusal:
        keep_certain(np.arange(least - 1) / least, "published", portion, "set")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("rule", "portion"), [("half", 0.1), ("portion", 1.0), ("portion", -0.1)])
def test_mistakes_are_named(rule, portion):
    with pytest.raises(UserError, match=rf"filter={rule} dataset.filter_portion={portion}"):
        keep_certain(np.arange(9.0), rule, portion, "set")
