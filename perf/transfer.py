"""What knowledge transfer costs beside fine-tuning, and Lesion / Background beside the forward pass of the same inputs.

.venv/bin/python -m perf.transfer [--threads 1] [--clock cpu] [--device cpu] [--rounds 5]

Published size: 224 px, DenseNet121 of width 1, random weights (which change no time); group 4 and the classifier are trained, as
published. What is compared runs in turns in one process: a ratio is of two neighbours in time.
"""

import time

import numpy as np
import torch
from torch import Tensor

from data.batch import Batch
from models import _glcm as glcm
from models import _lesion_background as lb
from models.densenet121 import Config, DenseNet121
from models.densenet121_kt import Config as KtConfig
from models.densenet121_kt import DenseNet121Kt
from models.method import Stage, Task
from perf._turns import HEADER, Clock, Work, arguments, in_turns, show

STEP_BOUND, EXPLANATION_BOUND = 1.1, 1.3
SIZE = 224


def step_of(method: DenseNet121, batch: Batch) -> Work:
    """Forward, all losses, backward, of what the published setting trains."""
    frozen, _ = method.trunk.parts(transition3=False)
    for part in frozen:
        part.requires_grad_(False)
    stage = Stage("train")
    method.training_mode(stage)

    def run() -> None:
        method.zero_grad(set_to_none=True)
        torch.stack([one.value * one.weight for one in method(batch, stage).values()]).sum().backward()

    return run


def samples(count: int, device: str) -> Batch:
    """Regions of noise with a disc, and its mask."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    mask = torch.from_numpy(np.hypot(y - SIZE / 2, x - SIZE / 2) < 50).float().expand(count, 1, -1, -1).contiguous()
    noise = torch.from_numpy(rng.random((count, 1, SIZE, SIZE))).float()
    known, label = torch.ones(count, dtype=torch.bool), torch.arange(count) % 2
    zeros = torch.zeros(count, dtype=torch.int64)
    return Batch(
        image=(0.3 * noise + 0.5 * mask), mask=mask, fine_mask=mask, has_mask=known, has_fine=known, label=label,
        margin=zeros, malignant=label, stream=zeros, index=torch.arange(count), pose=zeros,
    ).to(device)  # fmt: skip


def compare_steps(device: str, rounds: int, clock: Clock, count: int) -> None:
    task = Task.of("malignancy")
    torch.manual_seed(0)
    plain = DenseNet121(Config(weights="none"), task).to(device, memory_format=torch.channels_last)
    student = DenseNet121Kt(KtConfig(weights="none"), task)
    student.start_from("teacher", plain.state_dict())
    student = student.to(device, memory_format=torch.channels_last)
    batch = samples(count, device)
    works = {"transfer": step_of(student, batch), "fine-tuning": step_of(plain, batch)}
    works["transfer"]()  # the teacher's maps are made here, once
    taken = in_turns(works, rounds, clock)
    show(f"densenet121_kt: step of {count}, maps cached", taken["transfer"], taken["fine-tuning"], STEP_BOUND)


def compare_explanation(device: str, rounds: int, clock: Clock) -> None:
    method = DenseNet121(Config(weights="none"), Task.of("malignancy")).to(device).eval()
    region = samples(1, device).image[0, 0]
    grey = region.double().cpu().numpy()
    inputs = region.expand(99, 1, -1, -1).contiguous()

    def last(image: Tensor) -> Tensor:
        return method.activations(image)[4]

    def forward() -> None:
        with torch.no_grad():
            last(inputs)

    works: dict[str, Work] = {
        "explanation": lambda: lb.cells_of(last, region, lb.pictures(grey, lb.Rules())), "forward": forward,
    }  # fmt: skip
    taken = in_turns(works, rounds, clock)
    show("Lesion / Background of one region", taken["explanation"], taken["forward"], EXPLANATION_BOUND)
    started = time.process_time()
    for _ in range(20):
        glcm.variance(grey)
    print(f"windowed variance of one region: {(time.process_time() - started) / 20 * 1000:.1f} ms   <= 10")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--samples", type=int, default=8, help="of a training step")
    asked = parser.parse_args()
    clock = Clock.asked(parser, asked)
    print(f"{asked.device}, {asked.threads} threads, {asked.clock} seconds, {asked.rounds} rounds, medians")
    print(HEADER)
    compare_steps(asked.device, asked.rounds, clock, asked.samples)
    compare_explanation(asked.device, asked.rounds, clock)


if __name__ == "__main__":
    main()
