"""Waiting for other processes: for what they say, never for a time.

On a busy machine an import alone may take a minute. So nothing is timed: the one limit here is
for what would otherwise hang for ever.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection, wait

PATIENCE = 900  # seconds after which a process or a page counts as hung


def in_processes(*works: Callable[[], object]) -> list:
    """What each work returns, all at once in processes forked from this one.

    One that dies says nothing more, which is an EOFError here and ends the others.
    """
    fork, processes, pipes = multiprocessing.get_context("fork"), [], []
    answers: dict[Connection, object] = {}
    try:
        for work in works:
            listens, says = fork.Pipe(duplex=False)
            processes.append(fork.Process(target=_say, args=(says, work)))
            processes[-1].start()
            says.close()  # here: it is open in that process alone
            pipes.append(listens)
        while waiting := [pipe for pipe in pipes if pipe not in answers]:
            ready = wait(waiting, PATIENCE)
            assert ready, "a process hangs"
            answers |= {pipe: pipe.recv() for pipe in ready}
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [answers[pipe] for pipe in pipes]


def _say(says: Connection, work: Callable[[], object]) -> None:
    says.send(work())
