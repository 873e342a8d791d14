"""Choices and defaults of the options, copied from modules that load PyTorch.

A test checks that every value here equals its definition.
"""

SAMPLERS = (  # latte.scheduler
    *("ddpm", "ddim", "euler", "euler_ancestral", "heun"),
    *("kdpm2_ancestral", "pndm", "deis", "dpm_multistep", "dpm_singlestep"),
)
DTYPES = ("float32", "float16", "bfloat16")  # latte.weights.tensors
STORED_DTYPES = (*DTYPES, "int8")  # latte.commands.convert
LATENT_DTYPES = ("float32", "float16")  # latte.commands.encode
BROADCAST_KINDS = ("spatial", "temporal", "cross", "mlp")  # latte.pab
FPS_RANGE = (0.1, 1000.0)  # latte.video.write

LAYOUTS = {  # latte.train.data.layouts
    "ffs": "FaceForensics: avi or mp4 files",
    "ucf101": "UCF101: Class/video.avi",
    "sky": "SkyTimelapse: folders of frames",
    "taichi": "Taichi-HD: folders of frames",
    "folder": "any videos; two or more subfolders are classes",
    "shapes": "the built-in moving shapes, written as videos",
}
SELECTIONS = ("stride", "linspace", "crop")  # latte.train.data.windows
WHEN_DAMAGED = ("raise", "take")  # latte.video.damage
DRAWN_BY_DEFAULT = 256  # latte.train.data.prepare_videos
ORIGINAL_SIZE = 256  # latte.train.data.frame_list

PROTOCOLS = (  # latte.eval.protocol
    *("exact", "stylegan-v", "stylegan-v-128f", "stylegan-v-128f-subsample8f", "latte", "latte-taichi", "tf"),
    *("cd-fvd", "far"),
)
DEFAULT_SCORE, SCORE_PROTOCOLS = "stylegan-v", ("tgan2", "stylegan-v")  # latte.eval.video_inception_score
SCALE_STEPS = {"small": 1480, "paper": 150_000}  # latte.eval.ablate.definitions
ABLATIONS = (  # latte.eval.ablate.definitions
    *("variants", "patch-embedding", "conditioning", "temporal-position", "initialisation", "joint-images"),
    *("interval", "size", "samplers", "guidance", "modern"),
)
GUIDANCE_WAYS = (  # latte.eval.bench.guidance_variety
    *("cfg", "interval", "apg", "cfg-zero", "cfg++", "linear", "cosine", "beta", "autoguidance"),
)
LEAST_MANIFOLD = 6  # latte.eval.manifold: more than its nearest neighbours
SOURCES = ("latents", "video")  # latte.eval.bench.train_speed
BLOCKS = ("fast", "readable", "original")  # latte.eval.bench.train_speed
GPU_FORMS = ("packed", "graphs", "float8", "graphs-float8")  # latte.eval.bench.gpu_forms
LEAST_FRAMES = 9  # latte.eval.networks.i3d
SHAPE_FEATURES = "shapes-features"  # latte.eval.networks.shape_features
