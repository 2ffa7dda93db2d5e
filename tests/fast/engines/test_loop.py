import asyncio
import gc
import signal
import threading
import time
from concurrent.futures import CancelledError, Future

import pytest

from context_research.engines.loop import EventLoop, process_loop


@pytest.fixture(scope="module")
def loop():
    return EventLoop(asyncio.new_event_loop())


class Slow:
    """Work that takes long, and tells how it ended."""

    def __init__(self):
        self.began, self.cancelled = threading.Event(), threading.Event()

    async def __call__(self, seconds=20):
        self.began.set()
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def answer(value):
    return value, threading.current_thread()


def test_a_result_comes_from_the_loops_own_thread(loop):
    value, thread = loop.run(answer(7))
    assert value == 7
    assert thread is not threading.current_thread()
    assert thread.daemon, "it must not keep a session from ending"


def test_every_coroutine_runs_on_the_same_loop(loop):
    async def own():
        return asyncio.get_running_loop()

    assert loop.run(own()) is loop.run(own())
    assert process_loop() is process_loop()


@pytest.mark.parametrize("error", [ValueError("mine"), TimeoutError("mine"), asyncio.CancelledError()], ids=repr)
def test_an_error_reaches_the_caller(loop, error):
    """TimeoutError above all: waiting for the loop is done by timeouts too."""

    async def fail():
        raise error

    expected = (type(error), CancelledError)
    with pytest.raises(expected, match=str(error) or None):
        loop.run(fail(), lambda: pytest.fail("it waits for what has ended"))


def test_the_caller_is_called_while_it_waits(loop):
    seen = []
    assert loop.run(asyncio.sleep(0.75, "done"), lambda: seen.append(threading.current_thread())) == "done"
    assert seen == [threading.main_thread()]


def test_ctrl_c_cancels_the_work(loop):
    work = Slow()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt():
        work.began.wait(5)
        time.sleep(0.2)  # until the main thread waits
        signal.raise_signal(signal.SIGINT)

    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            loop.run(work())
    finally:
        signal.signal(signal.SIGINT, before)
    assert work.cancelled.wait(5)
    assert loop.run(answer(1))[0] == 1, "the loop lives on"


def test_an_error_of_the_callers_own_cancels_the_work(loop):
    work = Slow()

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop.run(work(), fail)
    assert work.cancelled.wait(5)


def test_a_result_that_comes_as_the_wait_ends_is_kept(loop, monkeypatch):
    class Late(Future):
        asked = 0

        def result(self, timeout=None):
            self.asked += 1
            if self.asked == 1:  # waited in vain, and then:
                self.set_result("late")
                raise TimeoutError
            return super().result(timeout)

    def submit(work, loop):
        work.close()
        return Late()

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", submit)
    assert loop.run(answer("late")) == "late"


def test_its_thread_ends_with_it():
    own = EventLoop(asyncio.new_event_loop())
    _, thread = own.run(answer(1))
    del own
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
