"""What InferenceX's own scripts pass to their engines: ``python capture.py TREE OUT.json.gz ENGINE
[SCENARIO] [KEY...]``; SCENARIO is ``fixed-seq-len`` or ``agentic-coding``.

TREE is an exported checkout of SemiAnalysisAI/InferenceX. Its own generator expands its master
files, key by key; each single-node script of the scenario then runs unmodified, once for each point,
in a sandbox: own mount, PID, IPC and network namespace, a chroot with a read-only /usr, and
stub programs in the place of engines, client, pip, the hub's downloader and the GPUs' tools. The
stubs write down how they were called. Needs root (unshare, chroot); nothing of the host is written.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

GIVEN = {
    "RANDOM_RANGE_RATIO": "0.8",
    "RESULT_FILENAME": "r",
    "PORT": "8888",
    "EVAL_ONLY": "false",
    "RUN_EVAL": "false",
    "DISAGG": "false",
    "SCENARIO_TYPE": "fixed-seq-len",
    "SCENARIO_SUBDIR": "fixed_seq_len/",
    "IS_AGENTIC": "0",
    "DURATION": "3600",
    "RESULT_DIR": "/workspace/results",
    "HF_HUB_CACHE": "/mnt/hf_hub_cache/",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPYCACHEPREFIX": "/tmp/inferencex-pycache",
}
_FROM_POINT = {
    "MODEL": "model",
    "MODEL_PREFIX": "model-prefix",
    "EXP_NAME": "exp-name",
    "ISL": "isl",
    "OSL": "osl",
    "MAX_MODEL_LEN": "max-model-len",
    "IMAGE": "image",
    "FRAMEWORK": "framework",
    "PRECISION": "precision",
    "TP": "tp",
    "PP_SIZE": "pp",
    "DCP_SIZE": "dcp-size",
    "PCP_SIZE": "pcp-size",
    "EP_SIZE": "ep",
    "DP_ATTENTION": "dp-attn",
    "CONC": "conc",
    "SPEC_DECODING": "spec-decoding",
}
FIXED, AGENTIC = "fixed-seq-len", "agentic-coding"
_AGENTIC_GIVEN = {
    "SCENARIO_TYPE": AGENTIC,
    "SCENARIO_SUBDIR": "agentic/",
    "IS_AGENTIC": "1",
    "ISL": "",
    "OSL": "",
    "MAX_MODEL_LEN": "0",
}
_IN_A_FOLDER = ("minimaxm3_fp8_h200_mtp.sh", "minimaxm3_fp4_b200_mtp.sh")
"""Scripts that look into the folder of weights before they start: they get an empty one, which
their launchers would give them, and fill it with ``hf download``."""
_RAIL = "sys/class/infiniband/mlx5_0/ports/1"
"""One script starts only where a network card of this name is up."""
_NOT_THE_SCRIPTS = {"PWD", "OLDPWD", "SHLVL", "_", "PATH", "HOME", "GPU_METRICS_CSV"}
_STUB = r"""#!/bin/bash
n=$(/usr/bin/mktemp /rec/XXXXXXXX)
kind=step
case "${0##*/} $*" in
  "vllm serve "*|"sglang serve "*|*"-m sglang.launch_server"*|*"-m vllm.entrypoints"*) kind=server;;
  *benchmark_serving.py*|"aiperf profile "*) kind=client;;
esac
printf '%s\0' "${0##*/}" "$@" > "$n.argv"
/usr/bin/env -0 > "$n.env"
/usr/bin/date +%s%N > "$n.when"
echo "$kind" > "$n.kind" # last: a monitor may be killed while it writes
if [ $kind = server ]; then
  for word; do case $word in *.yaml|*.yml) [ -f "$word" ] && /usr/bin/cp "$word" "$n.file"; printf %s "$word" > "$n.name";; esac; done
  exec /usr/bin/sleep 100
fi
place=
for word; do
  case $before in --local-dir|--output-artifact-dir) place=$word; /usr/bin/mkdir -p "$word";; esac
  before=$word
done
case "${0##*/} $1" in
  "mooncake_master "*|"vllm-router "*) exec /usr/bin/sleep 100;;
  "hf download") [ "$place" ] && echo '{}' > "$place/config.json";;
  "uv venv") /usr/bin/mkdir -p "$before/bin"; for n in aiperf hf python; do /usr/bin/cp "$0" "$before/bin/$n"; done;;
  "aiperf profile") for n in json csv; do echo '"vllm:' > "$place/server_metrics_export.$n"; done;;
esac
case "${0##*/}" in python*) [ "$1" = - ] && /usr/bin/cat > /dev/null;; esac
exit 0
"""
_STUBS = (
    *("vllm", "sglang", "python", "python3", "hf", "huggingface-cli", "pip", "pip3", "curl"),
    *("nvidia-smi", "rocm-smi", "amd-smi", "apt-get", "git", "wget", "uv", "nvcc"),
    *("mooncake_master", "vllm-router"),
)
_ENTER = """set -e
mount --make-rprivate /
mount -t tmpfs none {root}
mkdir -p {root}/usr {root}/proc {root}/dev {root}/tmp {root}/rec {root}/workspace {root}/stub {root}/etc {root}/root {root}/mnt
mount --bind /usr {root}/usr; mount -o remount,ro,bind {root}/usr
for d in bin lib lib64 sbin; do ln -s usr/$d {root}/$d; done
mount -t proc proc {root}/proc
for d in null zero random urandom; do touch {root}/dev/$d; mount --bind /dev/$d {root}/dev/$d; done
ln -s /proc/self/fd {root}/dev/fd; ln -s /proc/self/fd/1 {root}/dev/stdout; ln -s /proc/self/fd/2 {root}/dev/stderr
mount --bind {rec} {root}/rec
cp -r {tree}/benchmarks {root}/workspace/; mkdir -p {root}/workspace/utils
mount --bind {stubs} {root}/stub; mount -o remount,ro,bind {root}/stub
mkdir -p {root}/workspace/results {root}/{rail}; echo '4: ACTIVE' > {root}/{rail}/state
{copy}
cd {root}
exec chroot {root} /usr/bin/env -i {env} /usr/bin/timeout 60 /bin/bash -c 'cd /workspace; bash {script}'
"""


def points(tree: Path, engine: str, scenario: str = FIXED) -> list[dict[str, Any]]:
    """Every single-node point of an engine and a scenario, as their own generator gives it."""
    sys.path.insert(0, str(tree / "utils/matrix_logic"))
    import generate_sweep_configs as theirs  # type: ignore[import-not-found]
    from validation import validate_master_config  # type: ignore[import-not-found]

    machines = yaml.safe_load((tree / "configs/runners.yaml").read_text())
    cases, seen = [], set()
    files = sorted((tree / "configs").glob("*-master.yaml"))
    files += sorted((tree / "configs/deprecated").glob("*-master.yaml"))
    for file in files:
        for key, entry in yaml.safe_load(file.read_text()).items():
            rows = (entry.get("scenarios") or {}).get(scenario)
            if entry.get("framework") != engine or entry.get("multinode") or not rows:
                continue
            validate_master_config({key: entry})
            args = SimpleNamespace(config_keys=[key], scenario_type=[scenario])
            for point in theirs.generate_test_config_sweep(args, {key: entry}, machines):
                name = (key, str(file), json.dumps(point, sort_keys=True))
                if name not in seen:
                    seen.add(name)
                    config = {k: v for k, v in point.items() if k != "scenario-type"}
                    file_name = str(file.relative_to(tree))
                    cases.append({"key": key, "file": file_name, "config": config})
    return cases


def script_of(tree: Path, case: dict[str, Any]) -> Path:
    """The launchers' rule: the engine's own script where there is one, else the one without a
    word for the engine; retired ones lie one level below."""
    point = case["config"]
    hardware = case["key"].split("-")[2]
    base = f"{point['exp-name'].split('_')[0]}_{point['precision']}_{hardware}"
    spec = "_mtp" if point["spec-decoding"] == "mtp" else ""
    agentic = point.get("kv-offloading") is not None
    folder = tree / "benchmarks/single_node" / ("agentic" if agentic else "fixed_seq_len")
    for place in (folder, folder / "deprecated"):
        for word in (f"_{point['framework']}", ""):
            script = place / f"{base}{word}{spec}.sh"
            if script.exists():
                return script
    raise SystemExit(f"no script for {case['key']}: {base}{spec}")


def _agentic(point: dict[str, Any], script: str) -> dict[str, str]:
    """What an agentic script is given beside what all are given."""
    given = _AGENTIC_GIVEN | {
        "KV_OFFLOADING": point["kv-offloading"],
        "KV_OFFLOAD_BACKEND": (point.get("kv-offload-backend") or {}).get("name", ""),
        "TOTAL_CPU_DRAM_GB": str(point["total-cpu-dram-gb"]),
        "DURATION": str(point["duration"]),
    }
    folder = {"MODEL_PATH": f"/models/{point['model']}"}
    return given | (folder if script in _IN_A_FOLDER else {})


def capture(tree: Path, case: dict[str, Any], stubs: Path) -> dict[str, Any]:
    """Run the script of one point."""
    script = script_of(tree, case)
    place = script.relative_to(tree)
    given = dict(GIVEN)
    for name, key in _FROM_POINT.items():
        value = case["config"].get(key)
        given[name] = str(value).lower() if isinstance(value, bool) else str(value)
    if case["config"].get("kv-offloading") is not None:
        given |= _agentic(case["config"], script.name)
    result = dict(case) | {"script": str(place)}
    run, copy = str(place), ""
    text = script.read_text()
    if "deprecated" in place.parts and '/../../benchmark_lib.sh"' in text:
        run = str(place.parent.parent / place.name)  # where it can find its library
        copy = f"cp {tree}/{place} {{root}}/workspace/{run}"
        if "/../../../benchmark_lib.sh" in text:
            run, copy = str(place), ""
        else:
            result["run_as"] = run
    with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory() as rec:
        variables = {"PATH": "/stub:/usr/local/bin:/usr/bin:/bin", "HOME": "/root", **given}
        env = " ".join(f"'{name}={value}'" for name, value in variables.items())
        body = _ENTER.format(
            root=root, rec=rec, tree=tree, stubs=stubs, env=env, script=run, rail=_RAIL,
            copy=copy.format(root=root),
        )  # fmt: skip
        done = subprocess.run(
            ["unshare", "-m", "-n", "-p", "-i", "-f", "--kill-child", "bash", "-c", body],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )
        calls: dict[str, list[tuple[int, list[str], dict[str, str]]]] = {}
        for kind in Path(rec).glob("*.kind"):
            stem = kind.with_suffix("")
            argv = stem.with_suffix(".argv").read_text().split("\0")[:-1]
            lines = stem.with_suffix(".env").read_text().split("\0")[:-1]
            theirs = dict(line.split("=", 1) for line in lines)
            when = int(stem.with_suffix(".when").read_text())
            calls.setdefault(kind.read_text().strip(), []).append((when, argv, theirs))
        for file in Path(rec).glob("*.file"):  # what `--config` names
            name = file.with_suffix(".name").read_text()
            result["files"] = {name: yaml.safe_load(file.read_text())}
    servers = sorted(calls.get("server", []))
    clients = sorted(calls.get("client", []))
    sound = len(servers) == 1 and len(clients) == 1 and done.returncode == 0
    result["status"] = "ok"
    if not sound:
        words = f"rc {done.returncode}, {len(servers)} servers, {len(clients)} clients"
        result["status"] = words
        result["tail"] = (done.stdout + done.stderr)[-1500:]
    if servers:
        result["argv"] = servers[0][1]
        result["env"] = {
            name: value
            for name, value in sorted(servers[0][2].items())
            if name not in _NOT_THE_SCRIPTS and given.get(name) != value
        }
    if clients:
        result["client"] = clients[0][1]
    noise = ("curl", "nvidia-smi", "amd-smi")
    result["steps"] = [a for _, a, _ in sorted(calls.get("step", [])) if a[0] not in noise]
    return result


def main() -> int:
    tree, out, engine, *keys = sys.argv[1:]
    scenario = keys.pop(0) if keys[:1] in ([FIXED], [AGENTIC]) else FIXED
    root = Path(tree).absolute()
    stubs = Path(tempfile.mkdtemp())
    (stubs / "sleep").write_text("#!/bin/sh\nexec /usr/bin/sleep 0.02\n")
    (stubs / "sleep").chmod(0o755)
    for name in _STUBS:
        (stubs / name).write_text(_STUB)
        (stubs / name).chmod(0o755)
    cases = [case for case in points(root, engine, scenario) if not keys or case["key"] in keys]
    done = []
    for number, case in enumerate(cases, 1):
        done.append(capture(root, case, stubs))
        if number % 50 == 0:
            print(f"{number} of {len(cases)}", file=sys.stderr, flush=True)
    shutil.rmtree(stubs)
    text = json.dumps({"given": GIVEN, "cases": done}, indent=0)
    Path(out).write_bytes(gzip.compress(text.encode(), mtime=0))
    bad = [case for case in done if case["status"] != "ok"]
    print(f"{len(done)} points, {len(bad)} not ok", file=sys.stderr)
    for case in bad[:3]:
        print(case["key"], case["status"], case.get("tail", ""), file=sys.stderr)
    return 0


if __name__ == "__main__":
    os.umask(0o022)
    raise SystemExit(main())
