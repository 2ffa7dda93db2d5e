"""Signals that ask this process to end: Ctrl-C, SIGTERM, SIGHUP.

The first asks for an orderly end. `Interrupted` is raised on the main thread, at once where that is safe, else at the
next point that is: never while the process forks (Python swallows what a fork's hooks raise, and a lock that one of
them holds, such as logging's, would stay taken for good) and never where the code says that it must come to its end.
A second one, after a second or more, ends the process at once.

What swallows the exception all the same (`__del__`, a library's own `except KeyboardInterrupt`) only delays it: it is
raised again, a moment after it was let go. vLLM does that while an engine starts.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_S = 1.0
"""Signals this close together are one: GNU timeout, a closed terminal and some schedulers send two."""
_RESEND_S = 0.01


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end. Not an Exception: nobody's `except Exception` is meant for it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{signal.Signals(number).name} received")
        self.number = number


class Ending:
    """What has been asked, and whether it may be acted on now."""

    def __init__(self, at_once: Callable[[int], None], interruptible: bool) -> None:
        self.asked: int | None = None
        """The first signal, once there was one."""
        self._at_once = at_once
        self._open = interruptible
        self._process, self.thread = os.getpid(), threading.get_ident()
        self._when = 0.0
        self._due = self._resent = False
        """A signal that came during a fork, or was swallowed, is to be sent again; the next one is such."""
        self._raised: weakref.ref[Interrupted] | None = None
        self._sending = threading.Lock()

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler. Raises Interrupted for the first signal."""
        if os.getpid() != self._process:  # a child that someone forked: it ends as it would without us
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self._resent:
            self._resent = False
        elif self.asked is None:
            self.asked, self._when = number, time.monotonic()
        else:
            if time.monotonic() - self._when >= SAME_S:
                self._at_once(number)
            return
        if _forks or (frame is not None and frame.f_code in _HOOKS):
            self._send_again()
            return
        self._due = False
        self.look()

    def look(self) -> None:
        """Raise Interrupted if that was asked and may be done here."""
        if self.asked is not None and self._open:
            raise self._made(self.asked)

    def _made(self, number: int) -> Interrupted:
        """Once it is gone without our end it was swallowed. A frame that it passes would keep it: this one is none."""
        made = Interrupted(number)
        self._raised = weakref.ref(made, lambda _: self._send_again())
        return made

    def close(self) -> None:
        """From here to the end of the region that is open now nothing is raised."""
        self._open = False

    @contextmanager
    def region(self, interruptible: bool) -> Iterator[None]:
        """While open, signals interrupt, or don't. One that had to wait is raised where they do again."""
        before = self._open
        try:
            self._open = interruptible
            self.look()
            yield
        finally:
            self._open = before
        self.look()

    def _send_again(self) -> None:
        """Have the handler called again, from outside of what runs now."""
        if self._open and not self._due:
            self._due = True
            _thread.start_new_thread(self._send, ())  # takes no lock, as Thread does

    def _send(self) -> None:
        while self._due and self.asked is not None:
            time.sleep(_RESEND_S)
            with self._sending:
                if self._due:
                    self._resent = True
                    signal.pthread_kill(self.thread, self.asked)

    def over(self) -> None:
        """No handler of ours may be called from here on: the next would be someone else's."""
        self.close()
        with self._sending:
            self._due = False


_current: Ending | None = None
_forks = 0
"""Hooks of forks that are under way: `guard_forks` may have been called several times."""


@contextmanager
def taken(at_once: Callable[[int], None], *, interruptible: bool) -> Iterator[Ending]:
    """While open, signals that ask this process to end are taken here, but for those that it ignores (nohup).

    `interruptible`: at first, until a `region` says otherwise. `at_once` is called for a second signal, in its handler.
    Outside the main thread nothing is taken: pytest was embedded, and signals are its host's.
    """
    global _current
    ending, outer = Ending(at_once, interruptible), _current
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    guard_forks()
    before = {number: signal.getsignal(number) for number in ENDING}
    mine = [number for number in ENDING if before[number] not in (signal.SIG_IGN, None)]
    try:
        _current = ending
        for number in mine:
            signal.signal(number, ending.receive)
        yield ending
    finally:
        ending.over()
        for number in mine:
            signal.signal(number, before[number])
        _current = outer


def look() -> None:
    """A safe point: raise Interrupted if a signal asked for it, was swallowed or had to wait, and may be raised now."""
    if _current is not None and threading.get_ident() == _current.thread:
        _current.look()


def hold() -> None:
    """From here to the end of the region that is open now signals have to wait: what is done must be recorded."""
    if _current is not None:
        _current.close()


@contextmanager
def interruptible() -> Iterator[None]:
    """A wait that signals may end at once."""
    with _region(True):
        yield


@contextmanager
def uninterruptible() -> Iterator[None]:
    """What must come to its end, such as the writing of a finished case. A signal is raised after it."""
    with _region(False):
        yield


@contextmanager
def _region(open_: bool) -> Iterator[None]:
    if _current is None or threading.get_ident() != _current.thread:
        yield
    else:
        with _current.region(open_):
            yield


def guard_forks() -> None:
    """Nothing is raised while this process forks.

    Hooks that were there before run within these: call it again before a fork if others may have been added since.
    """
    os.register_at_fork(before=_enter, after_in_parent=_leave, after_in_child=_forget)


def _enter() -> None:
    global _forks
    _forks += 1


def _leave() -> None:
    global _forks
    _forks -= 1


def _forget() -> None:
    global _forks
    _forks = 0


_HOOKS = {_enter.__code__, _leave.__code__}
"""A signal may come before the first has counted, or after the last has."""
