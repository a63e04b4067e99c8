"""AMD's GPUs through a fake of AMD SMI. No real one was seen."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.host.gpus import amd, drivers, nvidia
from pytest_gpubench.host.gpus.inventory import (
    Gpu,
    GpuProcess,
    Inventory,
    missing_hardware,
    visible_inventory,
)
from pytest_gpubench.host.leases.choice import Grant, foreign_use, server_env
from pytest_gpubench.model.hardware import HARDWARE
from tests.host import fake_amdsmi
from tests.host.fake_amdsmi import GIB, FakeAmdsmi

MI300X = "AMD Instinct MI300X"
GPU = Gpu(
    0,
    "GPU-0000000000000000",
    MI300X,
    192 * GIB,
    3 * GIB,
    750.0,
    (GpuProcess(77, 12 * GIB),),
    platform="rocm",
)


def test_inventory_reads_what_the_driver_tells() -> None:
    smi = FakeAmdsmi(MI300X, "AMD_Instinct_MI325X_VF", hip_ids=(1, 0))
    inventory = amd.read_inventory(smi)
    assert [(gpu.index, gpu.uuid, gpu.name) for gpu in inventory.gpus] == [
        (0, "GPU-0000000000000001", "AMD_Instinct_MI325X_VF"),
        (1, "GPU-0000000000000000", MI300X),
    ]
    assert [gpu.hardware for gpu in inventory.gpus] == [HARDWARE["mi325x"], HARDWARE["mi300x"]]
    assert inventory.driver == "6.14.14"
    assert smi.open == 0
    assert amd.read_inventory(FakeAmdsmi(MI300X)).gpus == (GPU,)


def test_a_process_without_memory_on_a_gpu_does_not_compute_there() -> None:
    smi = FakeAmdsmi(MI300X, processes=((7, 0), (8, GIB)))
    (gpu,) = amd.read_inventory(smi).gpus
    assert gpu.processes == (GpuProcess(8, GIB),)
    words = "GPU 0 (GPU-0000000000000000) has 3.0 GiB in use by 8, outside pytest-gpubench"
    assert foreign_use(gpu) == words


def test_questions_that_the_driver_refuses_are_none() -> None:
    optional = (
        *("amdsmi_get_power_cap_info", "amdsmi_get_gpu_process_list", "amdsmi_get_power_info"),
        *("amdsmi_get_energy_count", "amdsmi_get_violation_status", "amdsmi_get_temp_metric"),
        *("amdsmi_get_gpu_driver_info", "amdsmi_get_clock_info", "amdsmi_get_gpu_activity"),
        *("amdsmi_get_gpu_enumeration_info", "amdsmi_get_gpu_asic_info", "amdsmi_get_pcie_info"),
        *("amdsmi_get_gpu_vbios_info", "amdsmi_get_gpu_compute_partition"),
        *("amdsmi_get_gpu_memory_partition", "amdsmi_shut_down"),
    )
    smi = FakeAmdsmi(MI300X, broken=optional)
    (gpu,) = amd.read_inventory(smi).gpus
    assert (gpu.power_limit, gpu.processes, gpu.name) == (None, (), "AMD GPU")
    [facts] = amd.gpu_facts([gpu.uuid], smi)
    assert {value for key, value in facts.items() if key not in ("uuid", "name", "note")} == {None}
    with amd.sampling([gpu.uuid], smi) as sample:
        (taken,) = sample()
    assert (taken.power, taken.energy, taken.reasons, taken.pids) == (None, None, None, ())
    assert taken.memory_used == 3 * GIB


def test_an_older_release_has_the_order_of_its_list() -> None:
    smi = FakeAmdsmi(MI300X, MI300X, absent=("amdsmi_get_gpu_enumeration_info",))
    assert [(gpu.index, gpu.uuid[:4]) for gpu in amd.read_inventory(smi).gpus] == [
        (0, "00ff"),
        (1, "01ff"),
    ]


def test_a_sample_is_in_watts_joules_and_bytes() -> None:
    smi = FakeAmdsmi(MI300X, MI300X, violations=("ppt_pwr", "hbm_thrm"))
    with amd.sampling(["GPU-0000000000000001"], smi) as sample:
        (first,), (second,) = sample(), sample()
    assert first.gpu == "GPU-0000000000000001"
    assert (first.power, first.sm_clock, first.memory_clock) == (612, 2105, 1300)
    assert (first.temperature, first.utilization, first.memory_used) == (61, 97, 3 * GIB)
    assert (first.energy, second.energy) == (15.25, 30.5)
    assert first.reasons == 0x004 | 0x040
    assert first.pids == (77,)
    assert smi.open == 0


def test_facts_say_that_no_amd_gpu_was_seen() -> None:
    smi = FakeAmdsmi(MI300X)
    [facts] = amd.gpu_facts(["GPU-0000000000000000", "GPU-gone"], smi)
    assert facts == {
        "uuid": "GPU-0000000000000000",
        "note": amd.UNSEEN,
        "name": MI300X,
        "driver": "6.14.14",
        "vbios": "022.040.003.041.000001",
        "architecture": "gfx942",
        "power_limit": 750.0,
        "power_limit_default": 750.0,
        "sm_clock": 2105,
        "sm_clock_max": 2105,
        "memory_clock": 1300,
        "memory_clock_max": 1300,
        "temperature": 61,
        "compute_partition": "SPX",
        "memory_partition": "NPS1",
        "pcie_generation": 5,
        "pcie_width": 16,
    }


@pytest.mark.parametrize(
    ("smi", "reason"),
    [
        (FakeAmdsmi(), "AMD SMI: the driver lists no GPU"),
        (
            FakeAmdsmi(MI300X, broken=("amdsmi_init",)),
            "AMD SMI: Error code: 2 | AMDSMI_STATUS_NOT_SUPPORTED - Feature not supported",
        ),
        (
            FakeAmdsmi(MI300X, broken=("amdsmi_get_gpu_memory_total",)),
            "AMD SMI: Error code: 2 | AMDSMI_STATUS_NOT_SUPPORTED - Feature not supported",
        ),
    ],
)
def test_no_driver_is_an_empty_inventory_with_the_reason(smi: Any, reason: str) -> None:
    assert amd.read_inventory(smi) == Inventory(reason=reason)
    assert amd.gpu_facts(["GPU-0"], FakeAmdsmi()) == []
    assert smi.open == 0


def test_amds_library_is_asked_only_where_its_driver_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia, "read_inventory", lambda: Inventory(reason="NVML: none"))
    monkeypatch.setattr(amd, "KFD", tmp_path / "kfd")
    assert drivers.read_inventory() == Inventory(reason="NVML: none")
    assert amd.read_inventory() == Inventory(reason=f"AMD SMI: no {tmp_path / 'kfd'}")
    (tmp_path / "kfd").touch()
    monkeypatch.setattr(amd, "_library", lambda: FakeAmdsmi())
    assert drivers.read_inventory() == Inventory(
        reason="NVML: none; AMD SMI: the driver lists no GPU"
    )
    monkeypatch.setattr(amd, "_library", lambda: FakeAmdsmi(MI300X))
    found = drivers.read_inventory().gpus
    assert found == (GPU,)
    assert drivers.gpu_facts(found)[0]["architecture"] == "gfx942"
    assert drivers.gpu_facts(()) == []
    with drivers.sampling("rocm", [GPU.uuid]) as sample:
        assert [one.gpu for one in sample()] == [GPU.uuid]


@pytest.mark.surface
@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("raise ImportError('no such module')\n", "pip install 'pytest-gpubench[amd]'"),
        ("raise OSError('libamd_smi.so: cannot open')\n", "does not fit the host's library"),
        ("raise AttributeError('undefined symbol: x')\n", "does not fit the host's library"),
    ],
)
def test_a_library_that_cannot_be_loaded_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, words: str
) -> None:
    (tmp_path / "amdsmi.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "amdsmi", raising=False)
    monkeypatch.setattr(amd, "KFD", tmp_path)
    assert words in amd.read_inventory().reason


def _inventory() -> Inventory:
    return amd.read_inventory(FakeAmdsmi(*[MI300X] * 4))


@pytest.mark.parametrize(
    ("environ", "uuids", "indices"),
    [
        ({}, "0123", [0, 1, 2, 3]),
        ({"ROCR_VISIBLE_DEVICES": "2,3"}, "23", [0, 1]),
        ({"ROCR_VISIBLE_DEVICES": "3,GPU-0000000000000001"}, "31", [0, 1]),
        ({"HIP_VISIBLE_DEVICES": "2,3"}, "23", [2, 3]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, "1", [1]),
        ({"HIP_VISIBLE_DEVICES": "3", "CUDA_VISIBLE_DEVICES": "1"}, "3", [3]),
        ({"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "1"}, "3", [1]),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "1"}, "", []),
    ],
)
def test_rocr_hides_first_and_hip_counts_what_is_left(
    environ: dict[str, str], uuids: str, indices: list[int]
) -> None:
    left = visible_inventory(_inventory(), environ)
    assert [gpu.uuid[-1] for gpu in left.gpus] == list(uuids)
    assert [gpu.index for gpu in left.gpus] == indices
    if not indices:
        assert left.reason == "HIP_VISIBLE_DEVICES='1' hides them all"


def test_a_server_gets_its_gpus_by_index_in_both_variables() -> None:
    left = visible_inventory(_inventory(), {"ROCR_VISIBLE_DEVICES": "1,2,3"})
    grant = Grant(("a", "b"), left.gpus[1:])
    for engine in ("vllm", "sglang"):
        assert server_env(grant, dialect_of(engine), "0.32.0") == {
            "HIP_VISIBLE_DEVICES": "1,2",
            "CUDA_VISIBLE_DEVICES": "1,2",
        }


@pytest.mark.parametrize(
    ("gpus", "inventory", "platform", "sentence"),
    [
        (4, _inventory(), "rocm", None),
        (8, _inventory(), None, "needs 8 x MI300X (rocm); this host has 4 x AMD Instinct MI300X"),
        (1, Inventory(reason="AMD SMI: x"), None, "this host has no AMD GPU (AMD SMI: x)"),
        (1, _inventory(), "cuda", "needs an engine for rocm; the engine at hand is vllm for cuda"),
    ],
)
def test_what_is_missing_is_a_sentence(
    gpus: int, inventory: Inventory, platform: Any, sentence: str | None
) -> None:
    missing = missing_hardware(HARDWARE["mi300x"], gpus, inventory, platform, "vllm")
    assert missing == sentence or (sentence or "?") in str(missing)
    other = missing_hardware(HARDWARE["h100"], 1, _inventory())
    assert other == ("needs 1 x H100 (cuda); this host has no NVIDIA GPU (4 x AMD Instinct MI300X)")


def test_an_amd_gpu_that_the_table_lacks_is_not_declared_as_nvidias() -> None:
    inventory = amd.read_inventory(FakeAmdsmi("AMD Instinct MI210"))
    assert inventory.declarations == ()
    assert missing_hardware(HARDWARE["mi300x"], 1, inventory) == (
        "needs 1 x MI300X (rocm); this host has 1 x AMD Instinct MI210"
    )


@pytest.mark.surface
def test_the_fake_has_the_form_of_the_package() -> None:
    """Its functions, their parameters and the keys that they answer stand in the package's source,
    which is read, not imported: importing it loads a library of ROCm."""
    spec = importlib.util.find_spec("amdsmi")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).with_name("amdsmi_interface.py").read_text())
    real = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    answers = fake_amdsmi.Answers(FakeAmdsmi(MI300X, MI300X))
    for name, method in inspect.getmembers(answers, inspect.ismethod):
        if not name.startswith("amdsmi_"):
            continue
        parameters = inspect.signature(method).parameters.values()
        arguments = real[name].args
        given = len(arguments.args) - len(arguments.defaults)
        variadic = any(item.kind is inspect.Parameter.VAR_POSITIONAL for item in parameters)
        assert variadic or len(parameters) == given, name
        if name != "amdsmi_get_processor_handles":
            told = {node.value for node in ast.walk(real[name]) if isinstance(node, ast.Constant)}
            assert _keys(method(*[1] * given)) <= told, name
    for kind in ("AmdSmiMemoryType", "AmdSmiClkType", "AmdSmiTemperatureType"):
        members = {
            target.id
            for node in classes[kind].body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert set(vars(getattr(FakeAmdsmi, kind))) <= members


def _keys(answer: Any) -> set[str]:
    if isinstance(answer, list):
        return set().union(*map(_keys, answer))
    if not isinstance(answer, dict):
        return set()
    return set(answer).union(*map(_keys, answer.values()))
