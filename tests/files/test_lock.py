"""A folder for one process: a second is refused, and what is gone holds nothing."""

import multiprocessing
import os
import signal

import pytest

from diffdict.errors import UserError
from diffdict.files import busy, exclusive_folder
from tests.processes import PATIENCE

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder."""
    has_it = FORK.Event()

    def hold() -> None:
        with exclusive_folder(tmp_path):
            has_it.set()
            signal.pause()

    process = FORK.Process(target=hold)
    process.start()
    assert has_it.wait(PATIENCE)
    yield process
    process.kill()
    process.join()


def test_a_second_process_is_refused_until_the_first_is_gone(holder, tmp_path):
    assert busy(tmp_path)
    with (
        pytest.raises(UserError, match=r"still at work: .*another hydra\.run\.dir="),
        exclusive_folder(tmp_path),
    ):
        pass
    holder.kill()
    holder.join()
    assert not busy(tmp_path)
    with exclusive_folder(tmp_path):
        assert not busy(tmp_path), "not to itself"
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_a_child_that_outlives_its_parent_does_not_keep_it(tmp_path):
    """As a loader's workers do, for some seconds after their run was killed."""
    ready, number = FORK.Event(), FORK.Value("i", 0)

    def outlive() -> None:
        with exclusive_folder(tmp_path):
            child = os.fork()
            if not child:
                signal.pause()
            number.value = child
            ready.set()
            signal.pause()

    process = FORK.Process(target=outlive)
    process.start()
    assert ready.wait(PATIENCE)
    try:
        assert busy(tmp_path)
        process.kill()
        process.join()
        assert not busy(tmp_path)
    finally:
        os.kill(number.value, signal.SIGKILL)


def test_a_folder_that_is_not_there_is_nobodys(tmp_path):
    assert not busy(tmp_path / "none")
    with exclusive_folder(tmp_path / "none"):
        pass
