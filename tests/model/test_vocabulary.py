"""Topology, workload labels, hardware by product name, metric table."""

from __future__ import annotations

import pytest

from pytest_gpubench.model.hardware import hardware_of_device
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.specs import Topology
from pytest_gpubench.model.workload import Workload


@pytest.mark.parametrize(
    ("topology", "label", "gpus", "dp", "tensor_parallel_size", "expert_parallel"),
    [
        (Topology(tp=8), "tp8", 8, 1, 8, False),
        (Topology(tp=8, ep=8), "tep8", 8, 1, 8, True),
        (Topology(tp=8, ep=8, dp_attn=True), "dep8", 8, 8, 1, True),
        (Topology(tp=8, dp_attn=True), "dpa8", 8, 8, 1, False),
        (Topology(tp=8, ep=4, dp_attn=True), "dep8.ep4", 8, 8, 1, True),
        (Topology(tp=4, pp=2), "tp4.pp2", 8, 1, 4, False),
        (Topology(tp=4, pcp=2, dcp=4), "tp4.pcp2.dcp4", 8, 1, 4, False),
    ],
)
def test_topology(
    topology: Topology,
    label: str,
    gpus: int,
    dp: int,
    tensor_parallel_size: int,
    expert_parallel: bool,
) -> None:
    assert topology.label == label
    assert topology.gpus == gpus
    assert topology.dp == dp
    assert topology.tensor_parallel_size == tensor_parallel_size
    assert topology.expert_parallel is expert_parallel


@pytest.mark.parametrize(
    ("isl", "osl", "label"),
    [(1024, 1024, "1k1k-c4"), (8192, 1024, "8k1k-c4"), (128, 32, "128x32-c4")],
)
def test_workload_label(isl: int, osl: int, label: str) -> None:
    assert Workload(isl=isl, osl=osl, conc=4, num_prompts=1, num_warmups=0).label == label


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA H1000", None),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L40", None),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA GeForce RTX 5090", "rtx5090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtxpro6000"),
        ("NVIDIA RTX 6000 Ada Generation", None),
        ("NVIDIA GB10", "gb10"),
        ("AMD Instinct MI250X", "mi250x"),
    ],
)
def test_hardware_of_a_product_name(name: str, key: str | None) -> None:
    found = hardware_of_device(name)
    assert (found.key if found else None) == key


def test_every_metric_has_unit_direction_and_definition() -> None:
    assert all(
        metric.unit and metric.definition and metric.name == name
        for name, metric in METRICS.items()
    )
    assert {metric.direction for metric in METRICS.values()} <= {"higher", "lower", "neutral"}
