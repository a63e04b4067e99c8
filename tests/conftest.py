"""What all tests need."""

from __future__ import annotations

import signal

# A job that a shell started in the background ignores SIGINT, and all that it starts inherits that: tests of Ctrl-C could not work.
signal.signal(signal.SIGINT, signal.default_int_handler)
