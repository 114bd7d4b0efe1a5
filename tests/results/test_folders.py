"""Runs found by folder and pattern: finished, unfinished, of other doors; and none at all."""

import json

import pytest

from diffdict.errors import UserError
from diffdict.results.folders import FORMAT, find_runs, read_results, tables_beside


def test_jobs_are_found_in_order_whatever_names_them(sweep):
    folder = sweep(*({"block": block, "test/fvu": 0.5} for block in range(12)))
    names = [str(number) for number in range(12)]
    for runs in (str(folder), [str(folder)], f"{folder}/*", f"{folder.parent}/**/results.json"):
        found = find_runs(runs)
        assert [run.folder.name for run in found.finished] == names
        assert found.unfinished == []
    assert "tables" not in found.finished[0].results, "a hundred runs' would fill the memory"
    assert [run.folder.name for run in find_runs(f"{folder}/1?").finished] == ["10", "11"]
    twice = find_runs([str(folder / "3"), str(folder)])
    assert [run.folder.name for run in twice.finished] == ["3", *(n for n in names if n != "3")]


def test_a_folder_may_be_named_by_what_was_swept(sweep):
    folder = sweep({"block": 1, "test/fvu": 0.5})
    named = (folder / "0").rename(folder / "block=1,sae.scale=[2,4]")
    assert find_runs(str(named)).finished[0].folder == named


def test_failed_jobs_are_told_from_extractions_and_reports(sweep):
    folder = sweep({"block": 1, "test/fvu": 0.5})
    for name, door, typed in [
        ("1", "train", ["block=2"]),
        ("2", "extract", ["block=2"]),
        ("3", "evaluate", ["report=heatmap", "runs=multirun"]),
        ("5", "evaluate", ["ckpt_path=last.ckpt", "picture=me.jpg"]),
        ("4", None, None),  # killed before it could say
    ]:
        record = folder / name / ".hydra"
        record.mkdir(parents=True)
        if door:
            (record / "hydra.yaml").write_text(f"hydra: {{job: {{config_name: {door}}}}}")
            (record / "overrides.yaml").write_text(json.dumps(typed))
    found = find_runs(str(folder))
    assert [run.folder.name for run in found.finished] == ["0"]
    assert [path.name for path in found.unfinished] == ["1", "4"]


def test_what_names_no_run_is_a_mistake(tmp_path):
    for runs in ("nowhere", f"{tmp_path}/*", str(tmp_path)):
        with pytest.raises(UserError, match=r"names no run.*results\.json"):
            find_runs(runs)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "was not written by diffdict"),
        ("[]", "was not written by diffdict"),
        ('{"metrics": {}}', "was not written by diffdict"),
        ('{"format": 99, "versions": {"diffdict": "9"}}', "has format 99, this diffdict reads 1"),
    ],
)
def test_results_of_another_kind_are_refused(tmp_path, text, said):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=said):
        read_results(tmp_path)


def test_the_tables_of_the_run_that_a_checkpoint_belongs_to(tmp_path):
    rows = [{"dictionary": name, "latent": i, "class": "sky"} for i, name in enumerate("ab")]
    results = {"format": FORMAT, "tables": {"latents": rows}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert tables_beside(tmp_path / "last.ckpt") == {"latents": rows}
    own = tables_beside(tmp_path / "checkpoints/b/last.ckpt")
    assert own == {"latents": [{"dictionary": None, "latent": 1, "class": "sky"}]}
    assert tables_beside(tmp_path / "other/last.ckpt") == {}
    (tmp_path / "results.json").write_text("{")
    assert tables_beside(tmp_path / "last.ckpt") == {}
