"""Names out of a list of words: those that fit a latent's crops better than other latents'."""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.errors import UserError
from diffdict.reports.latent_names.judges import Scorer


class Vocabulary:
    """A namer that asks a scorer of every word.

    A word's score counts from its mean over all latents: words that fit everything name nothing.
    """

    def __init__(self, words: str, scorer: Scorer, candidates: int = 3) -> None:
        """`words`: a file with a word or phrase a line."""
        try:
            lines = Path(words).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"Cannot read words from {words}: namer.words names a text file, a word a line"
            ) from error
        self.words = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
        if len(self.words) < 2 or candidates < 1:
            raise UserError(
                f"A vocabulary has two words or more and gives one candidate or more, got "
                f"{len(self.words)} in {words} and candidates={candidates}"
            )
        self.scorer, self.candidates = scorer, candidates

    def __call__(self, crops: Mapping[int, Float[Tensor, "n 3 h w"]]) -> dict[int, list[str]]:
        """Each latent's best words."""
        if not crops:
            return {}
        every = [self.scorer(some, self.words).float().mean(0) for some in crops.values()]
        means = torch.stack(every)
        above = means - means.mean(0) if len(means) > 1 else means
        best = above.topk(min(self.candidates, len(self.words)), dim=1).indices.tolist()
        return {
            latent: [self.words[i] for i in row] for latent, row in zip(crops, best, strict=True)
        }
