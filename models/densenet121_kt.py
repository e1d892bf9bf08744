"""Knowledge transfer between activation maps on DenseNet121 (paper 003): a teacher that was trained on masks shows a student,
which is trained on regions, where to look; the region alone is needed to predict.

Shapes: B images, h w cells of group j, K classes.
Deviations: those of densenet121; beta is not printed (ours: 10); the teacher is trained once for a fold and seed, on that
fold's training side, and is frozen and in evaluation mode while the student learns.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

import models
from data.augment import posed, unposed
from data.batch import Batch
from data.errors import ConfigError
from models import _map_distances as map_distances
from models import _transfer as transfer
from models import densenet121
from models._cams import full
from models._chart import Chart
from models.method import Card, Context, Field, Loss, Method, MethodConfig, Requirement, Stage, Task, term

CARD = Card(
    name="densenet121_kt",
    title="DenseNet121 with knowledge transfer from masks",
    year=2025,
    tracks={"malignancy": "malignancy", "margin": "margin"},
    explains="the activation map of the last group, which a teacher on masks has shaped",
    paper="paper 003 (Knowledge-Based Systems 316, 2025); attention transfer: Zagoruyko and Komodakis 2017",
    reference="none of the authors; attention transfer's public code for the form at_code",
    needs=frozenset({"mask"}),
    supervision="label + mask",
    deviations=(*densenet121.CARD.deviations, "beta is ours: the paper prints none"),
    refuses={"detection": "its teacher reads the mask of a lesion, and a normal film has none"},
)
POSES = range(8)


class Config(densenet121.Config):
    beta: float = Field(
        10.0, ge=0, description="weight of the transfer (Eq. 5), halved there; not printed, ours; 0: densenet121"
    )
    form: transfer.Form = Field(
        "l2",
        description="l2: distance (Eq. 4); l2_squared; at_code: attention transfer's mean square, without the half",
    )
    groups: tuple[Literal[1, 2, 3, 4], ...] = Field(
        (4,), min_length=1, description="groups whose maps are compared; published: 4"
    )
    batch_reduce: transfer.Reduce = Field(
        "mean", description="of the distances over a step; the paper writes one sample"
    )
    teacher: Literal["mask_trained", "same_weights"] = Field(
        "mask_trained",
        description="mask_trained: a network trained on the masks; same_weights: the student's own start",
    )
    teacher_method: str = Field(
        "densenet121", description="method of the mask-trained teacher; published: the student's own"
    )
    teacher_settings: dict[str, Any] = Field(
        {}, description="settings of that run over its published point and what both share"
    )


class DenseNet121Kt(densenet121.DenseNet121):
    """The student; the teacher stands beside it and is no part of its state."""

    Config = Config

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        c = self.config
        if c.picture == "mask":
            raise ConfigError("the student is fed with films", "picture", "set it to image; the teacher has the masks")
        self._taught_by: list[Method] = []  # in a list, so that it is no submodule
        self._seen: dict[int, list[Tensor]] = {}  # row of the table -> of each group the maps of its mask, by pose
        self._start: dict[str, Tensor] = {}  # the state that training begins from
        self.map_distances = map_distances.MapDistances() if c.beta else None

    # ---- the teacher --------------------------------------------------------------------------------------------
    @classmethod
    def requires(cls, config: Any, task: Task) -> list[Requirement]:
        before = super().requires(config, task)
        if not config.beta or config.teacher == "same_weights":
            return before
        return [*before, Requirement("teacher", config.teacher_method, teacher_run(config), task.track.name)]

    def start_from(self, name: str, state: Mapping[str, Tensor]) -> None:
        if name != "teacher":
            super().start_from(name, state)
            return
        kind = models.load(self.config.teacher_method)
        self._take(kind(kind.Config.model_validate(teacher_run(self.config)), self.task), state)

    def _take(self, teacher: Method, state: Mapping[str, Tensor]) -> None:
        teacher.load_state_dict(state)
        teacher.requires_grad_(False).eval()
        with torch.no_grad():
            found = teacher.activations(torch.zeros(1, 1, self.config.size, self.config.size))
        if not found:
            raise ConfigError(
                f"{teacher.card.name} has no spatial activations", "teacher_method", "name another method"
            )
        self._taught_by[:] = [teacher]
        self._seen.clear()

    @property
    def supervision(self) -> str:
        return self.card.supervision if self.config.beta else "label"

    # ---- training -----------------------------------------------------------------------------------------------
    def stages(self) -> list[Stage]:
        if self.map_distances is None:
            return super().stages()
        if not self._start:  # asked before the first step; a resumed run is built anew, asked, and then given its state
            self._start = {key: value.detach().cpu().clone() for key, value in self.state_dict().items()}
            if self.config.teacher == "same_weights":
                self._take(type(self)(self.config, self.task), self._start)
        # after the best epoch is chosen: what it keeps changes no prediction
        return [*super().stages(), Stage("maps", epochs=0, start="best", after=self.measure)]

    def forward(self, batch: Batch, stage: Stage) -> Loss:
        c = self.config
        taught = map_distances.outlined(batch)
        # without a teacher there is nothing to transfer: the engine gives one before it trains (requires, start_from)
        if not c.beta or not self._taught_by or not bool(taught.any()):
            return super().forward(batch, stage)
        found = self.trunk.blocks(batch.image)
        last_BChw = self.trunk.last(found[4])
        loss = Loss(cross_entropy=self.cross_entropy(last_BChw, batch))
        if c.tap == "post_norm":
            found[4] = last_BChw
        shown = self.teacher_maps(batch, taught)
        for position, group in enumerate(c.groups):
            own_Bhw = transfer.activation_map(full(found[group])[taught])
            d_B = transfer.distance(shown[position].to(own_Bhw), own_Bhw)
            value = transfer.transfer(d_B, c.form, c.batch_reduce, own_Bhw[0].numel())
            if c.batch_reduce == "sum" and c.form != "at_code":
                loss[f"transfer_{group}"] = term(value, "sum", c.beta)
            else:  # over all samples: each lesion weighs the same whichever samples share its step or its worker
                loss[f"transfer_{group}"] = term(value * (len(d_B) / len(batch)), "mean", c.beta)
        return loss

    def measure(self, context: Context) -> None:
        """Keep how far the maps are from the teacher's, now and at the start of training (Fig. 6)."""
        if self.map_distances is None or not self._taught_by:
            return
        after = map_distances.look(self._own_maps, self._shown, context)
        trained = {key: value.clone() for key, value in self.state_dict().items()}
        self.load_state_dict(self._start)
        before = map_distances.look(self._own_maps, self._shown, context)
        self.load_state_dict(trained)
        self.map_distances.keep(before, after)

    def _own_maps(self, image_B1HW: Tensor) -> dict[int, Tensor]:
        found = self.activations(image_B1HW)
        return {group: transfer.activation_map(full(value)) for group, value in found.items()}

    @torch.no_grad()
    def teacher_maps(self, batch: Batch, taught_B: Tensor) -> list[Tensor]:
        """Of each group of the config, the teacher's map (Eq. 3) of the masks of `taught_B` in the batch's own pose.

        Of a mask all eight are made at once, and kept: they do not depend on what else a step holds. Where a pose is none of
        the eight, or the input is no square, it is made afresh.
        """
        maps = []
        for i in taught_B.nonzero()[:, 0].tolist():
            row, pose, mask_1HW = int(batch.index[i]), int(batch.pose[i]), batch.mask[i]
            if pose < 0 or mask_1HW.shape[1] != mask_1HW.shape[2]:
                maps.append([one.cpu() for one in self._look(mask_1HW[None])])
                continue
            if row not in self._seen:
                straight = unposed(mask_1HW, pose)
                self._seen[row] = [one.cpu() for one in self._look(torch.stack([posed(straight, p) for p in POSES]))]
            maps.append([one[pose : pose + 1] for one in self._seen[row]])
        return [torch.cat([one[position] for one in maps]) for position in range(len(self.config.groups))]

    def _look(self, mask_B1HW: Tensor) -> list[Tensor]:
        """The teacher's map of masks for each group of the config; of one that is another network always its last."""
        found = self._shown(mask_B1HW)
        return [found.get(group, found[4]) for group in self.config.groups]

    def _shown(self, mask_B1HW: Tensor) -> dict[int, Tensor]:
        """Group -> the teacher's map of masks; of a teacher that is another network its last one alone, as group 4's."""
        teacher = self._taught_by[0].to(mask_B1HW.device)
        with torch.autocast(mask_B1HW.device.type, enabled=False):
            if isinstance(teacher, densenet121.DenseNet121):  # read at the student's tap, whatever its own
                found = teacher.trunk.groups(mask_B1HW, self.config.tap)
            else:
                found = teacher.activations(mask_B1HW)
                return {4: transfer.activation_map(found[max(found)])}
        return {group: transfer.activation_map(value) for group, value in found.items()}

    # ---- reading ------------------------------------------------------------------------------------------------
    def facts(self) -> dict[str, float]:
        return super().facts() | (self.map_distances.facts() if self.map_distances else {})

    def charts(self) -> dict[str, Chart]:
        return self.map_distances.charts() if self.map_distances else {}


def teacher_run(config: Any) -> dict[str, Any]:
    """Settings of the run on masks: the published point of its method, what both share (with a teacher of the student's
    own kind also its start, and other lesions that come before), and `teacher_settings`."""
    given = densenet121.in_common(config, densenet121.SHARED, config.teacher_settings, "teacher_settings")
    if config.teacher_method == densenet121.CARD.name:
        given |= config.model_dump(mode="json", include={*densenet121.START, "pretrain"})
    return {**given, "picture": "mask", **config.teacher_settings}
