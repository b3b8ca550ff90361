#!/usr/bin/env bash
# bash benchmarks/on_gpu.sh [--rehearse] [--output DIR] [--wheels DIR] [--budget SECONDS]
#
# What there is to learn from a GPU in nine minutes, the most worthwhile first. Every part is a process of its own with
# a time limit of its own, and has written its results when the next one begins: a stop loses what is running and
# nothing else. --wheels: install from there first, on a bare machine: what `pip wheel -w DIR '.[dev]'` put there on one
# with a network. --rehearse: all of it on a CPU, at its smallest.
set -uo pipefail
cd "$(dirname "$0")/.."

output=benchmarks/results/on_gpu wheels="" budget=540 rehearse=""
while [ $# -gt 0 ]; do
  case "$1" in
    --rehearse) rehearse=yes; shift ;;
    --output) output=$2; shift 2 ;;
    --wheels) wheels=$2; shift 2 ;;
    --budget) budget=$2; shift 2 ;;
    *) echo "on_gpu.sh: $1 is none of --rehearse, --output DIR, --wheels DIR, --budget SECONDS" >&2; exit 2 ;;
  esac
done
mkdir -p "$output"
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
summary=$output/summary.txt
: > "$summary"

# part NAME LIMIT COMMAND...: its output goes to NAME.log, a line about it to summary.txt
part() {
  local name=$1 limit=$2 left=$((budget - SECONDS)) began=$SECONDS status=0
  shift 2
  [ "$limit" -gt "$left" ] && limit=$left
  if [ "$limit" -le 0 ]; then
    echo "$name: no time left" | tee -a "$summary"
    return
  fi
  timeout --kill-after=5 "$limit" "$@" > "$output/$name.log" 2>&1 || status=$?
  case $status in
    0) said=passed ;;
    124 | 137) said="stopped after its $limit s" ;;
    *) said="failed with status $status, see $name.log" ;;
  esac
  echo "$name: $said, $((SECONDS - began)) s" | tee -a "$summary"
}

bench() { # NAME LIMIT SCRIPT ARGUMENTS...
  local name=$1 limit=$2 script=$3
  shift 3
  part "$name" "$limit" "$python" "benchmarks/$script.py" --output "$output" "${device[@]}" "$@"
}

if [ -n "$wheels" ]; then
  part install 240 "$python" -m pip install --no-index --find-links "$wheels" 'stts[dev]'
fi
if [ -n "$rehearse" ]; then
  preset=tiny short="3" middle="3" long="4" device=(--device cpu --repeats 1)
else
  preset=molmo2_4b short="64" middle="64 128" long="256" device=(--device cuda --repeats 5)
fi
tests=("$python" -m pytest -q -m gpu -p no:cacheprovider)

part waits 60 "${tests[@]}" tests/hosts/test_no_host_sync.py
part kernels 90 "${tests[@]}" tests/pruning tests/hosts/test_llm_attention.py tests/hosts/test_half_precision.py tests/train
bench train 110 speed --preset $preset --mode train --frames $middle --variants pruned after-vit --warmup 1
part rates 15 "$python" benchmarks/rates.py "$output"
bench prefill 80 speed --preset $preset --mode prefill --frames $middle $long --variants pruned after-vit
bench recomputed 70 speed --preset $preset --mode train --frames $long --variants pruned --checkpointing \
  --name speed-$preset-recomputed
bench breakdown 40 breakdown --preset $preset --frames ${middle##* }
bench same-kernels 40 speed --preset $preset --mode vit --frames ${middle##* } --variants pruned
bench compiled 90 speed --preset $preset --mode train --frames $short --ratios 0.5 --variants pruned --compile \
  --name speed-$preset-compiled
cat "$summary"
! grep -q failed "$summary"
