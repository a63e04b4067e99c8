"""Deaths of engines as public issues report them (the words are the engines' own): the class must
be right; a cause may be unknown, never wrong."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from pytest_gpubench.dialects.vllm.log import LOG
from pytest_gpubench.engines.diagnosis import Ending, classify

DIED = Ending("exited", 1)


class Report(NamedTuple):
    """One issue: what the root traceback ends in, and who must act."""

    issue: str
    says: str
    whose: str
    cause: str = ""
    """Empty: any."""


REPORTS = (
    Report(
        "vllm-project/vllm#54219",
        'ValueError("type fp8e4nv not supported in this architecture. The supported fp8 dtypes are '
        "('fp8e4b15', 'fp8e5')\")",
        "recipe",
    ),
    Report(
        "vllm-project/vllm#10626",
        "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)",
        "infrastructure",
        "nccl-error",
    ),
    Report(
        "vllm-project/vllm#20226",
        "RuntimeError: NCCL error: unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
        "infrastructure",
        "nccl-error",
    ),
    Report(
        "vllm-project/vllm#52300",
        "ImportError: libcudart.so.13: cannot open shared object file: No such file or directory",
        "engine",
        "missing-library",
    ),
    Report(
        "vllm-project/vllm#36099",
        "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory",
        "engine",
        "missing-library",
    ),
    Report(
        "eelbaz/dgx-spark-vllm-setup#3",
        "ImportError: /x/vllm/_C.abi3.so: undefined symbol: "
        "_Z20cutlass_moe_mm_sm100RN2at6TensorERKS0_S3_S3_S3_S3_S3_S3_S3_S3_bb",
        "engine",
    ),
    Report(
        "vllm-project/vllm#22774",
        "TypeError: FusedMoEModularKernel.forward() got an unexpected keyword argument 'w1_bias'",
        "unknown",
    ),
    Report(
        "vllm-project/vllm#36217",
        "ValueError: The checkpoint you are trying to load has model type `qwen3_5` but "
        "Transformers does not recognize this architecture. This could be because of an issue with "
        "the checkpoint, or because your version of Transformers is out of date.",
        "recipe",
    ),
    Report(
        "vllm-project/vllm#12526",
        "torch.distributed.DistStoreError: wait timeout after 600000ms",
        "infrastructure",
    ),
    Report(
        "vllm-project/vllm#1401",
        "RuntimeError: Timed out initializing process group in store based barrier on rank: 1, for "
        "key: store_based_barrier_key:1 (world_size=2, worker_count=1, timeout=0:30:00)",
        "infrastructure",
    ),
    Report(
        "vllm-project/vllm#16514",
        "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:133] Timed "
        "out waiting 1800000ms for send operational complete",
        "infrastructure",
    ),
    Report(
        "gpustack/gpustack#4372",
        "torch._inductor.exc.InductorError: RuntimeError: Failed to run autotuning code block: No "
        "valid triton configs. PTXASError: PTXAS error: Internal Triton PTX codegen error\n"
        "`ptxas` stderr:\nptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'",
        "engine",
    ),
    Report(
        "triton-lang/triton#8539",
        "triton.runtime.errors.PTXASError: PTXAS error: Internal Triton PTX codegen error\n"
        "`ptxas` stderr:\nptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'",
        "engine",
    ),
    Report(
        "QwenLM/Qwen3-VL#264",
        "safetensors_rust.SafetensorError: Error while deserializing header: "
        "MetadataIncompleteBuffer",
        "infrastructure",
    ),
    Report(
        "Comfy-Org/ComfyUI#15602",
        "safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, "
        "file not fully covered",
        "infrastructure",
    ),
    Report(
        "vllm-project/vllm#5222",
        "RuntimeError: CUDA error: uncorrectable ECC error encountered",
        "infrastructure",
    ),
    Report(
        "vllm-project/vllm#27430",
        "torch.AcceleratorError: CUDA error: unspecified launch failure",
        "engine",
    ),
    Report(
        "recipes.vllm.ai, Qwen3-Coder-480B",
        "ValueError: The output_size of gate's and up's weight = 192 is not divisible by weight "
        "quantization block_n = 128.",
        "recipe",
    ),
    Report(
        "vllm-project/vllm#34094",
        "ValueError: max_num_seqs (1024) exceeds available Mamba cache blocks (856). Each decode "
        "sequence requires one Mamba cache block, so CUDA graph capture cannot proceed.",
        "recipe",
    ),
    Report(
        "vllm-project/vllm#31740",
        "ModuleNotFoundError: No module named 'triton_kernels.routing'",
        "engine",
    ),
    Report(
        "vllm-project/vllm#1957",
        "torch.distributed.DistBackendError: [Rank 0] Watchdog caught collective operation "
        "timeout: WorkNCCL(SeqNum=1, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, "
        "Timeout(ms)=1800000) ran for 1800790 milliseconds before timing out.",
        "infrastructure",
    ),
)


def _log(says: str) -> list[str]:
    mark = "(EngineCore_DP0 pid=68) ERROR 11-22 08:15:24 [core.py:708]"
    lines = [
        "EngineCore failed to start.",
        "Traceback (most recent call last):",
        '  File "/x/vllm/v1/engine/core.py", line 699, in run_engine_core',
        "    engine_core = EngineCoreProc(*args, **kwargs)",
        *says.splitlines(),
    ]
    return [f"{mark} {line}" for line in lines]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.issue)
def test_the_class_of_a_public_death_is_right(report: Report) -> None:
    failure = classify(_log(report.says), DIED, LOG)
    assert failure.failure_class == report.whose, str(failure)
    assert failure.cause == (report.cause or failure.cause)
