"""Dictionaries with a fixed number of active latents: TopK, BatchTopK, Matryoshka."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from diffdict.errors import UserError
from diffdict.sae.base import Learned, Sae
from diffdict.sae.choose import above, largest_of_batch, largest_of_tokens, starts_of
from diffdict.sae.sparse import Codes, decode_entries, encode_chosen, nested_error

CROWDED = 25  # up to so many dead latents a chosen one, the auxiliary product is faster dense
THRESHOLD_DECAY = 0.99  # of the running mean of the least active value


class TopK(Sae):
    """The k largest pre-activations of every token (Gao et al. 2024)."""

    architecture = inference = "topk"
    told = (*Sae.told, "k", "aux_k", "aux_weight")
    together = False  # whether the choice needs the whole batch

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
        """`aux_k` dead latents, null for half of d_in, explain what the living ones leave over."""
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
        self, pre: Float[Tensor, "tokens latents"], part: slice = slice(None)
    ) -> Float[Tensor, "tokens latents"]:
        """All but the k largest become 0, and so do negative ones; needs all latents of a token."""
        if pre.shape[1] != self.latents:
            raise ValueError("the k largest are known among all latents only")
        values, chosen = pre.topk(self.k, sorted=False)
        return torch.zeros_like(pre).scatter_(1, chosen, values.relu())

    def learn(self, x: Float[Tensor, "tokens d_in"], pressure: float) -> Learned:
        """Encoder, choice, a sum of k rows."""
        entries, values = encode_chosen(
            x, self.b_dec, self.W_enc, self.b_enc, self.choose, self.together
        )
        values = values.relu()
        reconstruction = decode_entries(values, self.dictionary, entries) + self.b_dec
        codes = Codes(entries.starts, entries.chosen, values)
        return Learned(reconstruction, codes, self.auxiliary(x, reconstruction))

    def choose(
        self, pre: Float[Tensor, "tokens latents"]
    ) -> tuple[Int64[Tensor, "tokens_plus_one"], Int64[Tensor, "entries"]]:
        """The entries that count in training."""
        return largest_of_tokens(pre, self.k)

    def auxiliary(
        self, x: Float[Tensor, "tokens d_in"], reconstruction: Float[Tensor, "tokens d_in"]
    ) -> dict[str, tuple[float, Tensor]]:
        """How badly dead latents explain the error, relative to its size (Gao et al. 2024, A.2)."""
        dead = self.dead.nonzero().squeeze(1) if self.training and self.aux_weight else None
        if dead is None or not len(dead):
            return {}
        error = (x - reconstruction).detach()
        explained = self._explain(x, dead, min(self.aux_k, len(dead)))
        size = error.square().mean().clamp(min=torch.finfo(error.dtype).tiny)
        return {"aux": (self.aux_weight, (explained - error).square().mean() / size)}

    def _explain(self, x: Tensor, dead: Tensor, k: int) -> Tensor:
        """The k largest of the dead latents decoded: by entry where the dead are a crowd."""
        weight, bias = self.W_enc[dead], self.b_enc[dead]
        rows = self.dictionary[dead]
        if len(dead) > CROWDED * k:
            choose = lambda pre: largest_of_tokens(pre, k)  # noqa: E731
            entries, values = encode_chosen(x, self.b_dec.detach(), weight, bias, choose)
            return decode_entries(values.relu(), rows, entries)
        pre = F.linear(x - self.b_dec.detach(), weight, bias).relu()
        if k < len(dead):
            least = pre.detach().topk(k, sorted=False).values.amin(1, keepdim=True)
            pre = pre * (pre >= least)
        return F.linear(pre, rows.T).float()


class BatchTopK(TopK):
    """The batch's tokens share their actives: k on average (Bussmann et al. 2024)."""

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
        self.register_buffer("threshold", torch.tensor(0.0))  # stands for the batch at inference
        self.register_buffer("batches", torch.tensor(0))

    def activate(
        self, pre: Float[Tensor, "tokens part"], part: slice = slice(None)
    ) -> Float[Tensor, "tokens part"]:
        """All above the threshold: a token's codes do not depend on its neighbours."""
        return torch.where(pre > self.threshold, pre, 0).relu()

    def choose(
        self, pre: Float[Tensor, "tokens latents"]
    ) -> tuple[Int64[Tensor, "tokens_plus_one"], Int64[Tensor, "entries"]]:
        """In training the batch's largest, whose least value the threshold follows."""
        if not self.training:
            token, latent = above(pre, self.threshold.clamp(min=0))
            return starts_of(token, len(pre)), latent
        chosen = largest_of_batch(pre, self.k)
        if len(chosen.latents):
            self._follow(chosen.least.float())
        return chosen.starts, chosen.latents

    def _follow(self, least: Float[Tensor, ""]) -> None:
        """The mean over batches at first, then a running one."""
        self.batches += 1
        weight = torch.clamp(1 / self.batches, min=1 - THRESHOLD_DECAY)
        self.threshold.lerp_(least, weight)


class Matryoshka(BatchTopK):
    """Nested dictionaries: every prefix of the groups reconstructs alone (Bussmann et al. 2025)."""

    architecture = "matryoshka"
    told = (*BatchTopK.told, "groups")

    def __init__(
        self,
        d_in: int,
        mean: Float[Tensor, " d_in"] | None = None,
        token_scale: float | int = 1.0,
        *,
        groups: Sequence[float] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32),
        **options: object,
    ) -> None:
        """`groups`: shares of the latents, from the coarsest concepts on; their sum is 1."""
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

    def learn(self, x: Float[Tensor, "tokens d_in"], pressure: float) -> Learned:
        """Each group's sum on its own, then the running sums of them: one pass over the entries."""
        entries, values = encode_chosen(
            x, self.b_dec, self.W_enc, self.b_enc, self.choose, self.together
        )
        values = values.relu()
        grouped, order = entries.regrouped(self.group, len(self.groups))
        sums = decode_entries(values[order], self.dictionary, grouped)
        mse, reconstruction = nested_error(sums.view(len(x), len(self.groups), -1), self.b_dec, x)
        codes = Codes(entries.starts, entries.chosen, values)
        return Learned(reconstruction, codes, self.auxiliary(x, reconstruction), mse)
