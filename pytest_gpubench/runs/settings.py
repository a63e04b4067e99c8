"""What the command line and the ini file say of a run, resolved once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.model.policies import SharingPolicy
from pytest_gpubench.model.rounds import Rounds
from pytest_gpubench.model.specs import ServerSpec

if TYPE_CHECKING:
    from pytest_gpubench.engines.against import Against


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line and the ini file say, resolved once at configure."""

    recipe_files: tuple[Path, ...]
    """Files to load: the options, else the ini value, else recipes.yaml of the root folder if it
    exists."""
    recipes_named: bool
    """Whether the files were asked for by name (a missing one is then an error)."""
    root: Path
    results: Path
    runner: str | None
    plan: Path | None
    matrix: Path | None
    canary: bool
    trim: bool
    report: Path | None
    reuse: bool
    changed_since: str | None
    server_per: SharingPolicy | None
    base_url: str | None
    model: str | None
    """The served name to measure at ``base_url``; None: the only one."""
    commands: Mapping[str, tuple[str, ...]]
    """What starts an engine, by its word in ``framework:``, where the user says."""
    aiperf_command: tuple[str, ...]
    """What starts AIPerf, where the user says."""
    cache_dir: Path | None
    start_timeout_s: float
    exclusive: bool
    ignore_findings: tuple[str, ...]
    against: Against | None
    first_engine: Against | None
    """Engine A of a comparison, where it is not that of the recipes."""
    gate_only: tuple[str, ...]
    """Metrics that are gated in this run; empty: those of the recipes."""
    benchmark_json: Path | None
    launches: str
    """``N`` or ``N..M``, as written; empty: as the baselines ask."""
    budget_s: float | None
    rounds: Rounds | None
    """Of every case, whatever its recipe says."""
    baselines: Path
    update_baselines: bool
    accept_regression: bool
    require_baseline: bool
    inconclusive: str
    """What INCONCLUSIVE and INVALID do: ``exit`` (code 10), ``warn`` (a skip), ``fail``."""

    def command(self, spec: ServerSpec) -> tuple[str, ...]:
        """What starts a server: its own command, else the option's, else this interpreter's
        engine."""
        from pytest_gpubench.engines.interpreter import default_command

        chosen = spec.command or self.commands.get(spec.framework)
        return chosen or default_command(dialect_of(spec.framework))
