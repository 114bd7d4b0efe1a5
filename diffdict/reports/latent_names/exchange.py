"""Names and judgements by someone elsewhere: questions out as JSON with crops, answers in."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict import files
from diffdict.errors import UserError

NAME_IT = (
    "All crops show one and the same visual concept, at their middle, the first most clearly. "
    "Name it in one to three words. Several names may be given, the best first."
)
JUDGE_IT = (
    "For each text say how surely the crop shows it at its middle: a number from 0 (no) to 1 (yes)."
)
HOW = "fill in {field} and give the file back: report.names.{key}={path}"


class Question(NamedTuple):
    """A crop, and texts that may be of it."""

    crop: str  # its file
    texts: Sequence[str]


def write_requests(path: Path, key: str, crops: Mapping[int, Sequence[str]]) -> None:
    """Asks for names: of each latent its crops, and a list that is still empty."""
    rows = [{"latent": latent, "crops": list(some), "names": []} for latent, some in crops.items()]
    _write(path, {"dictionary": key, "prompt": NAME_IT, "latents": rows})


def write_questions(path: Path, key: str, asked: Sequence[Question]) -> None:
    """Asks for a number for each text of each crop; nothing says which text is the crop's own."""
    rows = [{"crop": each.crop, "texts": list(each.texts), "scores": []} for each in asked]
    _write(path, {"dictionary": key, "prompt": JUDGE_IT, "questions": rows})


def read_answers(path: Path, keys: Sequence[str]) -> tuple[str, dict[int, list[str]]]:
    """Whose names they are, and those of each latent that has some.

    The file is one of requests, filled in, or the names that a page exports.
    """
    content = _read(path, keys)
    rows, exported = content.get("latents"), content.get("names")
    try:
        if isinstance(exported, Mapping):
            names = {int(latent): [str(name)] for latent, name in exported.items() if name}
        else:
            names = {int(row["latent"]): _texts(row["names"]) for row in rows}
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} holds no names: its rows are "
            '{"latent": 17, "names": ["left eye"]} under "latents", as names/requests.json has '
            "them"
        ) from error
    names = {latent: some for latent, some in names.items() if some}
    if not names:
        raise UserError(
            f'Every list of "names" in {path} is empty: fill in what the crops show, or leave '
            "report.names.answers= out"
        )
    return content["dictionary"], names


def read_scores(
    path: Path, keys: Sequence[str], asked: Sequence[Question]
) -> Float[Tensor, "questions texts"]:
    """The numbers of a file of questions that was filled in; NaN behind a question's last text."""
    rows = _read(path, keys).get("questions")
    try:
        same = [Question(row["crop"], list(row["texts"])) for row in rows] == list(asked)
        lists = [[float(number) for number in row["scores"]] for row in rows]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f'{path} holds no scores: "scores" are numbers from 0 to 1, one a text, in each of its '
            '"questions"'
        ) from error
    if not same:
        raise UserError(
            f"{path} asks other questions than this run would: give the names, the pictures and "
            "the settings of report.names that it was written with"
        )
    scores = torch.full(
        (len(asked), max((len(each.texts) for each in asked), default=0)), torch.nan
    )
    for row, (each, numbers) in enumerate(zip(asked, lists, strict=True)):
        if len(numbers) != len(each.texts) or not all(0 <= number <= 1 for number in numbers):
            raise UserError(
                f"{path} must score {each.crop} with {len(each.texts)} numbers from 0 to 1, got "
                f"{numbers}: one a text, in their order"
            )
        scores[row, : len(numbers)] = torch.tensor(numbers)
    return scores


def how_to_go_on(path: Path, field: str, key: str) -> str:
    """The line that says what becomes of a file of questions."""
    return f"{path}: {HOW.format(field=field, key=key, path=path)}"


def _texts(names: object) -> list[str]:
    """One name or several."""
    if not isinstance(names, (str, list)):
        raise TypeError(names)
    return [str(name).strip() for name in ([names] if isinstance(names, str) else names) if name]


def _read(path: Path, keys: Sequence[str]) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"Cannot read {path} ({error.strerror}): name a file that report=names wrote and "
            "someone filled in"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): mend it, or write it again") from error
    whose = content.get("dictionary") if isinstance(content, dict) else None
    if whose not in keys:
        raise UserError(
            f"{path} belongs to dictionary {whose!r}, this one is {', '.join(keys)}: its numbers "
            "mean other latents"
        )
    return content


def _write(path: Path, content: dict) -> None:
    text = files.json_text(content, indent=1, ensure_ascii=False)
    files.write_atomic(path, text.encode())
