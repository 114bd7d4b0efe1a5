"""Words of a prompt, and which of the tokens that a network is told are theirs."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffdict.backbones.hub.families.family import Family
from diffdict.errors import UserError, one_line

WORD = re.compile(r"\w+(?:['’-]\w+)*")


def words_of(text: str) -> dict[str, list[tuple[int, int]]]:
    """Each word of a text, in lower case, with the places where it begins and ends."""
    places: dict[str, list[tuple[int, int]]] = {}
    for hit in WORD.finditer(text):
        places.setdefault(hit.group().lower(), []).append(hit.span())
    return places


def word_tokens(
    folder: Path, family: Family, text: str, words: Sequence[str], length: int
) -> Mapping[str, list[int]]:
    """The tokens of each word, all its pieces wherever it stands, among `length` states.

    Where several encoders' states stand one after the other, a word has tokens of each.
    """
    if not family.tokenizers:
        raise UserError(
            f"A {family.kind} is told its text within a conversation, where words are not found: "
            "backbone.taps=attention has a channel for each token"
        )
    text = family.read_text(text)
    spans = words_of(text)
    for word in words:
        if word.lower() not in spans:
            raise UserError(
                f"backbone.words: the prompt has no word {word!r}. Its words: "
                f"{', '.join(spans) or 'none, for backbone.prompt is empty'}"
            )
    parts = [folder / part for part in family.tokenizers if (folder / part).is_dir()]
    tokens: dict[str, list[int]] = {word: [] for word in words}
    before = 0
    for part in parts:
        pieces = _pieces(part, text, None if part != parts[-1] else length - before)
        for word, numbers in tokens.items():
            numbers += [
                before + place
                for place, (start, end) in enumerate(pieces)
                if any(start < stop and end > first for first, stop in spans[word.lower()])
            ]
        before += len(pieces)
    if cut := next((word for word, numbers in tokens.items() if not numbers), None):
        raise UserError(
            f"backbone.words: {cut!r} stands behind the tokens that the pipeline reads of a "
            "prompt: say it earlier in backbone.prompt"
        )
    return tokens


def _pieces(folder: Path, text: str, length: int | None) -> list[tuple[int, int]]:
    """Where in the text each of an encoder's tokens stands; None: as many as it ever reads."""
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        read = tokenizer(
            text,
            padding="max_length",
            truncation=True,
            max_length=length or tokenizer.model_max_length,
            return_offsets_mapping=True,
        )
    except ImportError as error:
        raise UserError(
            "backbone.words asks a tokenizer of transformers, which is not here: pip install "
            "'diffdict[text]'"
        ) from error
    except Exception as error:  # what transformers says of files has many types
        raise UserError(
            f"The tokenizer in {folder} does not say where words stand ({one_line(error)[:200]}): "
            "save it there as a fast one, with tokenizer.json"
        ) from error
    return read["offset_mapping"]
