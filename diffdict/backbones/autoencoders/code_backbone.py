"""What all encoders offer whose features are one code a picture: the whole of it, and its parts."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.base import Backbone, Block
from diffdict.diffusion.segments import CodeSegments
from diffdict.errors import UserError

# as a config gives them: number, stages, dims, steps
Parts = CodeSegments | Mapping[str, object] | None


class CodeBackbone(Backbone):
    """Block `code` [d, 1, 1]; where it has parts `stage0`, …, or `segment0`, … without stages."""

    segments: CodeSegments | None

    def name_blocks(self, code: int, segments: Parts) -> None:
        """Which entries of the code each block holds."""
        if isinstance(segments, Mapping):
            segments = CodeSegments(**{"code": code, **segments})
        if segments is not None and segments.code != code:
            raise UserError(
                f"segments share out the code of {self.name}, {code} wide, got segments of a code "
                f"of {segments.code}: leave segments.code out"
            )
        self.segments = segments
        self.entries = {"code": slice(0, code)} | part_entries(segments)
        self.shapes = {
            block: (part.stop - part.start, 1, 1) for block, part in self.entries.items()
        }

    @abstractmethod
    def codes(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch code"]:
        """One code a picture in [-1, 1]."""

    def features(
        self,
        images: Float[Tensor, "batch 3 height width"],
        timestep: int | None = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """The code and its parts as maps of one position; noise is not used."""
        wanted = self.chosen(blocks)
        self.check_timestep(timestep)
        codes = self.codes(images)[:, :, None, None]
        return {block: codes[:, self.entries[block]] for block in wanted}

    def check_pictures(self, images: Tensor) -> None:
        """An encoder ends in a layer for one size of picture."""
        if images.shape[1:] != (3, self.image_size, self.image_size):
            raise UserError(
                f"{self.name} takes pictures of 3×{self.image_size}×{self.image_size}, got "
                f"{'×'.join(map(str, images.shape[1:]))}: dataset.image_size={self.image_size}"
            )


def part_entries(segments: CodeSegments | None) -> dict[Block, slice]:
    """The entries of every part that has any: of the stages, or of the segments without stages."""
    if segments is None:
        return {}
    ends = segments.ends.tolist()
    kind = "segment"
    if segments.stages is not None:
        kind, last = "stage", -1
        stage_ends = []
        for count in segments.per_stage:
            last += count
            stage_ends.append(ends[last])
        ends = stage_ends
    parts = enumerate(pairwise([0, *ends]))
    return {f"{kind}{i}": slice(begin, end) for i, (begin, end) in parts if end > begin}
