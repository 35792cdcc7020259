"""Signals that ask to stop are noted, not obeyed at once."""

import os
import signal
import threading

import pytest

from fakd import signals


def test_a_signal_is_noted_once_and_the_old_ways_come_back():
    before, heard = signal.getsignal(signal.SIGTERM), []
    with signals.listening(heard.append):
        assert signals.received_signal() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.received_signal() == signal.SIGTERM
    assert heard == [signal.SIGTERM]
    assert signals.received_signal() == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_ctrl_c_does_not_wait():
    with signals.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert not signals.is_second_interrupt()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.is_second_interrupt()


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.listening():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received_signal() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_of_the_main_thread_nothing_changes():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def listen():
        with signals.listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize(
    ("code", "asked"), [(143, True), (-15, True), (130, True), (1, False), (2, False), (-9, False)]
)
def test_exit_codes_tell_who_was_asked_to_stop(code, asked):
    assert signals.was_signalled(code) is asked


def test_a_program_ends_by_the_signals_convention(capfd):
    ending = signals.stop_exception(signal.SIGTERM, "stopped")
    assert isinstance(ending, SystemExit)
    assert ending.code == 143
    assert isinstance(signals.stop_exception(signal.SIGINT, "stopped"), KeyboardInterrupt)
    assert capfd.readouterr().err == "fakd: stopped\n" * 2
