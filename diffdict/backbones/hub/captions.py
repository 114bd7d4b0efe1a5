"""A text a picture: captions.csv, encoded once and read again when its picture comes."""

import csv
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from diffdict.backbones.hub.encode import TextEncoder
from diffdict.backbones.hub.prompt import Prompt
from diffdict.errors import UserError

FORM = "a first line `file,caption`, then a line a picture"


class Captions:
    """Embeddings by a picture's name; no more than one batch's are in memory."""

    def __init__(
        self, path: Path, encoder: TextEncoder, check: Callable[[Prompt, str], None]
    ) -> None:
        """`check` refuses embeddings that the network cannot read."""
        self.path, self.encoder, self.texts = path, encoder, read_captions(path)
        encoder.encode(list(dict.fromkeys(self.texts.values())))
        self.first = encoder.prompt(next(iter(self.texts.values())))
        check(self.first, str(path))

    @property
    def sha256(self) -> str:
        """Of every picture's text, and of what encoded them."""
        digest = hashlib.sha256(self.first.sha256.encode())
        for name, text in sorted(self.texts.items()):
            digest.update(f"{name!r} {text!r}\n".encode())
        return digest.hexdigest()

    def prompt(self, names: Sequence[str]) -> Prompt:
        """Of these pictures, a row each."""
        missing = [name for name in names if name not in self.texts]
        if missing:
            raise UserError(
                f"{self.path} has {len(self.texts)} captions and none for {missing[0]}: a row's "
                f"file is the picture's path below its split, as {next(iter(self.texts))}. Add it, "
                "or leave the picture out"
            )
        prompts = [self.encoder.prompt(self.texts[name]) for name in names]
        fields = zip(*prompts, strict=True)
        return Prompt(*(None if each[0] is None else torch.cat(each) for each in fields))


def read_captions(path: Path) -> Mapping[str, str]:
    """The file's texts by its pictures."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"Cannot read backbone.prompt={path} ({error}): it is CSV in UTF-8, {FORM}"
        ) from error
    wrong = next((row for row in rows if len(row) != 2), None)
    if len(rows) < 2 or rows[0] != ["file", "caption"] or wrong is not None:
        line = f"a line of {len(wrong)} cells" if wrong else f"{rows[0] if rows else 'nothing'}"
        raise UserError(f"{path} must hold {FORM}, got {line}: put a text with commas in quotes")
    texts = {name.strip(): text for name, text in rows[1:]}
    if len(texts) < len(rows) - 1:
        names = [name.strip() for name, _ in rows[1:]]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path} has two captions for {twice}: keep one")
    return texts
