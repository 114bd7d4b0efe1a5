"""`report=stages`: one noise, the parts of a code opened one after the other: what each adds."""

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffdict.errors import at_least
from diffdict.reports.codes.base import CodeReport, check_finite_pictures
from diffdict.reports.codes.chains import Chains
from diffdict.reports.codes.lines import PictureLine, draw_lines
from diffdict.reports.codes.parts import code_slices
from diffdict.results.tables import Row


class Stages(CodeReport):
    """From the picture's own noise without code, then with the first part, the first two, …

    `last_first`: the parts of the noisiest timesteps open first. The table: what a part moves.
    """

    word = "stages"

    def __init__(self, *, pictures: int = 4, last_first: bool = True, **sheet: object) -> None:
        super().__init__(**sheet)
        at_least(1, "report.stages", pictures=pictures)
        self.pictures, self.last_first = range(pictures), last_first

    def sheet(
        self, chains: Chains, images: Float[Tensor, "n 3 side side"]
    ) -> tuple[Image.Image, list[Row]]:
        """A line a picture; closed parts are zeros, as they are to a decoder in training."""
        codes = chains.codes(images)
        noise = chains.invert(images, codes)
        parts = code_slices(chains.net.pdae, None, self.word)
        order = parts[::-1] if self.last_first else parts
        opened, prefixes = torch.zeros_like(codes), []
        for part in order:
            opened = opened.clone()
            opened[:, part.entries] = codes[:, part.entries]
            prefixes.append(opened)
        bare = chains.draw(noise, codes, lambda _: lambda x, t: chains.net(x, t))
        stage = chains.draw(noise.repeat(len(order), 1, 1, 1), torch.cat(prefixes))
        stage = torch.cat([bare[None], stage.unflatten(0, (len(order), len(images)))])
        check_finite_pictures(stage.flatten(0, 1), self.word)
        captions = ["without code", *(f"+ {part.name}" for part in order)]
        lines = [
            PictureLine(torch.cat([images[[row]], stage[:, row]]), [f"picture {index}", *captions])
            for row, index in enumerate(self.pictures)
        ]
        rows: list[Row] = []
        for place, part in enumerate(order):
            change = (stage[place + 1] - stage[place]).square().mean((1, 2, 3)).sqrt()
            off = (stage[place + 1] - images).square().mean((1, 2, 3)).sqrt()
            rows.append(
                {
                    "part": part.name,
                    "entries": part.entries.stop - part.entries.start,
                    "moved_rmse": float(change.mean()),
                    "rmse_to_picture": float(off.mean()),
                    "pictures": len(images),
                }
            )
        return draw_lines(lines), rows
