"""Guidance methods in calls of both kinds of models: what they change, what they remember, and what they reject."""

import copy
import json
import math
from itertools import pairwise

import pytest
import torch
from awake_models import SIZE, awake, awake_pipeline, write_model
from goldens import relative_error
from traps import Reached, trapped

from latte import LattePipeline, guided_denoiser, sampling_call
from latte.cli import main
from latte.diffusion import guidance_methods, guidance_options
from latte.diffusion.guidance import autoguided, guided
from latte.diffusion.samplers import ddim
from latte.eval.replay import Replay
from latte.fast.switch import fast_paths
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.plans.rules import gate_guidance
from latte.sampling_settings import Guidance, Sampling
from latte.weights.sampling_defaults import load_sampling, save_sampling

CLASSES = dict(depth=2, hidden_size=16, num_heads=2, input_size=4, num_frames=3, num_classes=3)
TEXT = dict(num_layers=1, num_attention_heads=2, attention_head_dim=8, caption_channels=6, sample_size=4,
            video_length=3)  # fmt: skip
WAYS = {
    "apg": {"guidance_method": "apg"},
    "apg, threshold": {"guidance_method": "apg", "guidance_options": {"threshold": 20.0, "momentum": 0.0}},
    "cfg-zero": {"guidance_method": "cfg-zero", "guidance_options": {"zero_steps": 0}},
    "zero-init": {"guidance_method": "cfg-zero"},
    "cfg++": {"guidance_method": "cfg++", "guidance_scale": 0.7},
    "linear": {"guidance_schedule": "linear"},
    "cosine": {"guidance_schedule": "cosine"},
    "beta": {"guidance_schedule": "beta"},
}


OWN_CODE = [  # what only one of the ways uses, or autoguidance
    *((guidance_methods, name) for name in ("projected_guidance", "cfg_zero_star", "zero_velocity")),
    *((guidance_options.SHAPES, name) for name in ("linear", "cosine", "beta")),
    (guided_denoiser, "with_weaker"),
    (sampling_call, "cfg_plus_plus_scale"),
]
FEW = {name: WAYS[name] for name in ("apg", "zero-init", "cfg++")}  # those that remember steps or depend on the step


def classes(strength=1.0, **changes):
    """A class-conditional pipeline whose output is `strength` times that of random weights."""
    network = awake(Latte(LatteConfig(**{**CLASSES, **changes})))
    with torch.no_grad():
        network.final_linear.weight.mul_(strength)
    return LattePipeline(network)


def pipeline(kind):
    if kind == "text":
        return LattePipeline(awake(LatteT2V(LatteT2VConfig(**TEXT))))
    return classes(prediction="flow" if kind == "flow" else "eps")


def conditions(pipe):
    """The conditions of the two videos and their null conditions, as the network takes them."""
    return embeddings() if pipe.takes_prompts else torch.tensor([[0, 2], [3, 3]])


def embeddings(second=2):
    """Of the prompts and the negative prompts of two videos, (2, 2, 4, 6); `second` selects those of the second one."""
    torch.manual_seed(second)
    other = torch.randn(2, 1, 4, 6)
    torch.manual_seed(0)
    first = torch.randn(2, 1, 4, 6)
    return torch.cat([first, other], 1)


def latents(pipe, second=2, **options):
    """Two videos in five steps; `second` selects the condition of the second one."""
    embeds = embeddings(second)
    given = {"class_labels": [0, second]}
    if pipe.takes_prompts:
        away = {} if pipe.weaker is not None else {"negative_prompt_embeds": embeds[1]}
        given = {"prompt_embeds": embeds[0], **away}
    options = {"num_inference_steps": 5, "batch_size": 2, "guidance_scale": 3.0, "seed": 0, **options}
    return pipe(**given, progress=False, output_type="latent", **options).frames


@pytest.fixture(params=["classes", "text"])
def pipe(request):
    return pipeline(request.param)


@torch.no_grad()
def test_plain_guidance_matches_a_reference_loop(pipe):
    """Classifier-free guidance at a constant scale, to the bit, and without the code of any other way."""
    start = torch.randn(2, 4, 3, 4, 4)
    said = dict(guidance_method="cfg", guidance_options={}, guidance_schedule="constant")
    with fast_paths(False), trapped(*OWN_CODE):
        found = [latents(pipe, latents=start, **options) for options in ({}, said)]
    denoise = guided(pipe.transformer, *conditions(pipe), 3.0)
    *_, expected = ddim(denoise, start.transpose(1, 2), pipe.scheduler.schedule(5))
    assert all(torch.equal(each.transpose(1, 2), expected) for each in found)


TIMES = [900, 700, 450, 250, 50]
EXCESS = {  # of the scale over 1, at the time u in 0 to 1
    "linear": lambda u: 2 - 2 * u,
    "cosine": lambda u: 1 + math.cos(math.pi * u),
    "beta": lambda u: 6 * u * (1 - u),
}


def inner(p, q):
    """The inner product of each video."""
    return (p * q).sum((1, 2, 3, 4), keepdim=True)


def one_step(name, k, x, c, n, a, s, flow, before):
    """Step k of a way, as its paper describes it, from x = a x_0 + s eps.

    Args:
        c, n: The conditional and the negative noise in x.
        before: What the previous step returned last; 0 at first.

    Returns:
        The clean latents, the noise to add to them, and what the next step needs.
    """
    clean = lambda eps: (x - s * eps) / a
    if name == "cfg++":  # arXiv 2406.08070: the noise is that without a condition
        return clean(n + 0.7 * (c - n)), n, None
    if name.startswith("apg"):  # arXiv 2410.02416
        limit, momentum = (20, 0.0) if name == "apg, threshold" else (math.inf, -0.5)
        average = update = clean(c) - clean(n) + momentum * before
        update = update * (limit / (inner(update, update) / 3).sqrt()).clamp(max=1)  # 3 frames
        update = update - inner(update, clean(c)) / inner(clean(c), clean(c)) * clean(c)
        x0 = clean(c) + 2 * update
        return x0, (x - a * x0) / s, average
    if name in ("cfg-zero", "zero-init"):  # arXiv 2503.18886
        p, q = (1, 1) if flow else (a, s)  # of the velocity p eps - q x_0
        v, w = (p * eps - q * clean(eps) for eps in (c, n))
        w = inner(v, w) / inner(w, w) * w
        v = 0 * v if name == "zero-init" and k == 0 else w + 3 * (v - w)
        return (p * x - s * v) / (a * p + s * q), (q * x + a * v) / (a * p + s * q), None
    scale = 1 + 2 * EXCESS[name](TIMES[k] / 1000) if name in EXCESS else 3
    eps = c if name == "interval" and not 100 <= TIMES[k] <= 800 else n + scale * (c - n)
    return clean(eps), eps, None


@torch.no_grad()
@pytest.mark.parametrize("kind", ["classes", "text", "flow"])
@pytest.mark.parametrize("away", ["negative", "weaker"])
@pytest.mark.parametrize("name", [*WAYS, "interval", "constant"])
def test_every_way_matches_a_reference_loop(name, away, kind):
    """DDIM without fresh noise at unevenly spaced timesteps, away from the null condition or from a weaker model."""
    pipe, flow = pipeline(kind), kind == "flow"
    start, network = torch.randn(2, 4, 3, 4, 4), pipe.transformer
    options = {"guidance_interval": (100, 800)} if name == "interval" else WAYS.get(name, {})
    weaker = copy.deepcopy(network) if away == "weaker" else None
    if weaker is not None:
        for parameter in weaker.parameters():
            parameter.mul_(0.9)
        pipe.enable_autoguidance(weaker)
    with fast_paths(False):
        found = latents(pipe, latents=start, timesteps=TIMES, **options)
    x, before, (shown, null) = start.transpose(1, 2), 0, conditions(pipe)
    levels = [*pipe.scheduler.training_schedule().alphas_cumprod[TIMES].tolist(), 1.0]
    factors = [(level**0.5, (1 - level) ** 0.5) for level in levels]
    for k, ((a, s), (a_next, s_next)) in enumerate(pairwise(factors)):
        given = (x / (a + s if flow else 1), torch.full((2,), TIMES[k]))
        predictions = network(*given, shown), network(*given, null) if weaker is None else weaker(*given, shown)
        c, n = ((x + a * z) / (a + s) if flow else z for z in (out[:, :, :4] for out in predictions))
        x0, eps, before = one_step(name, k, x, c, n, a, s, flow, before)
        x = a_next * x0 + s_next * eps
    assert relative_error(found.transpose(1, 2), x) < 1e-5


@pytest.mark.parametrize("name", [*WAYS, "autoguidance"])
def test_every_way_reaches_its_own_code(name, pipe):
    if name == "autoguidance":
        pipe.enable_autoguidance(pipe.transformer)
    with trapped(*OWN_CODE), pytest.raises(Reached):
        latents(pipe, **WAYS.get(name, {}))


def test_every_method_changes_the_videos_and_matches_the_readable_network(pipe):
    found = [latents(pipe), latents(pipe, guidance_scale=1.0)]
    for options in WAYS.values():
        found.append(latents(pipe, **options))
        assert torch.equal(latents(pipe, **options), found[-1])  # nothing is remembered from the previous call
        with fast_paths(False):
            assert relative_error(latents(pipe, **options), found[-1]) < 1e-4
    assert all(relative_error(one, other) > 1e-4 for i, one in enumerate(found) for other in found[:i])


def test_a_video_does_not_depend_on_the_others_of_its_batch(pipe):
    for options in FEW.values():
        assert torch.equal(latents(pipe, **options)[0], latents(pipe, second=1, **options)[0])


def test_momentum_starts_fresh_in_each_call(pipe):
    """With and without momentum, only the first step is the same."""
    steps = {0.0: [], -0.5: []}
    for momentum, seen in steps.items():
        keep = lambda pipe, step, t, tensors, seen=seen: seen.append(tensors["latents"].clone())
        options = {"guidance_method": "apg", "guidance_options": {"momentum": momentum}}
        latents(pipe, **options, callback_on_step_end=keep)
    same = [torch.equal(one, other) for one, other in zip(*steps.values())]
    assert same == [True, False, False, False, False]


def test_zero_init_predicts_zero_velocity_in_the_first_steps():
    """With v = 0, DDIM multiplies latents by a a' + s s'."""
    pipe, seen = classes(), []
    keep = lambda pipe, step, t, tensors: seen.append(tensors["latents"].clone())
    start = torch.randn(2, 4, 3, 4, 4)
    options = {"guidance_method": "cfg-zero", "guidance_options": {"zero_steps": 2}}
    latents(pipe, latents=start, callback_on_step_end=keep, **options)
    abars = pipe.scheduler.schedule(5).alphas_cumprod.flip(0).tolist()
    for before, after, (here, there) in zip([start, *seen], seen[:2], pairwise(abars)):
        factor = (here * there) ** 0.5 + ((1 - here) * (1 - there)) ** 0.5
        torch.testing.assert_close(after, factor * before, rtol=1e-4, atol=1e-5)


def test_zero_init_leaves_evaluations_without_guidance_alone():
    pipe, seen = classes(), []
    keep = lambda pipe, step, t, tensors: seen.append(tensors["latents"].clone())
    options = {"guidance_interval": (0, 500), "callback_on_step_end": keep}
    plain, zero = latents(pipe, **options), latents(pipe, guidance_method="cfg-zero", **options)
    assert all(torch.equal(one, other) for one, other in zip(seen[:2], seen[5:7])) and not torch.equal(plain, zero)
    plain = latents(pipe, guidance_scale=1)
    pipe.sampling = Sampling(Guidance(3.0, method="cfg-zero"), 5)
    assert torch.equal(latents(pipe, guidance_scale=1), plain)


def test_plans_and_broadcasting_work_with_every_method(pipe):
    exact = {name: latents(pipe, **options) for name, options in FEW.items()}
    pipe.enable_plan(lambda plan: gate_guidance(plan, 3))
    for name, options in FEW.items():
        assert 1e-6 < relative_error(latents(pipe, **options), exact[name]) < 0.9
    pipe.disable_plan()
    pipe.enable_pyramid_attention_broadcast(2)
    for name, options in FEW.items():
        assert relative_error(latents(pipe, **options), exact[name]) > 1e-4


@pytest.mark.parametrize("count", [3, 0])
def test_autoguidance_matches_a_reference_loop(count):
    """DDIM with `autoguided`; networks of two depths, with and without classes."""
    pipe, weak = classes(num_classes=count), classes(2.0, depth=4, num_classes=count).transformer
    pipe.enable_autoguidance(weak)
    start, y = torch.randn(1, 4, 3, 4, 4), (torch.tensor([2]),) if count else ()
    shown = {"class_labels": [2]} if count else {"num_videos": 1}
    options = {"num_inference_steps": 5, "output_type": "latent", "progress": False, "guidance_scale": 2.5}
    found = pipe(**shown, latents=start, **options).frames
    denoise = autoguided(lambda x, t: pipe.transformer(x, t, *y), lambda x, t: weak(x, t, *y), 2.5)
    *_, expected = ddim(denoise, start.transpose(1, 2), pipe.scheduler.schedule(5))
    torch.testing.assert_close(found.transpose(1, 2), expected, rtol=1e-3, atol=1e-3)


def test_autoguidance_by_the_model_itself_has_no_effect(pipe):
    conditional, classifier_free = latents(pipe, guidance_scale=1.0), latents(pipe)
    pipe.enable_autoguidance(pipe.transformer)
    for options in ({}, WAYS["apg"], WAYS["linear"]):
        torch.testing.assert_close(latents(pipe, **options), conditional, rtol=1e-3, atol=1e-3)
    pipe.disable_autoguidance()
    assert torch.equal(latents(pipe), classifier_free)


REFUSED = [
    ({"guidance_scale": 1.0, "guidance_method": "apg"}, "guidance_method does nothing with guidance_scale 1"),
    ({"guidance_scale": 1.0, "guidance_schedule": "beta"}, "guidance_schedule does nothing with guidance_scale 1"),
    ({"guidance_options": {"momentum": 0}}, "'momentum' is unknown; cfg has no options"),
    ({"guidance_schedule": "square"}, "guidance_schedule is 'square', not one of constant, linear"),
    ({"guidance_method": "cfg++"}, r"guidance_scale is 3; with guidance_method cfg\+\+ it must be from 0 to 1"),
    ({**WAYS["cfg++"], "guidance_schedule": "linear"}, r"guidance_schedule linear does nothing with cfg\+\+"),
    ({**WAYS["cfg++"], "sampler": "heun"}, "sampler is heun: choose ddim or euler"),
]


@pytest.mark.parametrize(("options", "say"), REFUSED)
def test_ineffective_or_incompatible_options_are_rejected(options, say):
    with pytest.raises(ValueError, match=say):
        latents(classes(), **options)


def test_invalid_autoguidance_is_rejected():
    pipe = classes()
    with pytest.raises(ValueError, match="autoguidance needs two models of one kind; these are Latte and LatteT2V"):
        pipe.enable_autoguidance(pipeline("text").transformer)
    with pytest.raises(ValueError, match="autoguidance needs two models with the same num_classes; these have 3 and 2"):
        pipe.enable_autoguidance(classes(num_classes=2).transformer)
    pipe.enable_autoguidance(classes(2.0).transformer)
    with pytest.raises(
        ValueError, match="autoguidance does nothing with guidance_scale 1: set autoguidance_scale above 1"
    ):
        latents(pipe, guidance_scale=1.0)
    text = pipeline("text")
    text.enable_autoguidance(text.transformer)
    with pytest.raises(ValueError, match="negative_prompt does nothing with autoguidance"):
        text(prompt_embeds=torch.zeros(1, 2, 6), negative_prompt="dark", guidance_scale=3.0, output_type="latent")


def test_calibration_rejects_methods_with_memory():
    with pytest.raises(ValueError, match="apg's momentum remembers steps that calibration leaves out"):
        Replay(awake_pipeline(2), [0], 2, guidance_method="apg")
    replay = Replay(awake_pipeline(2), [0, 1], 3, guidance_scale=0.5, guidance_method="cfg++")
    assert replay.error(replay.sample(replay.exact, start=1)) == 0


def test_a_model_folder_can_set_the_guidance_method(tmp_path):
    way = Sampling(Guidance(3.0, (100, 900), "apg", {"momentum": -0.25}, "linear"), 7)
    save_sampling(way, tmp_path)
    assert load_sampling(tmp_path, 4.0) == way
    asked = way.guidance.asked(2.0, method="cfg-zero")
    assert asked == Guidance(2.0, (100, 900), "cfg-zero", {}, "linear")  # options of another method are dropped
    assert way.guidance.asked_in({"guidance_schedule": "constant", "eta": 1}).options == {"momentum": -0.25}
    (tmp_path / "sampling.json").write_text('{"guidance_method": "apx"}')
    with pytest.raises(ValueError, match=r"sampling.json: guidance_method is 'apx'"):
        load_sampling(tmp_path, 4.0)


def test_the_command_line_records_how_a_set_was_guided(tmp_path):
    model = write_model(awake_pipeline(2, ["left", "right"]), tmp_path / "model")
    other = LattePipeline(awake(Latte(LatteConfig(num_classes=2, **{**SIZE, "hidden_size": 32}))))
    weak = write_model(LattePipeline(other.transformer, awake_pipeline(2).vae), tmp_path / "weak")
    words = ["sample", str(model), "--n", "2", "--steps", "2", "--cfg-scale", "2", "--batch-size", "2"]
    way = ["--guidance-method", "apg", "--guidance-options", "momentum=-0.25", "--guidance-schedule", "cosine"]
    assert main([*words, "--out", str(tmp_path / "plain")]) == 0
    assert main([*words, *way, "--autoguidance", str(weak), "--out", str(tmp_path / "out")]) == 0
    plain, record = (json.loads((tmp_path / name / "samples.json").read_text()) for name in ("plain", "out"))
    assert not [name for name in (*plain, *plain["settings"]) if "guidance_" in name[8:] or name == "autoguidance"]
    added = {name: record["settings"][name] for name in record["settings"].keys() - plain["settings"].keys()}
    assert added == {"guidance_method": "apg", "guidance_options": {"momentum": -0.25}, "guidance_schedule": "cosine"}
    assert record["autoguidance"]["hidden_size"] == 32 and len(record["autoguidance"]["sha256"]) == 64
    assert record["files"] != plain["files"]
    assert main([*words, *way, "--out", str(tmp_path / "out")]) == 2  # made with other guidance
