"""The engines at hand, by the word of ``framework:``."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import pkgutil
from collections.abc import Iterator

from pytest_gpubench.dialects.dialect import Dialect
from pytest_gpubench.dialects.server_flags import FlagRules, joined
from pytest_gpubench.model.failures import GpubenchError

GROUP = "pytest_gpubench.engines"
"""Entry points of this group name further engines: ``mine = my_package:DIALECT``."""
_OWN = {name: f"pytest_gpubench.dialects.{name}:DIALECT" for name in ("vllm", "sglang", "llamacpp")}
DEFAULT = next(iter(_OWN))
"""The engine of records and plans that name none: those of before there were several."""


_NEEDED = ("name", "title", "owners", "distributions", "key_variable", "flags", "counters")
"""What has no default."""


@functools.cache
def _places() -> dict[str, str]:
    """Where each engine's dialect is; ours come first, and nobody replaces them."""
    others = {point.name: point.value for point in importlib.metadata.entry_points(group=GROUP)}
    return {**others, **_OWN}


def frameworks() -> tuple[str, ...]:
    """The words that ``framework:`` may say."""
    return (*_OWN, *(name for name in _places() if name not in _OWN))


@functools.cache
def dialect_of(framework: str) -> Dialect:
    """The dialect of an engine.

    Raises:
        GpubenchError: if there is none of that name, or an entry point leads nowhere.
    """
    place = _OWN.get(framework) or _places().get(framework)
    if place is None:
        raise GpubenchError(f"no engine is called {framework!r}; known: {', '.join(frameworks())}")
    try:
        found = pkgutil.resolve_name(place)
    except Exception as error:  # whatever somebody else's package does when it is imported
        raise GpubenchError(
            f"the engine {framework!r} cannot be loaded from {place} (entry point of {GROUP}): "
            f"{error}; repair or remove the package that brings it"
        ) from error
    if not isinstance(found, Dialect):
        raise GpubenchError(
            f"the engine {framework!r} at {place} (entry point of {GROUP}) is no Dialect"
        )
    lacking = [name for name in _NEEDED if not hasattr(found, name)]
    if lacking:
        raise GpubenchError(
            f"the engine {framework!r} at {place} (entry point of {GROUP}) does not say its "
            f"{', '.join(lacking)}; docs/adding-an-engine.md has what a dialect must say"
        )
    return found


def every_dialect() -> Iterator[Dialect]:
    """All engines at hand, ours first. One that cannot be loaded is left out: whoever names it is
    told (`dialect_of`), and nobody else has to care."""
    for framework in frameworks():
        with contextlib.suppress(GpubenchError):
            yield dialect_of(framework)


@functools.cache
def common_rules() -> FlagRules:
    """For words whose engine is not known yet: refused is what any engine refuses."""
    return joined(dialect.flags for dialect in every_dialect())
