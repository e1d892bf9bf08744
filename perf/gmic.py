"""What GMIC's five maps cost beside one, a training step beside its two trunks alone, and how much memory one film takes to train.

.venv/bin/python -m perf.gmic [--threads 1] [--clock cpu] [--device cpu] [--rounds 5] [--height 2944] [--films 1]

Published size unless asked otherwise: 2944 x 1920, width 1, six crops, random weights (which change no time). What is compared runs in
turns in one process. Memory: the highest resident set (of a GPU, the highest allocated) of one training step, less what it
was before, which holds the weights and one gradient of each.
"""

import resource

import torch
from torch import Tensor

from data.batch import Batch
from models._gmic_net import standardise
from models._regions import cells_of, crops, greedy_windows, to_pixels
from models.gmic import Config, Gmic
from models.method import Stage, Task
from perf._turns import HEADER, Clock, Work, arguments, in_turns, show

STEP_BOUND, MAPS_BOUND = 1.05, 1.10


def films(count: int, config: Config, device: str) -> Batch:
    """Films of noise, every second one with a mass."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((count, 1, *config.film), generator=generator)
    none, zeros = torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.int64)
    empty = torch.zeros(count, 1, 1, 1)
    return Batch(
        image=image, mask=empty, fine_mask=empty, has_mask=none, has_fine=none, label=torch.arange(count) % 2, margin=zeros,
        malignant=zeros, stream=zeros, index=torch.arange(count), pose=zeros,
    ).to(device)  # fmt: skip


def step_of(method: Gmic, batch: Batch) -> Work:
    stage = Stage("train")

    def run() -> None:
        method.zero_grad(set_to_none=True)
        torch.stack([one.value * one.weight for one in method(batch, stage).values()]).sum().backward()

    return run


def trunks_of(method: Gmic, batch: Batch) -> Work:
    """Both trunks forward and backward on the film and on crops of it, and nothing else."""
    film = method.config.film
    cells, crop = method.net.trunk.map_size(film), method.config.crop_size(film)
    x = standardise(batch.image)
    found = greedy_windows(
        torch.rand(len(batch), 1, *cells, device=x.device), cells_of(crop, film, cells), method.config.K
    )
    cut = crops(x, to_pixels(found, cells, film), crop).flatten(0, 1)[:, None]

    def run() -> None:
        method.zero_grad(set_to_none=True)
        outputs = method.net.trunk(x), method.net.local(cut.expand(-1, 3, -1, -1))
        torch.autograd.backward(outputs, [torch.randn_like(one) for one in outputs])

    return run


def one_map(method: Gmic, batch: Batch) -> Work:
    """GMIC's own map: trunk, saliency layer, sigmoid."""

    @torch.no_grad()
    def run() -> Tensor:
        return method.net.saliency(method.net.trunk(standardise(batch.image))).sigmoid()

    return run


def resident_gib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def show_memory(method: Gmic, batch: Batch, bf16: bool, device: str) -> None:
    """One step after one on a tiny film, by which weights, gradients and libraries are there."""
    small = Batch(**{**vars(batch), "image": batch.image[:, :, :256, :256]})
    step_of(method, small)()
    before = resident_gib(device)
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        step_of(method, batch)()
    height, width = method.config.film
    print(
        f"memory of one step of {len(batch)} film{'s' * (len(batch) > 1)} of {height} x {width}, "
        f"{'bfloat16' if bf16 else 'float32'}: {resident_gib(device) - before:.2f} GiB beside {before:.2f}"
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--height", type=int, default=2944)
    parser.add_argument("--films", type=int, default=1)
    parser.add_argument("--memory", choices=("float32", "bf16"), help="the memory of one step, and nothing else")
    asked = parser.parse_args()
    clock = Clock.asked(parser, asked)
    config = Config(size=asked.height)
    torch.manual_seed(0)
    method = Gmic(config, Task.of("detection")).to(asked.device, memory_format=torch.channels_last).train()
    batch = films(asked.films, config, asked.device)
    if asked.memory:
        show_memory(method, batch, asked.memory == "bf16", asked.device)
        return
    print(HEADER)
    steps = in_turns({"step": step_of(method, batch), "trunks": trunks_of(method, batch)}, asked.rounds, clock)
    show(f"gmic: step of {len(batch)}, beside its two trunks", steps["step"], steps["trunks"], STEP_BOUND)
    method.eval()
    mass = torch.ones(len(batch), dtype=torch.int64, device=asked.device)
    maps = in_turns({"five": lambda: method.maps(batch, mass), "one": one_map(method, batch)}, asked.rounds, clock)
    show("gmic: five maps, beside one", maps["five"], maps["one"], MAPS_BOUND)


if __name__ == "__main__":
    main()
