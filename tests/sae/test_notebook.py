"""The recipe of the notebook that diffdict grew out of: its formulas, its steps, its files."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from diffdict.cli.paths import folder
from diffdict.dictionary import Dictionary
from diffdict.errors import UserError
from diffdict.run.instantiate import make
from diffdict.sae.load import load_dictionary

D, SCALE = 12, 4
WIDE = D * SCALE


class Notebook(nn.Module):
    """Two linear layers, and a decoder whose columns are divided by their lengths as it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(D, WIDE), nn.ReLU())
        self.decoder = nn.Linear(WIDE, D)

    def forward(self, x):
        hidden = self.encoder(x)
        columns = self.decoder.weight / self.decoder.weight.norm(dim=0, keepdim=True)
        return hidden, hidden @ columns.T + self.decoder.bias

    def losses(self, x):
        """The squared error, and L1 / width: 0.001 of it counts."""
        hidden, said = self(x)
        return ((said - x) ** 2).mean(), hidden.abs().sum(1).mean() / D


@pytest.fixture
def task():
    """The experiment as it stands in conf/, of one width."""
    with initialize_config_dir(str(Path(folder("conf"))), version_base="1.3"):
        cfg = compose("train", ["experiment=sae_relu_original", f"sae.scale={SCALE}"])
    facts = {"d_in": D, "mean": tokens().mean(0), "scale": 0.01}
    assert cfg.data.batch_size == 64
    assert cfg.data.val_fraction == 0.01
    assert cfg.trainer.max_epochs == 5
    return make(cfg.model, facts)


def tokens(batches=1):
    """Raw ones, far from 0 and of different sizes, so that clipping has work."""
    generator = torch.Generator().manual_seed(0)
    return 9 * torch.rand(64 * batches, D, generator=generator) * torch.arange(1, D + 1) - 6


def beside(sae):
    """The notebook's network with the weights that ours begins with."""
    net = Notebook()
    state = {"encoder.0.weight": sae.W_enc, "encoder.0.bias": sae.b_enc}
    net.load_state_dict({**state, "decoder.weight": sae.W_dec.T, "decoder.bias": sae.b_dec})
    return net


def same(sae, net, of, **near):
    """The same of every parameter, by name."""
    layer = net.encoder[0]
    pairs = [(sae.W_enc, layer.weight), (sae.b_enc, layer.bias), (sae.b_dec, net.decoder.bias)]
    for ours, theirs in pairs:
        torch.testing.assert_close(of(ours), of(theirs), **near)
    torch.testing.assert_close(of(sae.W_dec), of(net.decoder.weight).T, **near)


@pytest.mark.parametrize("density", [1.0, 0.0])
def test_a_steps_losses_and_gradients_are_its(task, density):
    """By matrix products, and by entries as where few latents are active."""
    sae, x = task.saes["sae"], tokens()
    net = beside(sae)
    sae.density.fill_(density)
    out, (mse, sparsity) = sae(x), net.losses(x)
    torch.testing.assert_close(out.parts["mse"], mse.detach())
    torch.testing.assert_close(out.parts["sparsity"], sparsity.detach())
    torch.testing.assert_close(out.loss, mse + 0.001 * sparsity)
    out.loss.backward()
    (mse + 0.001 * sparsity).backward()
    assert all(parameter.grad.abs().max() > 1e-3 for parameter in net.parameters())
    same(sae, net, lambda parameter: parameter.grad, rtol=1e-4, atol=1e-4)


def test_steps_of_the_task_are_its(task):
    """The task under its trainer beside AdamW without decay on clipped gradients."""
    sae, batches, lengths = task.saes["sae"], tokens(20).split(64), []
    net, before = beside(sae), sae.W_enc.detach().clone()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0)
    for x in batches:
        mse, sparsity = net.losses(x)
        optimizer.zero_grad()
        (mse + 0.001 * sparsity).backward()
        lengths.append(nn.utils.clip_grad_norm_(net.parameters(), 1.0).item())
        optimizer.step()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, **quiet, enable_model_summary=False)
    trainer.fit(task, torch.utils.data.DataLoader(batches, batch_size=None))
    assert trainer.global_step == 20
    assert min(lengths) > 1
    assert (sae.W_enc - before).abs().max() > 0.01
    same(sae, net, lambda parameter: parameter.detach(), rtol=1e-4, atol=1e-5)


def test_it_starts_as_there(task):
    """Orthogonal columns, and torch's own ranges elsewhere."""
    sae, like = task.saes["sae"], Notebook()
    columns = sae.W_dec.detach()
    torch.testing.assert_close(columns.T @ columns, torch.eye(D), atol=1e-5, rtol=0)
    theirs = (like.encoder[0].weight, like.encoder[0].bias, like.decoder.bias)
    for ours, drawn in zip((sae.W_enc, sae.b_enc, sae.b_dec), theirs, strict=True):
        assert 0.5 < ours.std() / drawn.std() < 2


# ------------------------------------------------------------------ its files


class Around(pl.LightningModule):
    """A module that keeps the network and its hyperparameters as Lightning does."""

    def __init__(self, scale: int = SCALE, rate: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = Notebook()


def lightning(module, path):
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)


@pytest.mark.parametrize("how", ["weights", "state_dict", "model_state_dict", "lightning"])
def test_its_files_are_dictionaries(tmp_path, how):
    torch.manual_seed(0)
    module, path = Around(), tmp_path / "sae.ckpt"
    net = module.model
    net.decoder.weight.data *= 3 * torch.rand(WIDE)  # kept as they are, used as of length 1
    if how == "lightning":
        lightning(module, path)
        assert "model.encoder.0.weight" in torch.load(path, weights_only=True)["state_dict"]
    else:
        state = net.state_dict()
        assert next(iter(state)) == "encoder.0.weight"
        torch.save(state if how == "weights" else {how: state, "epoch": 5}, path)
    x = tokens()
    with torch.no_grad():
        hidden, said = net(x)
    for sae in (Dictionary.load(path).sae, load_dictionary(str(path)).sae):
        assert 0.1 < (hidden > 0).float().mean() < 0.9
        torch.testing.assert_close(sae.encode(x), hidden, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(sae.decode(sae.encode(x)), said, rtol=1e-5, atol=1e-4)
        assert not sae.apply_b_dec_to_input
        torch.testing.assert_close(sae.dictionary.norm(dim=1), torch.ones(WIDE))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "sae.ckpt"
    kept_too = {"hyper_parameters": SimpleNamespace(scale=10)}
    torch.save({"state_dict": Notebook().state_dict(), **kept_too}, path)
    with pytest.raises(UserError, match="is refused"):
        Dictionary.load(path)
