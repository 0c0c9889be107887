import contextlib
import threading

from raydd.meanwhile import meanwhile


def test_it_is_done_again_and_again_and_ends_with_the_block():
    done, thrice = [], threading.Event()

    def do():
        done.append(threading.current_thread().name)
        if len(done) == 3:
            thrice.set()

    with contextlib.suppress(KeyError), meanwhile(do, 0.001, "looking"):
        assert thrice.wait(60)
        raise KeyError
    assert set(done) == {"looking"}
    assert "looking" not in {thread.name for thread in threading.enumerate()}


def test_what_fails_once_is_done_again(caplog):
    done, twice = [], threading.Event()

    def do():
        done.append(0)
        if len(done) == 1:
            raise ConnectionError("postgresql://me:geheim@host is away")
        twice.set()

    with meanwhile(do, 0.001, "looking"):
        assert twice.wait(60)
    assert "looking: ConnectionError" in caplog.text
    assert "geheim" not in caplog.text


def test_a_block_that_is_shorter_than_the_pause_sees_none_of_it():
    done = []
    with meanwhile(lambda: done.append("too early"), 60, "looking"):
        pass
    assert not done
