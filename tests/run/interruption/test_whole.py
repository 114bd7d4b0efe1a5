"""Checkpoints of a training: whole, in their own folder, and never half in place of a whole."""

import tempfile

import pytest
import torch

from diffdict.errors import UserError
from diffdict.run.interruption.whole import WholeCheckpoints


def test_nothing_goes_by_the_system_s_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "mkstemp", lambda *_, **__: pytest.fail("another disk"))
    WholeCheckpoints().save_checkpoint({"step": torch.tensor(3)}, tmp_path / "deep/last.ckpt")
    assert torch.load(tmp_path / "deep/last.ckpt", weights_only=True) == {"step": 3}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["last.ckpt"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    last = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"step": 1}, last)
    full = OSError(28, "No space left on device")

    def fail(*_: object) -> None:
        raise full

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UserError, match=r"Disk full: .*last\.ckpt"):
        WholeCheckpoints().save_checkpoint({"step": 2}, last)
    assert torch.load(last, weights_only=True) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
