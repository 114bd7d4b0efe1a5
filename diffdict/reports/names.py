"""`report=names`: names for a dictionary's latents, and how well each foretells its latent."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl

from diffdict import files
from diffdict.errors import UserError, at_least
from diffdict.reports.concepts.compose import key_of
from diffdict.reports.latent_names.activity import halves
from diffdict.reports.latent_names.crops import Crop, Cutter
from diffdict.reports.latent_names.dictionary_passes import TestPictures, crops_to_name
from diffdict.reports.latent_names.exchange import (
    how_to_go_on,
    read_answers,
    read_scores,
    write_questions,
    write_requests,
)
from diffdict.reports.latent_names.judges import Namer, Scorer
from diffdict.reports.latent_names.judging import (
    Judgement,
    Questionnaire,
    choose_names,
    cut_all,
    judge,
    mean_detection,
    rows_of,
    write_crop,
)
from diffdict.reports.subjects import HasDictionaries, require
from diffdict.results.tables import Row, as_csv
from diffdict.sae.base import Sae
from diffdict.sae.grid import ALONE


class Names(pl.Callback):
    """After a test `<folder>/names/`: names.csv, and names.json as a page takes it.

    Half of the test pictures names latents, the other half judges the names. Without a namer, or
    without a scorer, the questions are written as JSON with crops, for someone elsewhere.
    """

    def __init__(
        self,
        folder: str,
        namer: Namer | None = None,
        scorer: Scorer | None = None,
        answers: str | None = None,
        scores: str | None = None,
        latents: Sequence[int] | None = None,
        most: int = 50,
        top: int = 9,
        cases: int = 16,
        pictures: int = 1000,
        crop: float | int = 0.375,
        side: int = 160,
    ) -> None:
        """`answers` are names and `scores` judgements that came back, in the files that went out.

        `latents`: which ones; None: the `most` of largest activation among those that are active
        in `top` pictures. `cases`: active and as many silent crops that judge a name, out of the
        first `pictures` of the test split. `crop`: of a picture's side; `side`: in pixels.
        """
        at_least(1, "report.names", most=most, top=top, cases=cases, side=side)
        at_least(2, "report.names", pictures=pictures)
        if not 0 < crop <= 1:
            raise UserError(f"report.names.crop is a share of a picture in (0, 1], got {crop}")
        if namer is not None and answers is not None:
            raise UserError(
                "report.names.namer and report.names.answers both give names: leave one out"
            )
        if scores is not None and (scorer is not None or (namer is None and answers is None)):
            raise UserError(
                "report.names.scores are of names that are given, and judged by nobody else: say "
                "report.names.answers= too, and no report.names.scorer"
            )
        self.folder, self.namer, self.scorer = Path(folder), namer, scorer
        self.answers = None if answers is None else Path(answers)
        self.scores = None if scores is None else Path(scores)
        self.latents = None if latents is None else list(dict.fromkeys(latents))
        self.most, self.top, self.count = most, top, cases
        self.pictures, self.share, self.side = pictures, crop, side

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what has no dictionary before anything is computed."""
        require(type(pl_module), HasDictionaries, "report=names", "try report=grid")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Latents that are not there, and answers of another dictionary, as soon as it is known."""
        saes = {name: one.sae for name, one in pl_module.dictionaries().items()}
        whose, answers = self._answers(list(map(key_of, saes.values())))
        for sae in saes.values():
            latents = list(answers) if whose == key_of(sae) else self.latents or []
            unknown = [latent for latent in latents if latent not in range(sae.latents)]
            if unknown:
                raise UserError(
                    f"Latents are named by a number of 0..{sae.latents - 1}, got {unknown[0]}: "
                    "choose others in report.names.latents or report.names.answers"
                )

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first rank looks at the pictures, asks, and writes."""
        if not trainer.is_global_zero:
            return
        saes = {name: one.sae for name, one in pl_module.dictionaries().items()}
        whose, answers = self._answers(list(map(key_of, saes.values())))
        folder = files.unused(self.folder / "names")
        for name, sae in saes.items():
            if whose in (None, key_of(sae)):
                place = folder if name == ALONE else folder / name
                self._name(sae, trainer.datamodule, place, answers)

    def _answers(self, keys: Sequence[str]) -> tuple[str | None, dict[int, list[str]]]:
        """The names that came back, and whose they are."""
        return (None, {}) if self.answers is None else read_answers(self.answers, keys)

    def _name(
        self, sae: Sae, data: pl.LightningDataModule, folder: Path, answers: Mapping[int, list[str]]
    ) -> None:
        """All that is done for one dictionary."""
        looked = TestPictures(data, sae, self.pictures)
        cut = Cutter(data, looked.grid, self.share, self.side)
        naming, judging = halves(looked.count)
        latents = list(answers) or self.latents
        crops = crops_to_name(looked.strongest(naming, self.top), latents, self.most)
        if not crops:
            raise UserError(
                f"None of these latents is active in {len(naming)} test pictures, so there is "
                "nothing to name: more report.names.pictures, or other report.names.latents"
            )
        if self.namer is None and not answers:
            _ask_for_names(sae, crops, cut, folder)
            return
        candidates = answers or self._candidates(crops, cut)
        activity = looked.activity(list(candidates), cut.reach)
        shown = {latent: activity.cases(latent, naming, self.count) for latent in candidates}
        held_out = {latent: activity.cases(latent, judging, self.count) for latent in candidates}
        names = choose_names(candidates, shown, cut, self.scorer)
        judgements = self._judged(sae, names, held_out, cut, folder)
        rows = rows_of(names, judgements or {}, crops)
        _write_names(sae, rows, folder)
        worth = f"{len(rows)} latents named, to be judged"
        print(f"names: {folder / 'names.csv'}: {mean_detection(rows) if judgements else worth}")

    def _candidates(self, crops: Mapping[int, Sequence[Crop]], cut: Cutter) -> dict[int, list[str]]:
        """The namer's."""
        answers = self.namer({latent: cut_all(cut, some) for latent, some in crops.items()})
        return {latent: list(names) for latent, names in answers.items() if names}

    def _judged(
        self, sae: Sae, names: Mapping[int, str], cases: Mapping, cut: Cutter, folder: Path
    ) -> dict[int, Judgement] | None:
        """By the scorer, or by who answered; None: the questions went out and nothing is known."""
        if self.scorer is not None:
            return judge(names, cases, cut, self.scorer)
        questionnaire = Questionnaire(names, cases)
        if self.scores is not None:
            return questionnaire.judgements(
                read_scores(self.scores, [key_of(sae)], questionnaire.questions())
            )
        path = folder / "questions.json"
        questionnaire.write_crops(folder, cut)
        write_questions(path, key_of(sae), questionnaire.questions())
        print(how_to_go_on(path, '"scores"', "scores"))
        return None


def _ask_for_names(
    sae: Sae, crops: Mapping[int, Sequence[Crop]], cut: Cutter, folder: Path
) -> None:
    """Crops, and the file that asks what they show."""
    paths = {}
    for latent, some in crops.items():
        paths[latent] = [f"crops/{latent:05d}-{number}.png" for number in range(len(some))]
        for crop, path in zip(some, paths[latent], strict=True):
            write_crop(cut, crop, folder / path)
    write_requests(folder / "requests.json", key_of(sae), paths)
    print(how_to_go_on(folder / "requests.json", '"names"', "answers"))


def _write_names(sae: Sae, rows: Sequence[Row], folder: Path) -> None:
    """The table, and the names as `report=dashboard names=` reads them."""
    files.write_atomic(folder / "names.csv", as_csv(rows).encode())
    names = {str(row["latent"]): row["name"] for row in rows}
    text = files.json_text(
        {"dictionary": key_of(sae), "names": names}, indent=1, ensure_ascii=False
    )
    files.write_atomic(folder / "names.json", text.encode())
