"""Fixtures that every room's tests share."""

import signal

import pytest

# Contracts are modules of their own: their assertions shall tell what they saw, too.
pytest.register_assert_rewrite("tests.infrastructure.contract", "tests.transport.contract")

# What a shell without job control starts in the background ignores SIGINT, and so would every program that a test
# starts to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
