"""A signal ends what runs between two batches, whatever runs, and on how many ranks."""

import multiprocessing
import os
import signal
import socket
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from diffdict.run.interruption.stop import StopBetweenBatches
from tests.processes import PATIENCE, in_processes


class Counted(pl.LightningModule):
    """Notes each batch, and is sent a signal in one of them."""

    def __init__(self, number, at, times=1):
        super().__init__()
        self.number, self.at, self.times, self.done = number, at, times, []
        self.weight = torch.nn.Parameter(torch.ones(1))

    def _step(self, kind):
        for _ in range(self.times if (kind, len(self.done)) == self.at else 0):
            signal.raise_signal(self.number)
        self.done.append(kind)
        return self.weight.sum()

    def training_step(self, batch, batch_idx):
        return self._step("train")

    def validation_step(self, batch, batch_idx):
        self._step("validate")

    def test_step(self, batch, batch_idx):
        self._step("test")

    def predict_step(self, batch, batch_idx):
        return self._step("predict")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(verb, number, at, times=1, pictures=4, trainer=pl.Trainer, **ranks):
    """What was done until it stopped, and what stopped it."""
    trainer = trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=2,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[StopBetweenBatches()],
        **ranks,
    )
    module = Counted(number, at, times)
    loaders = [torch.utils.data.DataLoader(torch.ones(n, 1)) for n in (4, pictures)]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as stop:
        getattr(trainer, verb)(module, *loaders[verb != "fit" :])
    assert signal.getsignal(signal.SIGINT) == before
    return module.done, stop.value


def both(*works):
    """What two ranks tell, each at its own work."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])

    def take_part(rank, work):
        shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        places = {name: str(rank) for name in ("RANK", "LOCAL_RANK")}
        os.environ.update(shared | places | {"WORLD_SIZE": "2", "GROUP_RANK": "0"})
        return work()

    return in_processes(*(partial(take_part, rank, work) for rank, work in enumerate(works)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("verb", "at", "done"),
    [
        ("fit", ("train", 1), ["train"] * 2),
        ("fit", ("train", 3), ["train"] * 4),
        ("fit", ("validate", 5), ["train"] * 4 + ["validate"] * 2),
        ("fit", ("validate", 7), ["train"] * 4 + ["validate"] * 4 + ["train"]),
        ("fit", ("validate", 15), (["train"] * 4 + ["validate"] * 4) * 2),
        ("test", ("test", 1), ["test"] * 2),
        ("predict", ("predict", 1), ["predict"] * 2),
    ],
)
def test_a_run_ends_with_the_batch_that_it_is_at(verb, at, done, number):
    found, stop = run(verb, number, at)
    assert found == done
    assert isinstance(stop, SIGTERMException) == (number == signal.SIGTERM)
    assert stop.code == (143 if number == signal.SIGTERM else 1)  # Lightning's after Ctrl-C


def test_ctrl_c_again_ends_it_at_once_and_sigterm_as_before():
    assert run("predict", signal.SIGINT, ("predict", 1), times=2)[0] == ["predict"]
    found, stop = run("predict", signal.SIGTERM, ("predict", 1), times=3)
    assert (found, stop.code) == (["predict"] * 2, 143)


class Compiling(pl.LightningModule):
    """Is sent SIGTERM where torch compiles its network, which is told by modules' names alone."""

    def predict_step(self, batch, batch_idx):
        scope = {"__name__": "torch._inductor.compile_fx", "signal": signal}
        exec("def compile_fx(): signal.raise_signal(signal.SIGTERM)", scope)
        scope["compile_fx"]()
        print("waited for the compiler")


def test_sigterm_while_torch_compiles_waits_for_nothing(capfd):
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        callbacks=[StopBetweenBatches()],
    )
    loader = torch.utils.data.DataLoader(torch.ones(2, 1))
    process = multiprocessing.get_context("fork").Process(
        target=trainer.predict, args=(Compiling(), loader)
    )
    process.start()
    process.join(PATIENCE)
    said = capfd.readouterr()
    assert process.exitcode == -signal.SIGTERM
    assert "Stopped by SIGTERM while torch compiled" in said.err
    assert "waited" not in said.out


class Saved(pl.Callback):
    """What Ctrl-C does while callbacks save what a failed run has learned."""

    def on_exception(self, trainer, pl_module, exception):
        self.ctrl_c = signal.getsignal(signal.SIGINT)


class Failing(pl.LightningModule):
    """Fails in its first batch, or before it."""

    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, self._fail)

    def _fail(self, *_, **__):
        raise ValueError("failed")

    def predict_step(self, batch, batch_idx):
        return batch


@pytest.mark.parametrize("hook", ["setup", "predict_step", "teardown"])
def test_ctrl_c_is_given_back_by_a_run_that_fails(hook):
    """Else the first one after it would be noted for a run that is over, and do nothing."""
    before, stop, saved = signal.getsignal(signal.SIGINT), StopBetweenBatches(), Saved()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", callbacks=[stop, saved], **quiet)
    with pytest.raises(ValueError, match="failed"):
        trainer.predict(Failing(hook), torch.utils.data.DataLoader(torch.ones(2, 1)))
    assert signal.getsignal(signal.SIGINT) == before
    assert saved.ctrl_c == (before if hook == "teardown" else stop._ask), "saving is not broken off"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("verb", "at", "done"),
    [
        ("fit", ("train", 1), (["train"] * 2, ["train"] * 2)),
        ("fit", ("validate", 5), (["train"] * 4 + ["validate"] * 2,) * 2),
        ("test", ("test", 1), (["test"] * 2,) * 2),
        (
            "fit",
            ("validate", 7),  # the last one of this rank: the other has more
            (
                [*["train"] * 4, *["validate"] * 6, "train"],
                [*["train"] * 4, *["validate"] * 4, "train"],
            ),
        ),
    ],
)
def test_two_ranks_end_together_when_one_is_told(verb, at, done, number):
    never = ("train", -1)

    def work(at, pictures):
        found, stop = run(verb, number, at, pictures=pictures, strategy="ddp", devices=2)
        return found, stop.code

    code = 143 if number == signal.SIGTERM else 1
    found = both(lambda: work(never, 6), lambda: work(at, 4))
    assert found == [(one, code) for one in done]


class OneOfTwo(pl.Trainer):
    """A trainer that takes itself for one of two ranks."""

    world_size = 2


def test_ctrl_c_again_ends_a_rank_at_once():
    """Without a word to the others, which might be anywhere."""
    child = os.fork()
    if child == 0:
        try:
            run("predict", signal.SIGINT, ("predict", 1), times=2, trainer=OneOfTwo)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGINT
