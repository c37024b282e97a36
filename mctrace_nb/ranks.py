"""Several processes as one: the first gives orders to all, and sums and errors come back to it. Knows nothing of what is ordered."""

from __future__ import annotations

import atexit
import os
import pickle
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Callable, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

from mctrace_nb.errors import InputError

TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # to every process, by torchrun and other launchers
LEADS = "MCTRACE_LEADS"  # told to the kernel in which the first process runs its notebook
# Between two orders hours may pass, and a process that dies is noticed by its closed connections. Some of torch's waits count
# milliseconds in 32 bits, so this is nearly the longest there is.
PATIENCE = timedelta(days=24)
MEETING = timedelta(minutes=10)  # until all have come together
Found = TypeVar("Found")


class Lost(RuntimeError):
    """The connection to another process is gone."""


class PartFailed(RuntimeError):
    """Some process could not do its part of an order; all of them know, and wait for the next one."""


def my_rank() -> int | None:
    """The number of this process among several that a launcher started; None where it is alone."""
    return int(os.environ["RANK"]) if all(map(os.environ.get, TOLD)) and int(os.environ["WORLD_SIZE"]) > 1 else None


class Team:
    """The processes that trace together. rank: the number of this one, of which 0 gives the orders; size: how many there are; here: how
    many on this machine; models: those of rank 0 that all have, by the numbers they go by.

    Every order ends with `tried`, in which each process says how its part went: so they stay in step, whatever fails.
    A process on CUDA takes the device of its local rank.
    """

    def __init__(self):
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.here = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        self.models, self.numbers, self.lost, self._gone = WeakKeyDictionary(), count(), False, []
        devices = torch.cuda.device_count()
        if devices:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", self.rank)) % devices)
        with self._in_step():
            store, rank, size = next(dist.rendezvous("env://", timeout=MEETING))
            dist.init_process_group("cpu:gloo,cuda:nccl" if self.here <= devices else "gloo", store=store, rank=rank, world_size=size,
                                    timeout=PATIENCE)

    @contextmanager
    def _in_step(self):
        try:
            yield
        except BaseException as error:
            self.lost = True
            if isinstance(error, RuntimeError):
                raise Lost(f"rank {self.rank} of {self.size} has lost the others, one of which has ended; its own message says why "
                           f"({str(error).splitlines()[0][:120]})") from error
            raise

    def forget(self, *what) -> None:
        """Rank 0: something that the others need no longer keep; they are told with the next order."""
        self._gone.append(what)

    def order(self, what: str, **how) -> None:
        """Rank 0: tells the others what to do next. Raises InputError for what cannot be told, Lost where nobody listens."""
        said = packed((what, how))
        if self.lost:
            raise Lost("the other processes of this trace have ended")
        gone, self._gone = self._gone, []
        said = torch.frombuffer(bytearray(pickle.dumps((said, gone))), dtype=torch.uint8)
        with self._in_step():
            dist.broadcast(torch.tensor([len(said)]), 0)
            dist.broadcast(said, 0)

    def heard(self) -> tuple[str, dict, list[tuple]]:
        """The others: waits for an order; what, how, and what need not be kept any longer."""
        size = torch.zeros(1, dtype=torch.long)
        with self._in_step():
            dist.broadcast(size, 0)
            said = torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(said, 0)
        said, gone = pickle.loads(said.numpy().tobytes())
        return *pickle.loads(said), gone

    def tried(self, part: Callable[[], tuple[Found, object]]) -> tuple[Found, list]:
        """Does this process's part of an order, which gives something and a note on it. Returns both, the notes of all processes.

        Where the part of any process fails, rank 0 raises that error, InputError for bad input, and the others PartFailed.
        """
        mine = found = note = wrong = None
        try:
            found, note = part()
        except BaseException as error:  # also an interrupt: the others wait to hear of this part
            mine, bad = error, isinstance(error, InputError)
            wrong = bad, str(error) if bad else f"{type(error).__name__}: {error}"
        said = [None] * self.size
        with self._in_step():
            dist.all_gather_object(said, (note, wrong))
        failed = [(rank, wrong) for rank, (_, wrong) in enumerate(said) if wrong]
        if not failed:
            return found, [note for note, _ in said]
        if mine is not None and self.rank == 0:
            raise mine
        rank, (bad, message) = failed[0]
        raise (InputError if bad and self.rank == 0 else PartFailed)(f"{message} (on rank {rank})")

    def shared(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor of rank 0, put into those of the others."""
        with self._in_step():
            dist.broadcast(tensor, 0)
        return tensor

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place. Where all but one hold zeros it is exact."""
        with self._in_step():
            dist.all_reduce(tensor)
        return tensor

    def stop(self) -> None:
        """Rank 0: sends the others home."""
        try:
            if not self.lost:
                self.order("stop")
        finally:
            self.leave()

    def leave(self) -> None:
        """Closes the connections; a process that ends without is aborted."""
        self.lost = True
        if dist.is_initialized():
            dist.destroy_process_group()


def packed(what) -> bytes:
    """As bytes for another process. Raises InputError for functions that have no name there."""
    try:
        return pickle.dumps(what)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(f"several processes cannot share this ({error}); write functions of your own into a file and give "
                         "metric='file.py:function'") from None


_led: Team | None = None


def leading() -> Team | None:
    """The team that this process gives orders to; None where it works alone, or takes orders."""
    if _led is None and os.environ.pop(LEADS, None):
        lead(Team())
    return _led


def lead(team: Team) -> None:
    """From now on, models and traces of this process are shared with a team, which goes home when it ends."""
    global _led
    _led = team
    atexit.register(team.stop)
