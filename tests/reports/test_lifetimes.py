"""Maps of lifetimes, out of a finished run."""

import pytest

from diffdict.errors import UserError
from diffdict.reports.lifetimes import LifetimeMap, draw_class_latents, draw_lifetimes
from diffdict.results.folders import find_runs
from tests.reports.test_causality import finished

STEPS = ("0050", "0400", "1000")
LATENTS = [
    {
        "latent": i,
        "birth": birth,
        **{f"density_t{t}": 0.1 * (i + 1) for t in STEPS},
        **{f"reliability_t{t}": None if birth is None else 0.5 for t in STEPS},
    }
    for i, birth in enumerate((50, 50, 400, None))
]
CLASSES = [
    {"class": name, **{f"latent_t{t}": i for t in STEPS}, **{f"iou_t{t}": 0.2 * i for t in STEPS}}
    for i, name in enumerate(("nose", "mouth"))
] + [{"class": "hat", **{f"{key}_t{t}": None for key in ("latent", "iou") for t in STEPS}}]


def test_latents_stand_by_birth_and_classes_by_timestep(tmp_path, capsys):
    tables = {"timesteps": [{"timestep": 50, "fvu": 0.1}], "lifetimes": LATENTS}
    folder = finished(tmp_path / "a", "lifetimes", class_latents=CLASSES, **tables)
    made = LifetimeMap(tmp_path / "out").collect(find_runs([folder]))
    assert made.rows == tables["timesteps"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        f"{stem}.{end}" for stem in ("lifetimes", "class_latents") for end in ("png", "svg")
    }
    assert capsys.readouterr().out.count("lifetimes: ") == 2
    left, right, *_ = draw_lifetimes(LATENTS).axes
    assert [text.get_text() for text in left.get_xticklabels()] == ["50", "400", "1000"]
    assert left.get_ylim() == (4, 0)
    assert len(left.lines) == len(right.lines) == 2, "a line where births change"
    axes = draw_class_latents(CLASSES).axes[0]
    assert [text.get_text() for text in axes.texts] == ["0"] * 3 + ["1"] * 3


def test_one_run_is_shown(tmp_path):
    runs = find_runs([finished(tmp_path / "c", "sae")])
    with pytest.raises(UserError, match=r"one run of task=lifetimes, got 0 \(none\)"):
        LifetimeMap(tmp_path / "out").collect(runs)
