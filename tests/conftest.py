"""What all tests need."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# A job that a shell started in the background ignores SIGINT, and all that it starts inherits that: tests of Ctrl-C could not work.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A verdict rests on what is right, never on how fast this machine is today; a failure can be repeated from what it prints.
settings.register_profile("here", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")
