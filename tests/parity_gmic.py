"""What evaluates the golden file of GMIC: 04. Weights and images are made by the recipe of tests/golden/README_gmic.md, in
the precision asked for; tolerances are those of that file."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from models import _gmic_net as net
from models._regions import cells_of, crops, greedy_windows, to_pixels
from tests.parity import Check, Evaluator
from tests.parity_prototypes import array

Arrays = Mapping[str, np.ndarray]
OUTPUTS = {"float64": (1e-9, 1e-9), "float32": (1e-5, 1e-5)}
GRADIENTS = {"float64": (1e-9, 1e-12), "float32": (1e-3, 1e-6)}


# ---- the recipe -----------------------------------------------------------------------------------------------------
def uniform(number: int, count: int) -> np.ndarray:
    """u(t, n) of the README: numbers in [0, 1) that follow from a tensor's position alone."""
    h = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(1000003 * (number + 1))) & np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h ^= h >> np.uint64(shift)
        h = (h * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(16)
    return np.asarray(h / 2.0**32)


def released_state(arrays: Arrays, like: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The file's weights under the released names; `like`: tensors of the same names and shapes."""
    state = {}
    for number, name in enumerate(str(name) for name in arrays["state_names"]):
        shape = tuple(like[name].shape)
        u = uniform(number, int(np.prod(shape, dtype=np.int64)))
        state[name] = torch.from_numpy(np.asarray(_filled(name, u, shape)).reshape(shape)).to(dtype)
    state["left_postprocess_net.gn_conv_last.weight"] *= float(arrays["gn_conv_last_scale"])
    state["mil_attn_w.weight"] *= 4
    return state


def _filled(name: str, u: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    s, last = 2 * u - 1, name.split(".")[-1]
    one_dimensional = {"running_mean": 0.1 * s, "running_var": 1 + 0.2 * u, "weight": 1 + 0.1 * s, "bias": 0.1 * s}
    if len(shape) == 4:
        return np.sqrt(3) * np.sqrt(2 / np.prod(shape[1:])) * s
    if len(shape) == 2:
        return np.sqrt(3) * np.sqrt(1 / shape[1]) * s
    return np.zeros(u.shape) if last == "num_batches_tracked" else one_dimensional[last]


def image(number: int, height: int, width: int) -> np.ndarray:
    i, j = np.mgrid[:height, :width].astype(float)
    c, d = (0.3 + 0.35 * number) * height, (0.7 - 0.3 * number) * width
    spot = np.exp(-((i - c) ** 2 + (j - d) ** 2) / (2 * (0.08 * height) ** 2))
    noise = 0.2 * (2 * uniform(900 + number, height * width).reshape(height, width) - 1)
    return np.asarray(0.5 * np.cos(0.05 * i + 0.3 * number) * np.sin(0.07 * j - 0.2 * number) + 2 * spot + noise)


def released_names(model: net.GmicNet) -> dict[str, str]:
    """Our names of tensors -> those of the released checkpoints."""
    back = {own: released for released, own in net.RELEASED.items()}
    found = {}
    for key in model.state_dict():
        own = next(prefix for prefix in back if key.startswith(prefix))
        found[key] = back[own] + key.removeprefix(own)
    return found


# ---- the whole network ----------------------------------------------------------------------------------------------
def gmic(arrays: Arrays, dtype: str) -> Iterator[Check]:
    precision = getattr(torch, dtype)
    model = net.GmicNet(2).to(precision)
    names = released_names(model)
    like = {names[key]: value for key, value in model.state_dict().items()}
    state = released_state(arrays, like, precision)
    model.take_released(state)
    height, width = int(arrays["cfg_H"]), int(arrays["cfg_W"])
    x = torch.from_numpy(np.stack([image(n, height, width) for n in range(2)])[:, None]).to(precision)
    yield Check(
        "state_sums",
        np.array([float(state[str(n)].sum()) for n in arrays["state_names"]]),
        arrays["state_sums"],
        1e-4,
        1e-4,
    )
    yield Check("image_sum", array(x.sum(dim=(1, 2, 3))), arrays["image_sum"].ravel(), 1e-5, 1e-2)
    for mode in ("eval", "train"):
        model.train(mode == "train")
        yield from _mode(model, x, arrays, mode, dtype, names)


def _mode(
    model: net.GmicNet, x: Tensor, arrays: Arrays, mode: str, dtype: str, names: Mapping[str, str]
) -> Iterator[Check]:
    tolerance = OUTPUTS[dtype]

    def check(name: str, got: Tensor) -> Check:
        return Check(f"{mode}_{name}", array(got), arrays[f"{mode}_{name}"], *tolerance)

    size, crop = (x.shape[2], x.shape[3]), (int(arrays["cfg_crop"]),) * 2
    model.zero_grad()
    h_g = model.trunk(x)
    logit = model.saliency(h_g)
    saliency = logit.sigmoid()
    cells = (logit.shape[2], logit.shape[3])
    found = greedy_windows(saliency, cells_of(crop, size, cells), int(arrays["cfg_K"]))
    corners = to_pixels(found, cells, size)
    cut = crops(x, corners, crop)
    seen = model.fuse(h_g, cut)
    y_global = net.top_mean(saliency, net.top_count(cells[0] * cells[1], float(arrays["cfg_percent_t"])))
    y_local, y_fusion = seen.local_logits.sigmoid(), seen.fusion_logits.sigmoid()
    yield Check(f"{mode}: map_size", np.array(model.trunk.map_size(size)), np.array(cells), 0, 0)
    yield check("saliency", saliency)
    yield check("logit", logit)
    yield check("h_g_maxpool", h_g.amax(dim=(2, 3)))
    yield check("h_g_sum_over_channels", h_g.sum(dim=1))
    yield check("y_global", y_global)
    yield check("y_local", y_local)
    yield check("y_fusion", y_fusion)
    yield check("attn", seen.attention)
    yield Check(f"{mode}_pos_cam", array(found), arrays[f"{mode}_pos_cam"], 0, 0)
    yield Check(f"{mode}_patch_locations", array(corners), arrays[f"{mode}_patch_locations"], 0, 0)
    yield check("crops_sum", cut.sum(dim=(2, 3)))
    yield check("crops_corner", cut[:, :, [[0], [127]], [[0, 127]]])
    yield check("h_crops", seen.crop_features)
    yield check("z", seen.z)
    labels = torch.from_numpy(arrays["labels"]).to(x.dtype)
    losses = {
        name: net.released_bce(y, labels)
        for name, y in (("local", y_local), ("global", y_global), ("fusion", y_fusion))
    }
    for name, value in losses.items():
        yield check(f"bce_{name}", value)
    l1 = saliency.sum(dim=(2, 3))
    yield check("l1_sum", l1)
    released = seen.fusion_logits.softmax(dim=1)[:, 1:]
    yield check("author_y_fusion_softmax", released)
    mass = net.released_bce(released, labels[:, 1:]) + losses["local"][:, 1:] + losses["global"][:, 1:]
    yield check("author_loss", mass.mean() + float(arrays["beta"]) * saliency[:, 1].mean())
    loss = (sum(losses.values()) + float(arrays["beta"]) * l1).sum(dim=1).mean()
    yield check("loss_sum", loss)
    loss.backward()
    gradients = {names[key]: array(value.grad) for key, value in model.named_parameters() if value.grad is not None}
    norms = np.array([np.linalg.norm(gradients[str(name)]) for name in arrays["param_names"]])
    yield Check(f"{mode}_grad_norm", norms, arrays[f"{mode}_grad_norm"], *GRADIENTS[dtype])
    first = np.array([gradients[str(n)].ravel()[np.arange(4) % gradients[str(n)].size] for n in arrays["param_names"]])
    padded = arrays[f"{mode}_grad_first4"]
    first = np.where(np.isnan(padded), np.nan, first)
    yield Check(
        f"{mode}_grad_first4",
        first,
        padded,
        1e-2 if dtype == "float32" else 1e-8,
        1e-3 if dtype == "float32" else 1e-10,
    )
    for key in arrays:
        if key.startswith(f"{mode}_grad::"):
            want = arrays[key]
            scale = float(np.abs(want).max())
            tight = GRADIENTS[dtype][0]
            yield Check(key, gradients[key.split("::")[1]], want, tight, tight * scale)
        if key.startswith(f"{mode}_after::"):
            own = {released: key for key, released in names.items()}[key.split("::")[1]]
            yield Check(key, array(model.state_dict()[own]), arrays[key], *tolerance)


# ---- its parts ------------------------------------------------------------------------------------------------------
def regions(arrays: Arrays, dtype: str) -> Iterator[Check]:
    precision = getattr(torch, dtype)
    for case in (str(name) for name in arrays["roi_cases"]):
        h, w, ch, cw, k, *window = (int(value) for value in arrays[f"roi_{case}_cfg"])
        saliency = torch.from_numpy(arrays[f"roi_{case}_saliency"]).to(precision)[None]
        cells = (saliency.shape[2], saliency.shape[3])
        own = cells_of((ch, cw), (h, w), cells)
        yield Check(f"{case}: window", np.array(own), np.array(window), 0, 0)
        found = greedy_windows(saliency, own, k, "nan_compat" if "nan" in case else "zero")
        yield Check(f"roi_{case}_pos", array(found[0]), arrays[f"roi_{case}_pos"], 0, 0)
        yield Check(f"roi_{case}_full", array(to_pixels(found, cells, (h, w))[0]), arrays[f"roi_{case}_full"], 0, 0)
    img = torch.from_numpy(arrays["crop_img"]).to(precision)[None, None]
    where, want = torch.from_numpy(arrays["crop_pos"]).long()[None], arrays["crop_out"]
    yield Check("crop_out", array(crops(img, where, (want.shape[1], want.shape[2]))[0]), want, 1e-6, 1e-7)
    for i, (h, w, percent, count) in enumerate(arrays["topt_cfg"]):
        if count:  # of a share that gives no cell the released code makes NaN; here it is one cell
            given, want = torch.from_numpy(arrays[f"topt_{i}_in"]).to(precision), arrays[f"topt_{i}_out"]
            t = net.top_count(int(h * w), float(percent))
            yield Check(f"topt_{i}: T", np.array(t), np.array(count), 0, 0)
            yield Check(f"topt_{i}_out", array(net.top_mean(given, t)), want, *OUTPUTS[dtype])


def everything(arrays: Arrays, dtype: str) -> Iterator[Check]:
    yield from regions(arrays, dtype)
    yield from gmic(arrays, dtype)


EVALUATORS: dict[str, Evaluator] = {"04": everything}
