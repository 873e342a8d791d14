"""Consistency distillation: a student learns to cover its guided teacher's path in a few steps.

The loss is in latte.diffusion.consistency.
"""

from functools import partial

from torch import Tensor, nn

from latte.diffusion.consistency import consistency_loss
from latte.diffusion.schedule import q_sample
from latte.train.config import LatentTrainConfig
from latte.train.objectives.distillation import Arguments, Distillation, Generators


class Consistency(Distillation):
    """The loss of a student that replaces config.teacher_steps DDIM steps of a teacher by config.student_steps.

    It usually starts from the teacher's weights. Its target is the student itself, not an average of it. The teacher's
    guidance is distilled into it, so no condition is dropped, and it is sampled without guidance. Arguments: see
    Distillation.
    """

    def __init__(self, config: LatentTrainConfig, teacher: nn.Module, weaker: nn.Module | None = None):
        super().__init__(config, teacher, weaker, config.teacher_steps)

    def __call__(
        self, student: nn.Module, x0: Tensor, index: Tensor, noise: Tensor, condition: Arguments, empty: Arguments,
        generators: Generators | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        x, length = q_sample(self.schedule, x0, index, noise), self.config.teacher_steps // self.config.student_steps
        own = partial(self.clean(student), **condition)
        guided = lambda x, index: self.guided(x, index, condition, empty)
        loss = consistency_loss(own, guided, x, index, self.schedule, length).mean()
        return loss, {"loss": loss.detach()}
