"""What may share a server. A module of its own, since the option table needs it in every pytest
run."""

from __future__ import annotations

from typing import Literal, TypeAlias

SharingPolicy: TypeAlias = Literal["parallelism", "shape", "point"]
SHARING_POLICIES: tuple[SharingPolicy, ...] = ("parallelism", "shape", "point")
"""One server per hardware and parallelism; also per ISL/OSL; one per case."""
