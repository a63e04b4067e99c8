"""Names of ours in the ini file that mean nothing: pytest warns of them, and the setting would hold
nowhere."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Generator

import pytest

from pytest_gpubench.plugin.options import OPTIONS

_UNKNOWN = re.compile(r"Unknown config option: (gpubench_\w*)")
"""As pytest warns of it, when the collection is over."""


class UnknownNames:
    """Hears pytest's warnings, and ends the run where one is about a name of ours."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        self._names += _UNKNOWN.findall(str(warning_message.message))

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # around pytest's own, which warns at its end
    def pytest_collection(self) -> Generator[None, object, object]:
        result = yield
        for name in self._names:
            raise pytest.UsageError(f"ini option {name} does not exist; {_hint(name)}")
        return result


def _hint(name: str) -> str:
    for option in OPTIONS:
        if option.key == name:
            return f"it is given on the command line (addopts may hold it): {option.flag}"
    near = difflib.get_close_matches(name, [one.key for one in OPTIONS if one.ini], n=1)
    return f"did you mean {near[0]}?" if near else "pytest --help lists them"
