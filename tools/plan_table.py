"""What the public models need at 8 to 80 GB of GPU memory, as a Markdown table: `python tools/plan_table.py`.

From shapes alone, for bfloat16 and the model's own guidance: what `videodit plan device=cuda limit=…` says, for each
memory the first setup that fits without fewer frames.
"""

from __future__ import annotations

import torch

from videodit.checkpoint.find import sketch_pipeline
from videodit.generate import Pipe
from videodit.generate.admission import job_of, setup_of
from videodit.plan.generation import Planner, alternatives, base_memory
from videodit.plan.machine import GIB, Limit

MEMORY = (8, 16, 24, 48, 80)  # GB as they are sold; GiB, less what a desktop or the driver keeps
KEPT = 0.5
PROMPT = "a prompt of about twenty words, as long as most are, to count the states that attention will see"
CASES = (
    ("wan2.1-t2v-1.3b", "832x480", 17),
    ("wan2.1-t2v-1.3b", "832x480", 81),
    ("wan2.1-t2v-14b", "832x480", 81),
    ("wan2.1-t2v-14b", "1280x720", 81),
    ("wan2.2-ti2v-5b", "1280x704", 121),
    ("wan2.2-t2v-a14b", "832x480", 81),
    ("wan2.2-t2v-a14b", "1280x720", 81),
)


def main() -> None:
    """Print the table."""
    print("| model | size, frames | all open, GiB | " + " | ".join(f"{size} GB" for size in MEMORY) + " |")
    print("|---|---|---|" + "---|" * len(MEMORY))
    for name, size, frames in CASES:
        device = torch.device("cuda")
        pipe = Pipe(sketch_pipeline(name, device="cuda", dtype=torch.bfloat16, offload="none"))
        job = job_of(pipe, [pipe.request(PROMPT, size=size, frames=frames)])
        planner = Planner(pipe.parts, Limit("", 0), base=base_memory(device, 0))
        setup = setup_of(pipe)
        choices = [("everything open", setup)]
        choices += [
            (planner.words(job, setup, job, other), other)
            for same, other in alternatives(job, setup, device)
            if same == job and not other.way.device
        ]
        needs = [(words, planner.plan(job, other).peak.memory) for words, other in choices]
        fits = (next((w for w, need in needs if need <= (gb - KEPT) * GIB), "no") for gb in MEMORY)
        print(f"| {name} | {size}, {frames} | {needs[0][1] / GIB:.1f} | " + " | ".join(fits) + " |", flush=True)


if __name__ == "__main__":
    main()
