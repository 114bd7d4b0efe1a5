"""The page of a sweep: which panels it has, what they read, and what wandb is told."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from hydra import compose, initialize_config_dir

from diffdict.cli.paths import folder
from diffdict.errors import UserError
from diffdict.reports.wandb_report import HIGH, SIDE, Panel, WandbReport, places, report_of
from diffdict.reports.wandb_run import WandbRun
from diffdict.results.folders import find_runs

DOCS = (Path(__file__).parents[2] / "docs" / "wandb.md").read_text()
RECORDED = {"wandb": {"project": "faces", "entity": None, "group": "multirun/where"}}
MEASURED = ("iou", "iou_random", "fvu", "l0", "dead")


@pytest.fixture
def swept(sweep):
    """A sweep of two dictionaries in each of two places, recorded by wandb."""
    jobs = [
        {
            "timestep": timestep,
            "sae.scale": [2, 4],
            **{f"test/scale{scale}/{name}": scale / 10 for scale in (2, 4) for name in MEASURED},
        }
        for timestep in (50, 150)
    ]
    return lambda **more: sweep(*jobs, **{"logger": RECORDED, **more})


def collected(folder, **options):
    return WandbReport(**options).collect(find_runs(str(folder)))


def titles(page):
    return [panel.title for panels in page.sections.values() for panel in panels]


def test_a_page_asks_for_what_differs(swept):
    page = collected(swept())
    assert page[:4] == ("multirun/where", "faces", None, ("multirun/where",))
    assert list(page.sections) == [
        "Where is it clearest?",
        "Sparse or exact?",
        "Which latent is which part?",
    ]
    first = page.sections["Where is it clearest?"][0]
    assert first.settings == ("timestep", "sae.scale")
    assert first.figures == ("test/iou_random", "test/iou")
    assert "IoU over timestep" in titles(page)
    assert "IoU over block" not in titles(page), "there is one block"
    assert page.rows[0] == {
        "timestep": "50",
        "sae.scale": "2",
        "test/iou": "0.2",
        "test/fvu": "0.2",
        "test/l0": "0.2",
        "test/iou_random": "0.2",
    }


def test_no_panel_reads_what_was_not_measured(sweep):
    jobs = [{"sae.k": k, "test/fvu": 0.5, "test/l0": float(k)} for k in (2, 4)]
    page = collected(sweep(*jobs, logger=RECORDED))
    assert titles(page) == ["The map as report=heatmap draws it"]
    jobs = [{"seed": seed, "block": block, "test/miou": 0.5} for seed in (0, 1) for block in (3, 4)]
    page = collected(sweep(*jobs, logger=RECORDED, task="pixel_mlp", name="mlp"))
    assert titles(page) == [
        *("mIoU", "mIoU over block", "The map as report=heatmap draws it", "Classes"),
    ]
    assert page.rows == [{"block": block, "test/miou": "0.5 ± 0"} for block in ("3", "4")]
    cells = {f"test/t0050-b0{block}/miou": 0.5 for block in (3, 4)}
    page = collected(sweep(cells, logger=RECORDED, task="probe_sweep", name="probes"))
    assert titles(page) == ["The map as report=heatmap draws it"], "a cell is no run"


def test_the_docs_name_all_that_panels_read(swept):
    page = collected(swept())
    panels = [panel for panels in page.sections.values() for panel in panels]
    for name in {name for panel in panels for name in (*panel.figures, *panel.settings)}:
        assert f"`{name}`" in DOCS, name
    assert all(question in DOCS for question in page.sections)


@pytest.mark.parametrize("command", re.findall(r"^python (\w+\.py .*)$", DOCS, flags=re.M))
def test_the_commands_of_the_docs_compose(command):
    door, *words = command.split()
    words = [
        re.sub(r"^(timestep|block)=(\d+),.*", r"\1=\2", word) for word in words if word != "-m"
    ]
    with initialize_config_dir(folder("conf"), version_base="1.3"):
        cfg = compose(door.removesuffix(".py"), words)
    assert ("wandb" in cfg.logger) == ("extract" not in door)


@pytest.mark.parametrize("door", ["extract", "train", "evaluate"])
def test_a_page_brings_the_map_and_the_logger_unless_another_is_typed(door):
    with initialize_config_dir(folder("conf"), version_base="1.3"):
        cfg, typed = (compose(door, ["report=wandb", *more]) for more in ([], ["logger=csv"]))
    assert (set(cfg.report), set(cfg.logger)) == ({"heatmap", "wandb"}, {"wandb"})
    assert (set(typed.report), set(typed.logger)) == ({"heatmap", "wandb"}, {"csv"})


def test_a_page_shows_several_sweeps_of_one_project(swept):
    other = {"wandb": RECORDED["wandb"] | {"group": "multirun/other"}}
    folders = [swept(), swept(name="other", logger=other, seed=1)]
    page = WandbReport("mine").collect(find_runs([str(folder) for folder in folders]))
    assert (page.title, page.groups) == ("mine", ("multirun/where", "multirun/other"))
    apart = {"wandb": RECORDED["wandb"] | {"project": "horses"}}
    folders.append(swept(name="third", logger=apart, seed=2))
    with pytest.raises(UserError, match=r"recorded in 2 \(faces, horses\): name those of one"):
        WandbReport().collect(find_runs([str(folder) for folder in folders]))


def test_runs_that_wandb_does_not_have_are_refused(swept):
    with pytest.raises(UserError, match="none under runs= was recorded: run them with logger="):
        collected(swept(logger={"csv": {}}))


def a_logger(**run):
    logger = WandbRun()
    logger._experiment = SimpleNamespace(entity="me", **{"project": "faces", **run})
    return logger


def test_a_page_is_made_where_its_runs_are(swept, capsys):
    page = collected(swept())
    with pytest.raises(UserError, match="give it logger=wandb"):
        page.log([object()])
    with pytest.raises(UserError, match=r"goes to diffdict: add logger\.wandb\.project=faces"):
        page.log([a_logger(project="diffdict", offline=True)])
    capsys.readouterr()
    page.log([a_logger(offline=True)])
    assert capsys.readouterr().err.startswith("report=wandb: no page is made offline: wandb sync")


@pytest.mark.parametrize("error", [wandb.Error("no\nmore"), ValueError("no"), OSError("no")])
def test_a_server_that_refuses_is_no_failure(swept, monkeypatch, capsys, error):
    def refuse():
        raise error

    page = collected(swept())
    made = SimpleNamespace(save=refuse)
    monkeypatch.setattr("diffdict.reports.wandb_report.report_of", lambda *_: made)
    page.log([a_logger(offline=False)])
    assert capsys.readouterr().err == "report=wandb: wandb did not take the page (no)\n"


def test_without_the_package_one_line_says_what_to_install(swept, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(UserError, match=r"not here: pip install 'diffdict\[workspaces\]'"):
        collected(swept()).log([a_logger(offline=False)])


def test_panels_stand_two_a_row():
    kinds = ["columns", "bars", "scatter", "scatter", "pictures", "bars", "table"]
    where = places([Panel(kind, "", ()) for kind in kinds])
    half = SIDE // 2
    assert [(one["x"], one["y"] // HIGH, one["w"], one["h"] // HIGH) for one in where] == [
        *((0, 0, SIDE, 2), (0, 2, half, 1), (half, 2, half, 1), (0, 3, half, 1)),
        *((0, 4, SIDE, 2), (0, 6, half, 1), (0, 7, SIDE, 2)),
    ]


def test_what_wandb_is_told(swept, monkeypatch):
    """In the words of wandb's own API, up to what would go to the server."""
    interface = pytest.importorskip("wandb_workspaces.reports.v2.interface")
    page = collected(swept())
    sent = {}

    def answer(api, query, variables):
        if "spec" not in variables:
            return {"project": {"internalId": "42"}}
        sent.update(variables)
        view = {"id": "abc", "displayName": sent["displayName"], "spec": sent["spec"]}
        project = {"name": "faces", "entityName": "me"}
        return {"upsertView": {"view": {**view, "name": "", "type": "runs", "project": project}}}

    api = SimpleNamespace(
        projects=lambda entity: [SimpleNamespace(name="faces")],
        client=SimpleNamespace(app_url="https://wandb.test"),
    )
    monkeypatch.setattr(interface, "execute_graphql", answer)
    monkeypatch.setattr(interface, "_get_api", lambda: api)
    monkeypatch.setattr(interface, "get_app_url", lambda api: "https://wandb.test")
    saved = report_of(page, "me").save()
    assert saved.url.startswith("https://wandb.test/me/faces/reports/")
    assert (sent["entityName"], sent["projectName"]) == ("me", "faces")
    blocks = json.loads(sent["spec"])["blocks"]
    (table,) = [block["content"] for block in blocks if block["type"] == "markdown-block"]
    assert table.startswith("| timestep | sae.scale | test/iou |")
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    for grid in grids:
        (runs,) = grid["runSets"]
        (group,) = runs["filters"]["filters"]
        assert (group["key"]["name"], group["value"]) == ("group", ["multirun/where"])
    drawn = [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    asked = [panel for panels in page.sections.values() for panel in panels]
    assert len(drawn) == len(asked)
    for panel, shown in zip(asked, drawn, strict=True):
        told = json.dumps(shown["config"])
        assert all(json.dumps(name)[1:-1] in told for name in panel.figures)
        assert shown["layout"]["w"] in (SIDE, SIDE // 2)
    (columns,) = [one["config"]["columns"] for one in drawn if "columns" in one["config"]]
    assert [one["accessor"] for one in columns] == [
        *("config:timestep.value", "config:sae.value.scale"),
        *("summary:test/iou_random", "summary:test/iou"),
    ]
