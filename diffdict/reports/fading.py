"""`report=fading`: does a part of a code hold what its timesteps lose? Over runs of probe_sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from diffdict import files
from diffdict.errors import UserError
from diffdict.reports.attributes.attribute_map import attribute_rows
from diffdict.reports.attributes.fade_curves import (
    CodeCurves,
    GainCurve,
    code_curves,
    fades,
    known,
    network_curves,
    rank_correlation,
    strong,
)
from diffdict.reports.sweeps.collected import Collected
from diffdict.results.folders import Runs
from diffdict.results.tables import Row, as_csv, print_rows


class Fading:
    """`<folder>/fading.csv`, a row an attribute, and `correlations.csv`, a row a code."""

    def __init__(
        self, folder: str | Path, share: float | int = 0.5, least: float | int = 0.1
    ) -> None:
        """An attribute is known, and has not faded, with this `share` of what its best place has
        over chance; those that nowhere have `least` of certainty are left out."""
        if not 0 < share < 1 or not 0 <= least < 1:
            raise UserError(
                f"share and least lie between 0 and 1, got report.fading.share={share} "
                f"report.fading.least={least}"
            )
        self.folder, self.share, self.least = Path(folder), share, least

    def collect(self, runs: Runs) -> Collected:
        """Compares the codes with the one network among the runs, and prints."""
        network, codes = self._curves(runs)
        rows = [
            {"attribute": name, "fades_at": fades(network[name], self.share)}
            | {run: self._known(code.prefixes, name) for run, code in codes.items()}
            | {f"{run} random": self._mean_random(code, name) for run, code in codes.items()}
            for name in network
            if name in strong(network, self.least)
        ]
        correlations = [self._correlation(run, code, rows) for run, code in codes.items()]
        folder = files.writable_folder(self.folder)
        files.write_atomic(folder / "fading.csv", as_csv(rows).encode())
        files.write_atomic(folder / "correlations.csv", as_csv(correlations).encode())
        print_rows(rows, "Timestep at which each attribute fades, and at which a code knows it")
        print_rows(correlations, "Rank correlation over attributes")
        print(f"fading: {folder / 'fading.csv'}")
        return Collected("fading", rows, None)

    def _curves(self, runs: Runs) -> tuple[dict[str, GainCurve], dict[str, CodeCurves]]:
        """Those of the network, and of every code by its run's name."""
        networks, codes = {}, {}
        for run in runs.finished:
            rows = attribute_rows(run)
            if (code := code_curves(rows)).prefixes:
                codes[run.folder.name] = code
            elif curves := network_curves(rows):
                networks[run.folder.name] = curves
        if len(networks) != 1 or not codes:
            raise UserError(
                "report=fading compares one network with codes that have parts, got "
                f"{len(networks)} runs of a network at timesteps ({', '.join(networks) or 'none'}) "
                f"and {len(codes)} of codes ({', '.join(codes) or 'none'}): runs=[…] names runs of "
                "task=probe_sweep target=attributes, of backbone=pdae with backbone.segments="
            )
        return next(iter(networks.values())), codes

    def _known(self, curves: Mapping[str, GainCurve], name: str) -> float | None:
        """The timestep from which a code knows an attribute; None where it hardly ever does."""
        there = name in curves and name in strong(curves, self.least)
        return known(curves[name], self.share) if there else None

    def _mean_random(self, code: CodeCurves, name: str) -> float | None:
        """The same of random sets of as many entries, on average over the drawn orders."""
        each = [self._known(curves, name) for curves in code.random]
        there = [value for value in each if value is not None]
        return sum(there) / len(there) if there else None

    def _correlation(self, run: str, code: CodeCurves, rows: Sequence[Row]) -> Row:
        """How well the order in which a code knows attributes follows that in which they fade."""
        when = {row["attribute"]: row["fades_at"] for row in rows}
        ordered = self._against(code.prefixes, when)
        null = [self._against(curves, when)[0] for curves in code.random]
        there = [value for value in null if value is not None]
        return {
            "code": run,
            "attributes": ordered[1],
            "rank_correlation": ordered[0],
            "random_mean": sum(there) / len(there) if there else None,
            "random_least": min(there, default=None),
            "random_most": max(there, default=None),
        }

    def _against(
        self, curves: Mapping[str, GainCurve], when: Mapping[str, float]
    ) -> tuple[float | None, int]:
        """The correlation over the attributes that both have, and how many these are."""
        pairs = [
            (faded, timestep)
            for name, faded in when.items()
            if (timestep := self._known(curves, name)) is not None
        ]
        return rank_correlation(*zip(*pairs, strict=True)) if pairs else None, len(pairs)
