#!/bin/bash
# vLLM and SGLang on the embedded pair, one after the other on one GPU, and SGLang's promises.
# Both bundles are unpacked: vLLM in /tmp/site, SGLang in /tmp/sgl.
# Usage: engines.sh OUT [SELECTION [RECIPES]], such as
#     engines.sh /tmp/out "tiny and h200 and mtp" experiments/hardware/tiny_h200.yaml
out=$1
selection=${2:-tiny and h100}
recipes=${3:-recipes.yaml}
mkdir -p /tmp/sglbin "$out"
printf '#!/bin/sh\nPYTHONPATH=/tmp/sgl exec %s "$@"\n' "$(command -v python3)" > /tmp/sglbin/python3
chmod +x /tmp/sglbin/python3
export PYTHONPATH=/tmp/site:$PWD HF_HUB_DISABLE_TELEMETRY=1
sglang="/tmp/sglbin/python3 -m sglang.launch_server"
vllm="python3 -m vllm.entrypoints.cli.main serve"
python3 -m pytest benchmarks -p pytest_gpubench.plugin -p no:benchmark -p no:cacheprovider \
  -k "$selection" --gpubench-recipes "$recipes" --gpubench-command "sglang=$sglang" --gpubench-command "vllm=$vllm" \
  --gpubench-results "$out/results" --gpubench-report "$out/report.html" \
  --gpubench-inconclusive=warn --gpubench-start-timeout=600 -v > "$out/pytest.log" 2>&1
echo "rc=$?" >> "$out/pytest.log"
for server in tiny-bf16-h100-sglang-mtp-tp1; do
  python3 experiments/promises.py $server "$out/promises" $sglang \
    > "$out/promises.log" 2>&1
  echo "rc=$?" >> "$out/promises.log"
done
nvidia-smi --query-gpu=name,memory.used --format=csv > "$out/after.txt"
ps aux | grep -c "[s]glang" >> "$out/after.txt"
touch "$out/done"
