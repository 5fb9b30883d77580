"""Where a step's CPU time goes, by operator: `python benchmarks/step_profile.py 'ATWU bf16'`"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}

import torch
from step import CASES, ours, rows
from torch.profiler import ProfilerActivity, profile, schedule

from deleatur.data.batches import collate
from deleatur.modeling.patches import exact_matmul

SHOWN = 12


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "ATWU bf16"
    if name not in CASES:
        sys.exit(f"{__doc__}\nCases: {', '.join(CASES)}")
    case = CASES[name]
    torch.set_num_threads(1)
    exact_matmul()
    forget, retain = (rows(case.rows, seed, scored=case.scored) for seed in (1, 2))
    with profile(activities=[ProfilerActivity.CPU], schedule=schedule(wait=1, warmup=0, active=1)) as seen:

        def windows():
            for _ in range(2):
                yield [collate(forget, retain)]
                seen.step()

        ours(case, windows(), forget, 2)
    found = sorted(seen.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in found)
    for e in found[:SHOWN]:
        print(f"{e.self_cpu_time_total / total:6.1%}  {e.self_cpu_time_total / 1e3:7.0f} ms  {e.count:6}  {e.key}")
    print(f"        {total / 1e3:7.0f} ms in all")


if __name__ == "__main__":
    main()
