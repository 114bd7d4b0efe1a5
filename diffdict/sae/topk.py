"""Dictionaries with a fixed number of active latents: TopK, BatchTopK, Matryoshka."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from diffdict.errors import UserError
from diffdict.sae.base import Sae, TrainingOutput
from diffdict.sae.selection import Chosen, chosen_above, largest_of_batch, largest_of_tokens
from diffdict.sae.sparse import Codes, decode_entries, encode_chosen, nested_error

CROWDED = 25  # below 25 dead latents per selected one, a dense product is faster
THRESHOLD_DECAY = 0.99  # of the running mean of the least active value


class TopK(Sae):
    """Keeps the k largest pre-activations of every token (Gao et al. 2024)."""

    architecture = inference = "topk"
    exported_options = (*Sae.exported_options, "k", "aux_k", "aux_weight")
    together = False  # whether latents are selected over the whole batch

    def __init__(
        self,
        d_in: int,
        mean: Float[Tensor, " d_in"] | None = None,
        token_scale: float | int = 1.0,
        *,
        k: int = 32,
        aux_k: int | None = None,
        aux_weight: float | int = 1 / 32,
        **shape: object,
    ) -> None:
        """`aux_k` dead latents (null: half of d_in) are trained on the reconstruction error."""
        super().__init__(d_in, mean, token_scale, **shape)
        if not 1 <= k <= self.latents:
            raise UserError(
                f"sae.k must lie in 1..{self.latents}, the number of latents, got {k}: "
                f"lower sae.k or raise sae.scale"
            )
        if aux_k is not None and aux_k < 1:
            raise UserError(f"sae.aux_k is 1 or more, or null, got {aux_k}: aux_weight=0 is none")
        if not 0 <= aux_weight < float("inf"):
            raise UserError(f"sae.aux_weight is a number from 0 on, got {aux_weight}: 0 is none")
        self.k, self.aux_weight = k, aux_weight
        self.ranked = None if self.together else k
        self.aux_k = max(1, d_in // 2) if aux_k is None else aux_k

    def activate(
        self,
        pre: Float[Tensor, "tokens latents"],
        part: slice | Int64[Tensor, " part"] = slice(None),
    ) -> Float[Tensor, "tokens latents"]:
        """Sets all but the k largest, and negative values, to 0; needs all latents of a token."""
        if pre.shape[1] != self.latents:
            raise ValueError("the k largest are known among all latents only")
        values, latents = pre.topk(self.k, sorted=False)
        return torch.zeros_like(pre).scatter_(1, latents, values.relu())

    def training_forward(self, x: Float[Tensor, "tokens d_in"], pressure: float) -> TrainingOutput:
        """Encodes, keeps k latents of a token, and sums their rows."""
        entries, values = encode_chosen(
            x, self.input_centre, self.W_enc, self.b_enc, self.choose, self.together
        )
        values = values.relu()
        reconstruction = decode_entries(values, self.dictionary, entries) + self.b_dec
        codes = Codes(entries.starts, entries.chosen, values)
        return TrainingOutput(reconstruction, codes, self.auxiliary(x, reconstruction))

    def choose(self, pre: Float[Tensor, "tokens latents"]) -> Chosen:
        """The entries that are active in training."""
        return largest_of_tokens(pre, self.k)

    def auxiliary(
        self, x: Float[Tensor, "tokens d_in"], reconstruction: Float[Tensor, "tokens d_in"]
    ) -> dict[str, tuple[float, Tensor]]:
        """AuxK: the relative error of dead latents' fit to the error (Gao et al. 2024, A.2)."""
        dead = self.dead.nonzero().squeeze(1) if self.training and self.aux_weight else None
        if dead is None or not len(dead):
            return {}
        error = (x - reconstruction).detach()
        explained = self._explain(x, dead, min(self.aux_k, len(dead)))
        size = error.square().mean().clamp(min=torch.finfo(error.dtype).tiny)
        return {"aux": (self.aux_weight, (explained - error).square().mean() / size)}

    def _explain(self, x: Tensor, dead: Tensor, k: int) -> Tensor:
        """Decodes the k largest of the dead latents: by entry if many are dead."""
        weight, bias = self.W_enc[dead], self.b_enc[dead]
        rows, centre = self.dictionary[dead], self.input_centre.detach()
        if len(dead) > CROWDED * k:
            choose = lambda pre: largest_of_tokens(pre, k)  # noqa: E731
            entries, values = encode_chosen(x, centre, weight, bias, choose)
            return decode_entries(values.relu(), rows, entries)
        pre = F.linear(x - centre, weight, bias).relu()
        if k < len(dead):
            least = pre.detach().topk(k, sorted=False).values.amin(1, keepdim=True)
            pre = pre * (pre >= least)
        return F.linear(pre, rows.T).float()


class BatchTopK(TopK):
    """Keeps the largest of a batch, k per token on average (Bussmann et al. 2024)."""

    architecture, inference = "batch_topk", "jumprelu"
    together = True

    def __init__(
        self,
        d_in: int,
        mean: Float[Tensor, " d_in"] | None = None,
        token_scale: float | int = 1.0,
        **options: object,
    ) -> None:
        """As TopK."""
        super().__init__(d_in, mean, token_scale, **options)
        self.register_buffer("threshold", torch.tensor(0.0))  # replaces the batch at inference
        self.register_buffer("batches", torch.tensor(0))

    def activate(
        self,
        pre: Float[Tensor, "tokens part"],
        part: slice | Int64[Tensor, " part"] = slice(None),
    ) -> Float[Tensor, "tokens part"]:
        """Keeps values above the threshold, so that tokens do not depend on each other."""
        return torch.where(pre > self.threshold, pre, 0).relu()

    def choose(self, pre: Float[Tensor, "tokens latents"]) -> Chosen:
        """In training the batch's largest entries, whose least value updates the threshold."""
        if not self.training:
            return chosen_above(pre, self.threshold.clamp(min=0))
        chosen, least = largest_of_batch(pre, self.k)
        if len(chosen.latents):
            self._update_threshold(least.float())
        return chosen

    def _update_threshold(self, least: Float[Tensor, ""]) -> None:
        """The mean over the first batches, then a running mean."""
        self.batches += 1
        weight = torch.clamp(1 / self.batches, min=1 - THRESHOLD_DECAY)
        self.threshold.lerp_(least, weight)


class Matryoshka(BatchTopK):
    """Nested dictionaries: each prefix of the groups reconstructs on its own (Bussmann 2025)."""

    architecture = "matryoshka"
    exported_options = (*BatchTopK.exported_options, "groups")

    def __init__(
        self,
        d_in: int,
        mean: Float[Tensor, " d_in"] | None = None,
        token_scale: float | int = 1.0,
        *,
        groups: Sequence[float] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32),
        **options: object,
    ) -> None:
        """`groups`: shares of the latents, coarsest concepts first, with a sum of 1."""
        super().__init__(d_in, mean, token_scale, **options)
        if not groups or min(groups) <= 0 or abs(sum(groups) - 1) > 1e-6:
            raise UserError(f"sae.groups are positive shares of sum 1, got {list(groups)}")
        ends = torch.tensor(groups).cumsum(0)[:-1].mul(self.latents).round().long()
        group = torch.bucketize(torch.arange(self.latents), ends, right=True)
        if len(group.unique()) < len(groups):
            raise UserError(
                f"sae.groups={list(groups)} leave a group of {self.latents} latents empty: "
                f"give fewer groups or raise sae.scale"
            )
        self.groups: list[float] = (torch.bincount(group) / self.latents).tolist()
        self.register_buffer("group", group)

    def training_forward(self, x: Float[Tensor, "tokens d_in"], pressure: float) -> TrainingOutput:
        """Decodes each group, then takes running sums over groups: one pass over the entries."""
        entries, values = encode_chosen(
            x, self.input_centre, self.W_enc, self.b_enc, self.choose, self.together
        )
        values = values.relu()
        grouped, order = entries.regrouped(self.group, len(self.groups))
        sums = decode_entries(values[order], self.dictionary, grouped)
        mse, reconstruction = nested_error(sums.view(len(x), len(self.groups), -1), self.b_dec, x)
        codes = Codes(entries.starts, entries.chosen, values)
        return TrainingOutput(reconstruction, codes, self.auxiliary(x, reconstruction), mse)
