"""Linear probes on two ranks: the heads and figures of one rank that sees both batches."""

from functools import partial

import pytest
import torch

from diffdict.features.recorded_network import open_network
from tests.tasks.test_linear_probe import heads_of, images, probe, trainer

pytestmark = pytest.mark.faults

SGD = partial(torch.optim.SGD, lr=0.1)  # Adam magnifies rounding


def test_two_ranks_are_one_with_both_batches(tmp_path):
    figures, heads = {}, {}
    for name, batch, ranks in (
        ("one", 12, {}),
        ("two", 6, {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}),
    ):
        data, module = images(batch_size=batch), probe(images(), optimizer=SGD)
        fit = trainer(tmp_path / name, **ranks)
        fit.fit(module, datamodule=data)
        heads[name] = heads_of(module)
        figures[name] = {key: float(value) for key, value in fit.callback_metrics.items()}
    for key, value in heads["one"].items():
        torch.testing.assert_close(value, heads["two"][key], rtol=1e-4, atol=1e-5)
    judged = [key for key in figures["one"] if key.startswith("val/")]
    assert len(judged) == 5
    one, two = ([figures[name][key] for key in judged] for name in ("one", "two"))
    assert one == pytest.approx(two, abs=1e-6)


def test_several_ranks_read_what_is_kept_and_write_nothing(tmp_path):
    config = {"_target_": "tests.features.test_kept_vectors.FileNet"}
    ranks = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}
    net = lambda: open_network(config, True, str(tmp_path / "kept"))  # noqa: E731
    data = images(batch_size=6)
    with pytest.raises(Exception, match=r"keep=true writes features on one rank, and here are 2"):
        trainer(tmp_path, **ranks).fit(probe(data, net=net(), optimizer=SGD), datamodule=data)
    heads = []
    for batch, more in ((12, {}), (6, ranks)):
        data = images(batch_size=batch)
        module = probe(data, net=net(), optimizer=SGD)
        trainer(tmp_path, **more).fit(module, datamodule=data)
        heads.append(heads_of(module))
    for key, value in heads[0].items():
        torch.testing.assert_close(value, heads[1][key], rtol=1e-4, atol=1e-5)
