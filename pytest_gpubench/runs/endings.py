"""How a test ends before it is through: as exceptions, which pytest's side turns into outcomes of
its own; and the failure of what was cut off from outside."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_gpubench.model.failures import BenchmarkError, Failure, GpubenchError


class Ending(Exception):  # noqa: N818  # how a test ends is no error
    """Ends a test; its text is what the person reads, without a traceback."""


class Skipped(Ending):
    """The test cannot run here, or its verdict leaves the question open."""


class Failed(Ending):
    """The test failed."""


class Waived(Ending):
    """The test failed as a waiver of a known bug expects."""


class Interrupted(Ending):
    """The run is to end."""


@dataclass(frozen=True, slots=True)
class Harness:
    """The exceptions by which whoever runs the tests ends one from outside."""

    limit: type[BaseException]
    """Of a test, for instance a time limit's."""
    interrupt: type[BaseException]
    """Of the run."""

    def failure(self, error: BaseException, doing: str) -> Failure:
        """The failure of what was cut off by an exception that is none of ours: an interrupt, a
        time limit of the test, another plugin's or a bug.

        Args:
            doing: what was going on, for instance ``KEY was starting``.
        """
        if isinstance(error, (KeyboardInterrupt, SystemExit, self.interrupt)):
            return Failure("interrupted", "client", f"the run was interrupted while {doing}")
        words = next(iter(str(error).strip().splitlines()), "")
        if isinstance(error, self.limit):
            remedy = (
                "A start takes up to --gpubench-start-timeout and a case as long as its requests. "
                "A time limit of pytest-timeout must leave room for both: raise it with --timeout "
                "or pytest.mark.timeout for these tests; timeout_func_only = true leaves starts "
                "out of it."
            )
            return Failure(
                "test-ended", "client", f"the test was ended while {doing}: {words}", remedy=remedy
            )
        what = f"{type(error).__name__}: {words}" if words else type(error).__name__
        return Failure("unexpected-error", "client", f"an error ended it while {doing}: {what}")


def failure_of(error: GpubenchError) -> Failure:
    """The failure that an error carries, or one that is made of its sentence."""
    return (
        error.failure
        if isinstance(error, BenchmarkError)
        else Failure("recipe-error", "recipe", str(error))
    )
