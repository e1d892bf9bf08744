"""What evaluates the golden file of knowledge transfer: 07. Tolerances are those of tests/golden/README_transfer.md."""

from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from models import _transfer as transfer
from tests.parity import Check, Evaluator
from tests.parity_prototypes import array, tensors

GROUPS = (1, 2, 3, 4)


def knowledge_transfer(arrays: Mapping[str, np.ndarray], dtype: str) -> Iterator[Check]:
    t = tensors(arrays, dtype)
    tolerance = (1e-12, 1e-14) if dtype == "float64" else (1e-5, 1e-7)
    logits = t["logits"].requires_grad_()
    ce = F.cross_entropy(logits, t["labels"].long())
    ce.backward()
    yield Check("ce", array(ce.detach()), arrays["ce"], *tolerance)
    yield Check("grad_logits_ce", array(logits.grad), arrays["grad_logits_ce"], *tolerance)
    ce = ce.detach()
    terms: dict[tuple[int, str], Tensor] = {}
    for j in GROUPS:
        teacher, student = (t[f"g{j}_{who}"] for who in ("teacher", "student"))
        cells = student.shape[2] * student.shape[3]
        for form, gradient in (("l2", "grad_l2_mean"), ("l2_squared", "grad_sq_mean"), ("at_code", "at_code_grad")):
            leaf = student.clone().requires_grad_()
            maps = transfer.activation_map(teacher), transfer.activation_map(leaf)
            d = transfer.distance(*maps)
            value = transfer.transfer(d, form, "mean", cells)
            value.backward()
            yield Check(f"g{j}_{gradient}", array(leaf.grad), arrays[f"g{j}_{gradient}"], *tolerance)
            terms[j, form] = value.detach()
        yield Check(f"g{j}_F_teacher", array(maps[0]), arrays[f"g{j}_F_teacher"], *tolerance)
        yield Check(f"g{j}_F_student", array(maps[1].detach()), arrays[f"g{j}_F_student"], *tolerance)
        yield Check(f"g{j}_d", array(d.detach()), arrays[f"g{j}_d"], *tolerance)
        yield Check(f"g{j}_at_code_loss", array(terms[j, "at_code"]), arrays[f"g{j}_at_code_loss"], *tolerance)
    summed = transfer.transfer(d.detach(), "l2", "sum", cells)  # group 4 is the last
    for name, value in (
        ("loss_group4", terms[4, "l2"]),
        ("loss_all_groups", sum(terms[j, "l2"] for j in GROUPS)),
        ("loss_group4_batchsum", summed),
        ("loss_group4_squared", terms[4, "l2_squared"]),
        ("loss_at_code_beta1000", 1000 * terms[4, "at_code"]),
    ):
        yield Check(name, array(ce + value), arrays[name], *tolerance)


EVALUATORS: dict[str, Evaluator] = {"07": knowledge_transfer}
