"""The doctor: a server's death, foretold before the launch.

``examine`` turns a server spec, its cases, the models' config.json and the hardware into findings;
everything is pure except ``read_model_configs``.
"""

from __future__ import annotations

from pytest_gpubench.doctor.configs import ModelConfigs, known_config, read_model_configs
from pytest_gpubench.doctor.context import Known, Node, memory_of
from pytest_gpubench.doctor.examination import every_rule, examine
from pytest_gpubench.doctor.findings import (
    Finding,
    Prognosis,
    Severity,
    findings_for,
    format_findings,
    prognosis,
    unknown_rules,
    without,
)
from pytest_gpubench.doctor.memory_estimate import MemoryEstimate
from pytest_gpubench.doctor.rules import RULES

__all__ = [
    "RULES",
    "Finding",
    "Known",
    "MemoryEstimate",
    "ModelConfigs",
    "Node",
    "Prognosis",
    "Severity",
    "every_rule",
    "examine",
    "findings_for",
    "format_findings",
    "known_config",
    "memory_of",
    "prognosis",
    "read_model_configs",
    "unknown_rules",
    "without",
]
