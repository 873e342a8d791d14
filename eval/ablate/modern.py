"""The ablation of what the field has found since the paper: parts of a training recipe, alone and together."""

from latte.eval.ablate.arms import Ablation, Arm, together
from latte.train.base_config import TrainConfig

SNAPSHOTS = 24  # of the averages of a run, from which another average is made
SHORTER = 4  # ratio of the base's clips to those of the arms that are trained on fewer


def snapshot_interval(base: TrainConfig) -> int:
    """The steps between snapshots of the averages."""
    return max(1, base.steps // SNAPSHOTS)


def fewer_steps(base: TrainConfig) -> int:
    """The steps of the arms that are trained on fewer clips."""
    return max(1, base.steps // SHORTER)


def half_batch(base: TrainConfig) -> int:
    """Half of the base's clips in a step."""
    return max(1, base.global_batch_size // 2)


def steps_of_half_batches(base: TrainConfig) -> int:
    """The steps of the arms that are trained on fewer clips, in half batches."""
    return max(1, base.steps * base.global_batch_size // (SHORTER * half_batch(base)))


def clips_together(base: TrainConfig) -> int:
    """The clips of a forward pass: the dispersive loss compares these, so their number must be set."""
    return base.micro_batch_size or base.global_batch_size


PARTS = {  # the docstring of the module that computes each names its paper
    "flow matching": Arm({"model.prediction": "flow"}),
    "logit-normal timesteps": Arm({"timestep_std": 1.0, "timestep_mean": 0.0}),
    "Muon": Arm({"optimizer": "muon"}),
    "trapezoid": Arm({"schedule": "trapezoid"}),
    "min-SNR": Arm({"loss_weighting": "min-snr"}),
    "another average": Arm({"average_every": snapshot_interval}, average=0.1),
    "token routing": Arm({"route_share": 0.5}),
    "dispersive loss": Arm(  # after blocks that token routing leaves whole
        {"dispersive_weight": 0.5, "dispersive_block": 2, "micro_batch_size": clips_together}
    ),
    "self-alignment": Arm({"align_weight": 0.2}),
    "self-conditioning": Arm({"model.self_condition": True}),
}
PLAIN = Arm({"timestep_std": 0.0, "timestep_mean": 0.0}, {"guidance_scale": 1.0})  # uniform timesteps, as in the paper
EVERYTHING = together(PLAIN, *PARTS.values())
FEWER = Arm({"steps": fewer_steps})
FIVE = ("Muon", "self-conditioning", "self-alignment", "trapezoid", "logit-normal timesteps")
EAGER = Arm(  # learns faster from few clips
    {
        "global_batch_size": half_batch,
        "steps": steps_of_half_batches,
        "learning_rate": lambda base: 2 * base.learning_rate,
    }
)


def all_but(part: str) -> Arm:
    """The arm with all parts but one."""
    return together(PLAIN, *(arm for name, arm in PARTS.items() if name != part))


MODERN = Ablation(
    title="A modern recipe, part by part",
    arms={
        "base": PLAIN,
        "base, a quarter of the clips": together(PLAIN, FEWER),
        **{part: together(PLAIN, arm) for part, arm in PARTS.items()},
        "all": EVERYTHING,
        "all, a quarter of the clips": together(EVERYTHING, FEWER),
        "base, a quarter of the clips, half batches": together(PLAIN, EAGER),
        "five parts, a quarter of the clips": together(PLAIN, *(PARTS[name] for name in FIVE), EAGER),
        **{f"all without {part}": all_but(part) for part in PARTS},
    },
    claims=(
        *((part, "base") for part in PARTS),
        ("all", "base"),
        ("all, a quarter of the clips", "base"),
        ("five parts, a quarter of the clips", "base"),
        ("five parts, a quarter of the clips", "base, a quarter of the clips, half batches"),
        *(("all", f"all without {part}") for part in PARTS),
    ),
    note="The claims are those of the parts' authors. Samples are drawn without guidance, which would cover for what a "
    "network has not learned. Arms minimise different losses, so losses do not compare and are not shown. "
    "Timesteps of the base are drawn uniformly. Another average is that of length 0.1, made after the training. "
    "Schedules end with the training, also where it has a quarter of the clips. "
    f"The five parts are {', '.join(FIVE)}. They are trained in half batches with twice the learning rate, and so is "
    "'base, a quarter of the clips, half batches'.",
    recipe_differs=True,
)
