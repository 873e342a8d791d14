"""The ablations as data, the paper's and a modern one: what each compares, what the paper found, the settings of arms.

Latte (arXiv 2401.03048) reports its ablations as curves of FVD on FaceForensics over 150,000 training steps, without
tables of numbers, so its findings are given here in words. An arm is defined by how it departs from a base. The base,
and the few numbers that depend on its size, belong to a scale: "paper" has the paper's own settings, "small" trains on
the built-in shapes, on a CPU.
"""

from dataclasses import dataclass, replace

from latte.eval.ablate.arms import EACH, Ablation, Arm, Sweep, model_of
from latte.eval.ablate.modern import MODERN
from latte.models.latte_config import SIZES, equal_depth
from latte.train.base_config import TrainConfig


def depth_of_equal_size(base: TrainConfig) -> int:
    """The depth at which variants 3 and 4 have as many parameters as the base."""
    return equal_depth(model_of(base).depth)


ABLATIONS = {
    "variants": Ablation(
        title="The four variants of the model",
        finding="Variant 1 is best and variant 4 worst, at equal parameters.",
        arms={
            "variant 1": Arm(),
            "variant 2": Arm({"model.variant": 2}),
            "variant 3": Arm({"model.variant": 3, "model.depth": depth_of_equal_size}),
            "variant 4": Arm({"model.variant": 4, "model.depth": depth_of_equal_size}),
        },
        claims=(("variant 1", "variant 2"), ("variant 1", "variant 3"), ("variant 1", "variant 4")),
        sweeps=(
            Sweep(
                "other patch sizes",
                arms={
                    "variant 1, patch {}": Arm({"model.patch_size": EACH}),
                    "variant 4, patch {}": Arm(
                        {"model.variant": 4, "model.depth": depth_of_equal_size, "model.patch_size": EACH}
                    ),
                },
                claims=(("variant 1, patch {}", "variant 4, patch {}"),),
            ),
            Sweep("larger patch sizes", claims=(("variant 4", "variant 4, patch {}"),)),
        ),
        note="Variants 3 and 4 have {equal_depth} blocks. The patch size is {patch_size} unless another one is given. "
        "The paper gives variant 4 a quarter of the FLOPs of the others, which is what patches of twice the side, and "
        "so a quarter of the tokens, amount to. If it was trained in that way, it was not compared on equal terms. So "
        "variants 1 and 4 are compared here at each patch size. The paper does not claim that larger patches are "
        "worse.",
    ),
    "patch-embedding": Ablation(
        title="Uniform-frame or compression-frame patch embedding",
        finding="Uniform-frame patches are clearly better.",
        arms={"uniform": Arm(), "compression, 2 frames": Arm({"model.tubelet": 2})},
        claims=(("uniform", "compression, 2 frames"),),
        note="A patch of two frames halves the tokens, and nearly halves the time of a step.",
    ),
    "conditioning": Ablation(
        title="Conditioning on timestep and class",
        finding="Adaptive layer norms (S-AdaLN) are clearly better than tokens (all tokens).",
        arms={"adaln": Arm(), "tokens": Arm({"model.conditioning": "tokens"})},
        claims=(("adaln", "tokens"),),
        note="With tokens there is no modulation, so a block has a third fewer parameters.",
    ),
    "temporal-position": Ablation(
        title="Temporal position embedding",
        finding="Absolute positions are slightly better than rotary ones.",
        arms={"sincos": Arm(), "rope": Arm({"model.temporal_pos": "rope"})},
        claims=(("sincos", "rope"),),
    ),
    "initialisation": Ablation(
        title="Training from scratch or from an image model",
        finding="Weights pretrained on ImageNet help early; in the end, training from scratch is better.",
        arms={"from scratch": Arm(), "from images": Arm(from_images=True)},
        claims=(("from scratch", "from images"),),
        note="The cost of training the image model is extra. At the small scale, the image model is trained for as "
        "many steps, on single frames of the same data, which is closer to the videos than ImageNet is to the paper's.",
    ),
    "joint-images": Ablation(
        title="Joint training with still images",
        finding="Joint training with images is better (+IMG).",
        arms={"no images": Arm(), "8 images": Arm({"num_images": 8})},
        claims=(("8 images", "no images"),),
        note="A step has the same number of clips; the images are extra work. The loss at fixed noise is that of clips "
        "alone.",
    ),
    "interval": Ablation(
        title="Sampling interval",
        finding="It matters early in training, but little at the end; the paper chooses 3.",
        arms={"every 1": Arm({"frame_interval": 1}), "every 2": Arm({"frame_interval": 2}), "every 3": Arm()},
        note="Each arm is trained on different clips, and its samples are compared with real clips of that interval, "
        "so there is no verdict. At an interval of 1, a clip shows a third of a built-in motion, which the examiner "
        "does not always recognise even in real clips.",
        data_differs=True,
    ),
    "size": Ablation(
        title="Model size",
        finding="The larger, the better.",
        sweeps=(Sweep("sizes", arms={"{}": Arm(EACH)}), Sweep("smaller sizes", claims=(("{largest}", "{}"),))),
    ),
    "samplers": Ablation(
        title="Sampler and number of steps",
        finding="No samplers are compared; the paper samples with DDPM in 250 steps.",
        sweeps=(
            Sweep("steps", {"ddim, {} steps": Arm(sample={"sampler": "ddim", "num_inference_steps": EACH})}),
            Sweep("steps", {"ddpm, {} steps": Arm(sample={"sampler": "ddpm", "num_inference_steps": EACH})}),
            Sweep(
                "steps",
                {"dpm_multistep, {} steps": Arm(sample={"sampler": "dpm_multistep", "num_inference_steps": EACH})},
            ),
        ),
        note="For each seed there is one model, that of the base, which is sampled in different ways.",
    ),
    "guidance": Ablation(
        title="Scale of classifier-free guidance",
        finding="No scales are compared; the paper's code has 7 for UCF101.",
        sweeps=(Sweep("guidance scales", {"guidance {:g}": Arm(sample={"guidance_scale": EACH})}),),
    ),
    "modern": MODERN,
}


@dataclass(frozen=True)
class Scale:
    """A base, as a preset and changes of it, and the values of arms that depend on it."""

    preset: str  # a name of latte.train.presets
    settings: dict  # changes of the preset
    sampling: dict  # arguments of the pipeline's call
    image_model: dict | str  # what `initialisation` starts from: settings of a run that is trained, or existing weights
    patch_sizes: tuple[int, ...]  # at which variants 1 and 4 are compared, besides the base's
    sizes: dict[str, dict]  # settings of the arms of `size`, from the smallest model to the largest
    sampling_steps: tuple[str, ...]  # of the arms of `samplers`
    guidance_scales: tuple[float, ...]  # of the arms of `guidance`; none for a base without classes


def model_shape(depth: int, hidden_size: int, num_heads: int) -> dict:
    """The settings of a model of this size."""
    return {"model.depth": depth, "model.hidden_size": hidden_size, "model.num_heads": num_heads}


SCALES = {
    "small": Scale(
        preset="shapes-plain",
        settings={
            **model_shape(6, 128, 4),
            "model.patch_size": 3,  # latents are 6 x 6: four patches per frame
            "clips": 1024,
            "image_size": 48,  # the smallest size at which the VAE, trained on 64 x 64 pixels, still works well
            "num_frames": 8,
            "motion_frames": 22,  # every third frame of these is a clip of a whole motion
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
        patch_sizes=(2, 6),
        sizes={
            "depth 4, width 64": model_shape(4, 64, 2),
            "depth 6, width 128": {},
            "depth 8, width 192": model_shape(8, 192, 6),
        },
        sampling_steps=("5", "10", "25", "50"),
        guidance_scales=(1.0, 2.0, 4.0, 8.0),
    ),
    "paper": Scale(
        preset="ffs",
        settings={"steps": 150_000},
        sampling={"sampler": "ddpm", "num_inference_steps": "250", "guidance_scale": 7.0, "batch_size": 4},
        image_model="DiT-XL-2-256x256.pt",
        patch_sizes=(4,),
        sizes={f"Latte-{name}": {} if name == "XL" else model_shape(*SIZES[name]) for name in SIZES},
        sampling_steps=("50", "100", "250"),
        guidance_scales=(1.0, 2.0, 4.0, 7.0),
    ),
}


def swept_values(scale: Scale, patch_size: int) -> dict[str, dict]:
    """For each name that a Sweep may be over, the values as labels show them, and as settings have them."""
    patch_sizes = [size for size in scale.patch_sizes if size != patch_size]
    itself = lambda values: {value: value for value in values}
    return {
        "other patch sizes": itself(patch_sizes),
        "larger patch sizes": itself(size for size in patch_sizes if size > patch_size),
        "sizes": scale.sizes,
        "smaller sizes": dict(list(scale.sizes.items())[-2::-1]),
        "steps": itself(scale.sampling_steps),
        "guidance scales": itself(scale.guidance_scales),
    }


def ablations(scale: Scale, base: TrainConfig) -> dict[str, Ablation]:
    """The ablations at a scale.

    Args:
        scale: The scale, for the values that depend on it.
        base: The settings that arms depart from.

    Returns:
        The ablations by name, without sweeps. Those that have no arms at this scale are left out.
    """
    patch_size = model_of(base).patch_size
    swept = swept_values(scale, patch_size)
    names = {
        "largest": list(scale.sizes)[-1],
        "patch_size": patch_size,
        "equal_depth": depth_of_equal_size(base),
    }

    def fill(settings: dict | object, each: object = None) -> dict:
        if settings is EACH:
            return each
        known = {name: each if value is EACH else value for name, value in settings.items()}
        return {name: value(base) if callable(value) else value for name, value in known.items()}

    def at_scale(ablation: Ablation) -> Ablation:
        arms = {label: replace(arm, train=fill(arm.train)) for label, arm in ablation.arms.items()}
        claims = list(ablation.claims)
        for sweep in ablation.sweeps:
            for shown, each in swept[sweep.over].items():
                for label, arm in sweep.arms.items():
                    arm = replace(arm, train=fill(arm.train, each), sample=fill(arm.sample, each))
                    arms[label.format(shown, **names)] = arm
                claims += [tuple(label.format(shown, **names) for label in claim) for claim in sweep.claims]
        return replace(ablation, arms=arms, claims=tuple(claims), sweeps=(), note=ablation.note.format(**names))

    filled = {name: at_scale(ablation) for name, ablation in ABLATIONS.items()}
    return {name: ablation for name, ablation in filled.items() if ablation.arms}
