"""`report=wandb`: a page at wandb that shows the runs of a sweep, saved by its own reports API."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from diffdict.errors import UserError
from diffdict.reports.sweeps.points import averaged, compare_points, dictionaries_of, own_figures
from diffdict.results.folders import Finished, Runs
from diffdict.results.naming import recorded_by, recorded_group
from diffdict.results.tables import Row, as_markdown, format_cell

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.reports.v2.interface import Panel as WorkspacePanel

INSTALL = "pip install 'diffdict[workspaces]'"
IN_CONFIG = {"dataset": "dataset.name", "backbone": "backbone.name", "sae": "sae._target_"}
IOU, CHANCE, MIOU = "test/iou", "test/iou_random", "test/miou"
AXES = ("timestep", "block", "sae.scale", "sae.k")  # settings that have a plot of their own
SIDE, HIGH = 24, 8  # columns of a page's grid; rows of a panel
WIDE = ("columns", "pictures", "table")  # kinds that take a page's whole width
MOST = 100  # bars


class Panel(NamedTuple):
    """What is drawn, and all that it reads of a run."""

    kind: str  # columns, scatter, bars, pictures or table
    title: str
    figures: tuple[str, ...]  # of the summary
    settings: tuple[str, ...] = ()  # of the config
    needs: tuple[str, ...] | None = None  # measured where there is something to draw; None: those


class Page(NamedTuple):
    """A report as it will stand at wandb: a table of today's figures, and panels that live."""

    title: str
    project: str  # that the runs were recorded in
    entity: str | None  # the team; None: one's own
    groups: tuple[str, ...]  # of the runs that it shows
    rows: list[Row]
    sections: dict[str, list[Panel]]

    def log(self, loggers: Iterable[object]) -> None:
        """Saves it where logger=wandb has its run, and says where that is."""
        import pytorch_lightning as pl

        recorded = [one for one in loggers if isinstance(one, pl.loggers.WandbLogger)]
        if not recorded:
            raise UserError("report=wandb makes a page at wandb: give it logger=wandb")
        for run in (logger.experiment for logger in recorded):
            if run.project != self.project:
                raise UserError(
                    f"These runs were recorded in wandb's project {self.project}, their map goes "
                    f"to {run.project}: add logger.wandb.project={self.project}"
                )
            if run.offline:
                advice = "no page is made offline: wandb sync the runs, then run this again"
                print(f"report=wandb: {advice}", file=sys.stderr)
            else:
                self._save(self.entity or run.entity)

    def _save(self, entity: str) -> None:
        """A new page at each call; what the server refuses is said, and no failure."""
        import wandb

        page = report_of(self, entity)
        try:
            print(f"wandb: {page.save().url}")
        except (wandb.Error, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            print(f"report=wandb: wandb did not take the page ({reason})", file=sys.stderr)


class WandbReport:
    """A page of the groups that these runs were recorded in."""

    def __init__(
        self,
        title: str | None = None,
        over: Sequence[str] | None = ("seed",),
        task: str | None = None,
    ) -> None:
        """`title`: by default the groups' names; `over`: what the table is a mean of."""
        self.title, self.over, self.task = title, over, task

    def collect(self, runs: Runs) -> Page:
        """The page; nothing is written before it is logged."""
        groups = tuple(dict.fromkeys(filter(None, map(recorded_group, runs.finished))))
        records = [one for one in map(recorded_by, runs.finished) if one is not None]
        projects = {(one.get("project"), one.get("entity")) for one in records}
        if len(projects) > 1:
            names = ", ".join(sorted(str(project) for project, _ in projects))
            raise UserError(
                f"report=wandb makes a page in one project, and these runs were recorded in "
                f"{len(projects)} ({names}): name those of one in runs="
            )
        if not groups:
            raise UserError(
                "report=wandb shows runs that wandb has, and none under runs= was recorded: run "
                "them with logger=wandb"
            )
        points, keys, cells, metrics = compare_points(runs, self.task, None, self.over)
        figures = recorded_figures({point.run.folder: point.run for point in points}.values())
        metrics += [CHANCE] if CHANCE in figures else []
        rows = [
            {
                **dict(zip(keys, map(format_cell, values), strict=True)),
                **{name: str(averaged(repeats, name) or "") for name in metrics},
            }
            for values, repeats in cells.items()
        ]
        title = self.title or ", ".join(groups)
        return Page(title, *projects.pop(), groups, rows, sections(keys, figures))


def recorded_figures(runs: Iterable[Finished]) -> set[str]:
    """What wandb has of these runs, with each of several dictionaries a run of its own."""
    names: set[str] = set()
    for metrics in (run.results["metrics"] for run in runs):
        alone = {name: value for name, value in metrics.items() if value is not None}
        names.update(alone, *(own_figures(metrics, one) for one in dictionaries_of(metrics)))
    return names


def sections(keys: Sequence[str], known: set[str]) -> dict[str, list[Panel]]:
    """The panels under their questions, where these figures are known; `keys` is what differs."""
    settings = tuple(IN_CONFIG.get(key, key) for key in keys)
    axes = [key for key in settings if key in AXES]
    where = [
        Panel("columns", "IoU, and what is found by chance", (CHANCE, IOU), settings),
        Panel("bars", "IoU beside that of as many random directions", (IOU, CHANCE)),
        *[Panel("scatter", f"IoU over {key}", (IOU,), (key,)) for key in axes],
        Panel("columns", "mIoU", (MIOU,), settings),
        *[Panel("scatter", f"mIoU over {key}", (MIOU,), (key,)) for key in axes],
        Panel("pictures", "The map as report=heatmap draws it", ("heatmap_picture",), needs=()),
    ]
    good = [
        Panel("scatter", "FVU against L0, coloured by IoU", ("test/l0", "test/fvu", IOU)),
        Panel("bars", "Dead latents", ("test/dead",)),
    ]
    parts = [
        Panel("pictures", "Each class, and its best latent", ("concepts",), needs=(IOU,)),
        Panel("table", "Latents of the classes", ("classes",), needs=(IOU,)),
        Panel("table", "Classes", ("classes",), needs=(MIOU,)),
    ]
    questions = {
        "Where is it clearest?": where,
        "Sparse or exact?": good,
        "Which latent is which part?": parts,
    }
    answers = {
        question: [
            panel
            for panel in panels
            if {*(panel.figures if panel.needs is None else panel.needs)} <= known
        ]
        for question, panels in questions.items()
    }
    return {question: panels for question, panels in answers.items() if panels}


def report_of(page: Page, entity: str) -> "Report":
    """The page in the words of wandb's own API."""
    try:
        from wandb_workspaces import expr
        from wandb_workspaces.reports import v2
    except ImportError as missing:
        raise UserError(
            f"report=wandb writes its page with wandb-workspaces, which is not here: {INSTALL}"
        ) from missing
    shown = v2.Runset(
        entity=entity,
        project=page.project,
        name=page.title,
        filters=[expr.Metric("Group").isin(list(page.groups))],
    )
    blocks = [v2.H1("What these runs have measured"), v2.MarkdownBlock(as_markdown(page.rows))]
    for question, panels in page.sections.items():
        grid = [_drawn(panel, place) for panel, place in zip(panels, places(panels), strict=True)]
        blocks += [v2.H1(question), v2.PanelGrid(runsets=[shown], panels=grid)]
    return v2.Report(
        project=page.project, entity=entity, title=page.title[:128], blocks=blocks, width="fluid"
    )


def places(panels: Sequence[Panel]) -> list[dict[str, int]]:
    """Where they stand: two a row, and what is looked into from side to side."""
    boxes, x, y = [], 0, 0
    for panel in panels:
        wide = panel.kind in WIDE
        if wide and x:
            x, y = 0, y + HIGH
        boxes.append({"x": x, "y": y, "w": SIDE if wide else SIDE // 2, "h": HIGH * (1 + wide)})
        x, y = (0, y + HIGH * (1 + wide)) if wide or x else (SIDE // 2, y)
    return boxes


def _drawn(panel: Panel, place: dict[str, int]) -> "WorkspacePanel":
    """A panel of wandb's."""
    from wandb_workspaces.reports import v2

    read = [v2.Config(key) for key in panel.settings]
    read += [v2.SummaryMetric(name) for name in panel.figures]
    layout, title = v2.Layout(**place), panel.title
    if panel.kind == "columns":
        columns = [v2.ParallelCoordinatesPlotColumn(one) for one in read]
        return v2.ParallelCoordinatesPlot(title=title, columns=columns, layout=layout)
    if panel.kind == "scatter":
        axes = dict(zip("xyz", read, strict=False))
        return v2.ScatterPlot(title=title, layout=layout, **axes)
    if panel.kind == "bars":
        metrics = list(panel.figures)
        return v2.BarPlot(title=title, metrics=metrics, max_bars_to_show=MOST, layout=layout)
    if panel.kind == "pictures":
        return v2.MediaBrowser(title=title, media_keys=list(panel.figures), layout=layout)
    return v2.WeavePanelSummaryTable(table_name=panel.figures[0], layout=layout)
