"""The texts that a network is told: one for all pictures or a caption each, and a negative one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from diffdict.backbones.hub.captions import Captions
from diffdict.backbones.hub.encode import TextEncoder
from diffdict.backbones.hub.families.family import Family
from diffdict.backbones.hub.pipeline_folder import pipeline_folder
from diffdict.backbones.hub.prompt import Prompt, check_prompt, read_embeddings
from diffdict.backbones.hub.words import word_tokens
from diffdict.errors import UserError


class Texts:
    """Embeddings of what was asked for, by the encoders of the pipeline that a network stands in.

    A network that reads no text has none.
    """

    def __init__(
        self, family: Family, network: Path, prompt: str, negative: str | None, kept: Path
    ) -> None:
        """`prompt` is a text, a .csv of captions or an .npz; negative=None is the pipeline's own.

        `kept` holds what was encoded.
        """
        self.family, self.folder, self.kept = family, pipeline_folder(network), kept
        self.source, self.negative_source = prompt, negative
        self.captions: Captions | None = None  # of each picture its own
        self.shown: Prompt | None = None  # of the pictures that are looked at
        self.prompt: Prompt | None = None
        self.negative: Prompt | None = None
        if family.text is None:
            for word, text in (("prompt", prompt), ("negative", negative)):
                if text:
                    raise UserError(
                        f"A {family.kind} is told no text, got {word}={text}: leave it out"
                    )
            return
        if prompt.endswith(".csv"):
            self.captions = Captions(Path(prompt), self._encoder(), self._check)
            self.prompt = self.captions.first
        else:
            self.prompt = self._told(prompt, away=False)

    def encode_negative(self) -> None:
        """What guidance leads away from; of a prompt's file the same, which holds it too."""
        beside = self.source if self.source.endswith(".npz") else None
        self.negative = self._told(self.negative_source or beside, away=True)

    @property
    def sha256(self) -> str | None:
        """Of what pictures are told."""
        texts = self.captions or self.prompt
        return None if texts is None else texts.sha256

    @contextmanager
    def of_pictures(self, names: Sequence[str] | None) -> Iterator[None]:
        """`of_batch` within is the captions of these pictures."""
        if self.captions is not None and names is not None:
            self.shown = self.captions.prompt(names)
        try:
            yield
        finally:
            self.shown = None

    def of_batch(self, x_t: Tensor) -> Prompt | None:
        """One for all pictures, or a caption each."""
        if self.captions is None:
            return self.prompt
        if self.shown is None or len(self.shown.states) != len(x_t):
            raise UserError(
                f"backbone.prompt={self.captions.path} has a caption a picture, which extraction "
                "and data.source=live ask for, and nothing else: extract.py first, or "
                "backbone.prompt=TEXT"
            )
        return self.shown

    def word_tokens(self, words: Sequence[str]) -> Mapping[str, Sequence[int]]:
        """Of each word the tokens of the prompt that are its own."""
        if not words:
            return {}
        if self.source.endswith((".csv", ".npz")):
            raise UserError(
                f"backbone.words are those of one text, and backbone.prompt={self.source} is a "
                "file: backbone.prompt=TEXT"
            )
        length = self.prompt.states.shape[1]
        return word_tokens(self.folder, self.family, self.source, words, length)

    def _told(self, text: str | None, away: bool) -> Prompt:
        """Embeddings of a file, or of a text by the pipeline's encoders."""
        if text is not None and text.endswith(".npz"):
            prompt = read_embeddings(Path(text), negative=away)
        else:
            prompt = self._encoder().prompt(text)
        self._check(prompt, text or "the pipeline's text")
        return prompt

    def _encoder(self) -> TextEncoder:
        return TextEncoder(self.folder, self.family.encode, self.kept)

    def _check(self, prompt: Prompt, source: str) -> None:
        """Embeddings as wide as the network reads them."""
        check_prompt(prompt, self.family.text, self.family.pooled, source)
