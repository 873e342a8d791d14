"""The paper's ablations as data: what each compares, what the paper found, and the settings of its arms.

Latte (arXiv 2401.03048). Its ablations are curves of FVD on FaceForensics, over 150,000 steps, and not tables of
numbers: what it found is given here in words. An arm is what departs from a base; the base, and the few numbers that
depend on its size, are the scale's: "paper", the paper's own settings, or "small", the built-in shapes on a CPU.
"""

from dataclasses import dataclass, field

from latte.models.latte import SIZES


@dataclass(frozen=True)
class Scale:
    """A base, by preset and changes, and the settings of arms that depend on it."""

    preset: str  # of latte.train.presets
    settings: dict  # changes of it
    sampling: dict  # of a pipeline's call
    image_model: dict | str  # what `initialisation` begins with: changes for a run of its own, or somebody's weights
    patches: tuple[int, ...]  # sizes, besides the base's, at which variants 1 and 4 are compared
    sizes: dict[str, dict]  # arms of `size`
    sampling_steps: tuple[int, ...]  # arms of `samplers`
    guidance_scales: tuple[float, ...]  # arms of `guidance`, where the base has classes


def shape(depth: int, hidden_size: int, num_heads: int) -> dict:
    """Settings of a model of that size."""
    return {"model.depth": depth, "model.hidden_size": hidden_size, "model.num_heads": num_heads}


SCALES = {
    "small": Scale(
        preset="shapes",
        settings={
            **shape(6, 128, 4),
            "model.patch_size": 3,  # of latents of 6 x 6: four patches a frame
            "clips": 1024,
            "image_size": 48,  # the smallest that the VAE of 64 x 64 pixels does well
            "num_frames": 8,
            "motion_frames": 22,  # at every third frame a clip is a whole motion
            "frame_interval": 3,
            "steps": 1480,
            "learning_rate": 2e-3,
            "warmup": 50,
            "ema_decay": 0.99,
            "log_every": 1,
            "save_every": 200,
            "keep": 1,
        },
        sampling={"sampler": "ddim", "num_inference_steps": "25", "guidance_scale": 4.0, "batch_size": 16},
        image_model={"num_frames": 1, "frame_interval": 1, "global_batch_size": 64},
        patches=(2, 6),
        sizes={"depth 4, width 64": shape(4, 64, 2), "depth 6, width 128": {}, "depth 8, width 192": shape(8, 192, 6)},
        sampling_steps=(5, 10, 25, 50),
        guidance_scales=(1.0, 2.0, 4.0, 8.0),
    ),
    "paper": Scale(
        preset="ffs",
        settings={"steps": 150_000},
        sampling={"sampler": "ddpm", "num_inference_steps": "250", "guidance_scale": 7.0, "batch_size": 4},
        image_model="DiT-XL-2-256x256.pt",
        patches=(4,),
        sizes={f"Latte-{name}": {} if name == "XL" else shape(*SIZES[name]) for name in SIZES},
        sampling_steps=(50, 100, 250),
        guidance_scales=(1.0, 2.0, 4.0, 7.0),
    ),
}


@dataclass(frozen=True)
class Arm:
    """What departs from the base."""

    train: dict = field(default_factory=dict)  # settings of the training
    sample: dict = field(default_factory=dict)  # of the pipeline's call
    begins: bool = False  # with the weights of the scale's image model


@dataclass(frozen=True)
class Ablation:
    """A comparison. The arms that `claims` names in pairs are, after the paper, (better, worse)."""

    title: str
    finding: str  # the paper's
    arms: dict[str, Arm]
    claims: tuple[tuple[str, str], ...] = ()
    note: str = ""  # what to know when reading it
    other_data: bool = False  # arms learn from different clips: their losses do not compare

    @property
    def trains(self) -> bool:
        """Whether its arms differ in training, and not in sampling alone."""
        return any(arm.train or arm.begins for arm in self.arms.values())


def equal_depth(depth: int) -> int:
    """Blocks of variants 3 and 4 with as many parameters as `depth` of variants 1 and 2: 28 -> 23."""
    return round(depth * 18 / 22)  # a second attention adds 4 d^2 to a block's 18 d^2


def ablations(scale: Scale, base: dict) -> dict[str, Ablation]:
    """All of them at a scale, by name; base: fields of the base's network, for what follows from its size."""
    patch, depth = base["patch_size"], equal_depth(base["depth"])
    two_attentions = lambda variant: Arm({"model.variant": variant, "model.depth": depth})
    both = {"variant 1": Arm(), "variant 4": two_attentions(4)}
    sizes = [size for size in scale.patches if size != patch]
    patched = {
        f"{name}, patch {size}": Arm({**arm.train, "model.patch_size": size})
        for size in sizes
        for name, arm in both.items()
    }
    first, *smaller = list(reversed(scale.sizes))
    sampler = lambda name, steps: Arm(sample={"sampler": name, "num_inference_steps": str(steps)})
    samplers = {
        f"{name}, {steps} steps": sampler(name, steps)
        for name in ("ddim", "ddpm", "dpm_multistep")
        for steps in scale.sampling_steps
    }
    table = {
        "variants": Ablation(
            "Four ways to spread attention over space and time",
            "Variant 1 is best and variant 4 worst, at equal parameters.",
            {
                "variant 1": Arm(),
                "variant 2": Arm({"model.variant": 2}),
                "variant 3": two_attentions(3),
                "variant 4": two_attentions(4),
                **patched,
            },
            (
                *(("variant 1", f"variant {other}") for other in (2, 3, 4)),
                *((f"variant 1, patch {size}", f"variant 4, patch {size}") for size in sizes),
                *(("variant 4", f"variant 4, patch {size}") for size in sizes if size > patch),
            ),
            f"Variants 3 and 4 have {depth} blocks; patches are of {patch} where no other size is said. The paper's "
            "FLOPs of variant 4, a quarter of the others', come out only with patches of twice the side, a quarter of "
            "the tokens; if it was trained so, it was not compared on equal terms. So variants 1 and 4 are compared "
            "at each size; that coarser patches are worse is not the paper's claim.",
        ),
        "patch-embedding": Ablation(
            "Uniform-frame or compression-frame patches",
            "Uniform-frame patches are clearly better.",
            {"uniform": Arm(), "compression, 2 frames": Arm({"model.tubelet": 2})},
            (("uniform", "compression, 2 frames"),),
            "A patch of two frames halves the tokens, and nearly halves the time of a step.",
        ),
        "conditioning": Ablation(
            "How timestep and class come in",
            "Adaptive layer norms (S-AdaLN) are clearly better than tokens (all tokens).",
            {"adaln": Arm(), "tokens": Arm({"model.conditioning": "tokens"})},
            (("adaln", "tokens"),),
            "With tokens there is no modulation, so a third of a block's parameters is gone.",
        ),
        "temporal-position": Ablation(
            "Position in time",
            "Absolute positions are slightly better than rotary ones.",
            {"sincos": Arm(), "rope": Arm({"model.temporal_pos": "rope"})},
            (("sincos", "rope"),),
        ),
        "initialisation": Ablation(
            "From scratch, or from a model of images",
            "ImageNet's weights help early; in the end training from scratch is better.",
            {"from scratch": Arm(), "from images": Arm(begins=True)},
            (("from scratch", "from images"),),
            "The image model's own training comes on top. In small it has seen single frames of the same data for as "
            "many steps: closer to the videos than ImageNet is to the paper's.",
        ),
        "joint-images": Ablation(
            "Still images beside each clip",
            "Joint training with images is better (+IMG).",
            {"no images": Arm(), "8 images": Arm({"num_images": 8})},
            (("8 images", "no images"),),
            "As many clips a step; the images are extra work. The loss at fixed noise is that of clips alone.",
        ),
        "interval": Ablation(
            "Sampling interval",
            "It matters early and little at the end; 3 is chosen.",
            {f"every {k}": Arm({} if k == 3 else {"frame_interval": k}) for k in (1, 2, 3)},
            note="Each arm learns from other clips, and is judged beside real ones of its own interval: no verdict. Of "
            "the built-in motions an interval of 1 shows a third, which real clips do not always pass either.",
            other_data=True,
        ),
        "size": Ablation(
            "Size of the model",
            "The larger, the better.",
            {name: Arm(settings) for name, settings in scale.sizes.items()},
            tuple((first, name) for name in smaller),
        ),
        "samplers": Ablation(
            "Sampler and number of steps",
            "No samplers are compared; it samples with DDPM, 250 steps.",
            samplers,
            note="One model of each seed, that of the base, sampled in several ways.",
        ),
    }
    if scale.guidance_scales:
        table["guidance"] = Ablation(
            "Scale of classifier-free guidance",
            "No scales are compared; its code has 7 on UCF101.",
            {f"guidance {s:g}": Arm(sample={"guidance_scale": s}) for s in scale.guidance_scales},
        )
    return table
