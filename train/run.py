"""A training run: its networks, optimiser and objective, and its state in a run folder."""

import copy
import hashlib
import warnings
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from latte.fast import training_blocks
from latte.fast.switch import is_enabled
from latte.processes import Ranks
from latte.train import checkpoint, parallel
from latte.train.base_config import TrainConfig
from latte.train.changes import changed_settings, check_steps, told
from latte.train.config_tables import complete
from latte.train.data.clips import TrainingData
from latte.train.data.kept_latents import keep_latents
from latte.train.distance import DistanceToReal
from latte.train.export import save_result
from latte.train.objectives import Captioned, Objective, objective
from latte.train.objectives.denoising import Denoising
from latte.train.optimizer import make_optimizer
from latte.train.parallel import FixedPointGradients, Loss, ReplicatedGradients, ShardedGradients
from latte.train.power_average import LENGTHS, update_power_average
from latte.train.precision import COMPUTE_DTYPES, check_precision, keep_in_float32
from latte.train.previews import preview, sample_videos
from latte.train.run_card import last_scores
from latte.train.snapshots import average_name, save_snapshot
from latte.train.step import StepHistory, optimizer_step, update_ema
from latte.train.watch import SAMPLES, write_grid
from latte.weights.find_models import FINAL

FIRST_LOSS_SCALE = 2.0**14  # with fp16
MAX_FAILED_SAVES = 3  # in a row
DATA = {"clips": "the videos", "classes": "the names of classes", "vae": "the VAE", "teacher": "the teacher"}


class Run:
    """A training run in this process.

    Args:
        config: The settings.
        folder: The run folder.
        clips: The training data.
        device: The device to compute on.
        ranks: This process among all.
        asked: The tunable settings that may differ from those of the resumed run (latte.train.changes).

    Attributes:
        objective: The loss, and the data that it takes (latte.train.objectives).
        network: The network that learns.
        ema: Its exponential moving average, which samples and evaluations use.
        averages: With config.average_every, the two further averages of snapshots, by length (latte.train.snapshots).
        unsharded: With config.shard, the network on the meta device, to gather weights into; otherwise None.
        optimizer, gradients: What updates the weights, and what computes and shares the gradients.
        history: Skipped steps and the loss scale.
        changes: Settings that changed on resuming.
        records: JSON files of a checkpoint besides state.json, by name.
        state: What identifies the run in state.json: its settings, and digests of its data.

    Raises:
        ValueError: The settings do not fit the data, the VAE, the device or the number of processes.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        clips: TrainingData,
        device: torch.device,
        ranks: Ranks,
        asked: Collection[str] = (),
    ):
        self.config, self.folder, self.device, self.ranks, self.asked = config, folder, device, ranks, asked
        meshes = parallel.arrange(config, ranks, device)
        parallel.micro_batches(config, ranks)
        check_precision(config.precision, device)
        ranks.agree("data", clips.former_fingerprint)
        torch.manual_seed(config.seed)
        resumes = ranks.first_only(lambda: bool(checkpoint.list_checkpoints(folder)))
        self.objective = objective(clips, config, device, folder if resumes else None)
        self.failures = clips.failures
        self.network = self.objective.network().train().to(device)
        self.ema = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.unsharded = copy.deepcopy(self.ema).to("meta") if config.shard else None  # without weights
        self.averages = {z: copy.deepcopy(self.ema) for z in LENGTHS} if config.average_every else {}
        if isinstance(self.objective, Denoising):
            self.objective.attach(self.network, self.ema)
        for network in (self.network, self.ema, *self.averages.values()) if meshes and config.shard else ():
            parallel.shard(network, meshes[1])
        if config.fast and is_enabled() and not config.compile:
            training_blocks.attach(self.network)
            for teacher in self.objective.teachers if isinstance(self.objective, Denoising) else ():
                training_blocks.attach_frozen(teacher, COMPUTE_DTYPES[config.precision] != torch.float32)
        if meshes and config.sequence_parallel > 1:
            parallel.share_clips(self.network, meshes[0])
        keep_in_float32(self.network)
        for block in parallel.outermost_blocks(self.network) if config.compile else ():
            block.compile()
        self.optimizer = make_optimizer(config, self.network)
        replicated = FixedPointGradients if config.deterministic_reduce else ReplicatedGradients
        gradients = ShardedGradients if config.shard else replicated
        groups = ranks.size // config.sequence_parallel
        self.gradients = gradients(Loss(self.objective, self.network, config.precision), ranks, groups)
        self.history = StepHistory(scale=first_scale(config.precision))
        self.changes: list[dict[str, Any]] = []  # of the settings, made on resuming
        self.failed_saves = 0  # in a row
        self.distance: DistanceToReal | None = None  # of the first process
        if config.eval_every:
            ranks.first_only(lambda: setattr(self, "distance", DistanceToReal(config, clips, device)))
        self.records = {"config": asdict(self.network.config)}
        digests = ranks.first_only(lambda: data_digests(self.objective))  # this may read all data
        self.state = {"run": asdict(config), "data": digests}
        if clips.names:
            self.records["classes"] = {"names": clips.names}

    def prepare(self, first: int) -> None:
        """Get the data ready before step `first`. Latents that are encoded in advance are kept in the run folder."""
        if isinstance(self.objective, Denoising):
            kept = keep_latents(self.folder, self.config, self.state["data"], self.ranks.first)
            self.objective.source.kept, self.objective.source.ranks = kept, self.ranks
        self.objective.prepare(parallel.micro_batches(self.config, self.ranks), first)

    def step(self, step: int) -> dict[str, float]:
        """Take a step, counted from 0, and return the numbers to log."""
        skipped = len(self.history.skipped)
        logged = optimizer_step(self.config, self.gradients, self.optimizer, step, self.ranks, self.history)
        if len(self.history.skipped) == skipped:
            update_ema(self.ema, self.network, self.config.ema_decay, step)
        for length, average in self.averages.items():  # also after a skipped step, which keeps the weights
            update_power_average(average, self.network, length, step)
        return {**logged, **({"skipped": len(self.history.skipped)} if self.history.skipped else {})}

    def save(self, done: int, ends: bool = False) -> None:
        """Save a checkpoint. If that fails, warn and continue, unless the run ends or saving keeps failing.

        Args:
            done: How many steps are done.
            ends: Whether the process ends after this checkpoint.

        Raises:
            OSError: Saving failed at the end, or MAX_FAILED_SAVES times in a row.
        """
        model, ema = parallel.gather_weights(self.network), parallel.gather_weights(self.ema)
        head = {name: model.pop(name) for name in list(model) if name not in ema}  # what Denoising.attach added
        tensors = {"model": model, "ema": ema, "optimizer": parallel.gather_optimizer(self.network, self.optimizer)}
        tensors |= {average_name(length): parallel.gather_weights(average) for length, average in self.averages.items()}
        tensors |= {"head": head} if head else {}
        self.ranks.first_only(lambda: self.write_checkpoint(done, tensors, ends))

    def save_snapshot(self, done: int) -> None:
        """Save a snapshot of the power-function averages if one is due after `done` steps. If that fails, warn."""
        if not self.averages or (done % self.config.average_every and done < self.config.steps):
            return
        averages = {length: parallel.gather_weights(average) for length, average in self.averages.items()}
        about = {"classes": self.objective.clips.names, "vae": self.state["data"]["vae"]}

        def write() -> None:
            try:
                save_snapshot(self.folder, done, averages, self.records["config"], about)
            except (OSError, ValueError, SafetensorError) as error:
                words = f"{self.folder}: no snapshot of the averages at step {done}, training continues: {error}"
                warnings.warn(words, stacklevel=2)

        self.ranks.first_only(write)

    def write_checkpoint(self, done: int, tensors: dict[str, dict[str, Tensor]], ends: bool) -> None:
        """Write the tensors of a checkpoint, as `save` does, in the first process."""
        state = {**self.state, "step": done, "health": asdict(self.history), "changes": self.changes}
        try:
            keeping = (self.config.keep, self.config.keep_every)
            checkpoint.save(self.folder, done, tensors, {**self.records, "state": state}, *keeping)
            self.failed_saves = 0
        except (OSError, SafetensorError) as error:
            self.failed_saves += 1
            if ends or self.failed_saves == MAX_FAILED_SAVES:
                which = f"the last step, {done}," if ends else f"{MAX_FAILED_SAVES} checkpoints in a row"
                advice = "free some space, then run the same command to resume from the last checkpoint"
                raise OSError(f"{self.folder}: {which} could not be saved: {error}: {advice}") from error
            warnings.warn(f"{self.folder}: step {done} is not saved, training continues: {error}", stacklevel=2)

    def restore(self) -> int:
        """Load the newest checkpoint that is not damaged.

        Returns:
            How many steps are done; 0 if there is no checkpoint.

        Raises:
            ValueError: The checkpoint has different settings or data, or more steps than the settings ask for.
        """
        folder = self.ranks.first_only(lambda: checkpoint.latest(self.folder))
        if folder is None:
            return 0
        state = self.ranks.first_only(lambda: checkpoint.read_state(folder))
        changed = self.check_same_run(state)

        def read(name: str) -> dict[str, Tensor]:
            """The tensors of a file, in the first process, which sends them to the others."""
            tensors: dict[str, Tensor] = {}
            self.ranks.first_only(lambda: tensors.update(checkpoint.load_tensors(folder, name)))
            return tensors

        count = lambda network: len(list(network.parameters()))
        head = read("head") if count(self.network) > count(self.ema) else {}
        parallel.scatter_weights(self.network, read("model") | head, self.ranks)
        parallel.scatter_weights(self.ema, read("ema"), self.ranks)
        parallel.scatter_optimizer(self.network, self.optimizer, read("optimizer"), self.ranks)
        for length, average in self.averages.items():
            parallel.scatter_weights(average, read(average_name(length)), self.ranks)
        self.history = StepHistory(**state["health"])
        if "precision" in changed and "fp16" in changed["precision"].values():
            self.history.scale, self.history.good = first_scale(self.config.precision), 0
        done = state["step"]
        self.changes = state.get("changes", [])
        if changed and "steps" not in changed and done == self.config.steps:
            self.undo(changed)
        elif changed:
            self.changes = [*self.changes, {"after_step": done, "settings": changed}]
        if self.config.init != (began := state["run"].get("init", "")):
            if self.config.init and self.ranks.first:
                advice = "to start from other weights, choose another folder"
                words = f"init={self.config.init} has no effect: {self.folder} holds a run with {done} steps; {advice}"
                warnings.warn(words, stacklevel=2)
            self.config = replace(self.config, init=began)  # what the run did start from
            self.state["run"]["init"] = began
        elif changed.keys() & self.asked and self.ranks.first:
            warnings.warn(told(self.folder, done, changed), stacklevel=2)
        return done

    def undo(self, changed: dict[str, dict[str, Any]]) -> None:
        """Go back to the settings with which a finished run took its steps; warn that changes have no effect."""
        self.config = replace(self.config, **{name: change["from"] for name, change in changed.items()})
        self.state["run"] = asdict(self.config)
        if self.ranks.first:
            names = ", ".join(f"{name}={change['to']}" for name, change in changed.items())
            have = "has" if len(changed) == 1 else "have"
            words = f"{names} {have} no effect: {self.folder} has done all its steps; give a larger steps=N as well"
            warnings.warn(words, stacklevel=3)

    def check_same_run(self, state: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Compare this run with a checkpoint's state.json.

        Returns:
            The settings that change, as from `changed_settings`.

        Raises:
            ValueError: The checkpoint belongs to another run, or is past the last step of this one.
        """
        changed = changed_settings(self.folder, self.config, complete(state["run"]), self.asked)
        before, now = state["data"], self.state["data"]
        if before.get("clips") == self.objective.clips.former_fingerprint:
            before = {**before, "clips": now["clips"]}
        if differ := sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
            parts = [DATA.get(name, name) for name in differ]
            said = f"{self.folder} holds a run on different data ({', '.join(parts)})"
            said += ": restore them, or choose another folder"
            lists = "; a folder of videos and a list of it by `latte prepare` count as different" * ("clips" in differ)
            raise ValueError(f"{said}{lists}")
        check_steps(self.folder, self.config, state["step"])
        return changed

    def averaged_network(self) -> nn.Module | None:
        """The network with the averaged weights, not sharded. None in all processes but the first."""
        if self.unsharded is None:
            return self.ema if self.ranks.first else None
        tensors = parallel.gather_weights(self.ema)
        if not self.ranks.first:
            return None
        network = copy.deepcopy(self.unsharded)
        network.load_state_dict(tensors, assign=True)
        return network.to(self.device)

    def write_samples(self, done: int) -> Path | None:
        """Write a grid of samples of the averaged weights, in the first process. If that fails, warn."""
        if (network := self.averaged_network()) is None:
            return None
        try:
            return write_grid(*preview(self.objective, network), self.folder / SAMPLES, done)
        except (OSError, ValueError, torch.OutOfMemoryError) as error:
            warnings.warn(f"{self.folder}: no samples at step {done}, training continues: {error}", stacklevel=2)
            return None

    def evaluate(self) -> dict[str, float]:
        """The distance of samples of the averaged weights to real clips, in the first process. If it fails, warn."""
        if (network := self.averaged_network()) is None:
            return {}
        try:
            return self.distance(sample_videos(self.objective, network, self.config.eval_clips))
        except (OSError, ValueError, torch.OutOfMemoryError) as error:
            warnings.warn(f"{self.folder}: evaluation failed, training continues: {error}", stacklevel=2)
            return {}

    def finish(self) -> Path:
        """Write the averaged weights to final/, and return its path."""
        final = self.folder / FINAL
        if (network := self.averaged_network()) is not None:
            save_result(self.objective, network, final, self.changes, last_scores(self.folder))
        return final


def data_digests(objective: Objective) -> dict[str, Any]:
    """Return digests that identify the data of a run, which must be unchanged when it resumes."""
    digests = {"clips": objective.clips.fingerprint}
    if isinstance(objective, Denoising):
        digests |= {"classes": objective.clips.names, "vae": objective.vae_digest}
        digests |= {"teacher": objective.distillation.digest} if objective.distillation else {}
    if isinstance(objective, Captioned):
        digests["vocabulary"] = hashlib.sha256(objective.tokenizer.vocabulary).hexdigest()
    return digests


def first_scale(precision: str) -> float:
    """The loss scale that training starts with."""
    return FIRST_LOSS_SCALE if precision == "fp16" else 1.0
