"""Deployment files in docs/: the SLURM script, with stand-ins for SLURM; the Dockerfile; the notebook."""

import ast
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import time
from configparser import ConfigParser
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from latte.__main__ import run
from latte.cli import main
from latte.train.presets import PRESETS

ROOT = Path(__file__).parents[1]
SBATCH = {"job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "signal", "requeue"}
SBATCH |= {"open-mode"}  # options of sbatch, from its manual
WORDS = ["ucf101", "runs/ucf101", "global_batch_size=80"]
SRUN = """#!/bin/bash
printf '%s\\n' "$@" > srun.words
echo $$ > srun.pid.new; mv srun.pid.new srun.pid
trap 'exit {on_term}' TERM
{work}
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'node-%s\\n' 7 8; else echo "$@" >> requeued; fi
"""
SCANCEL = """#!/bin/bash
echo "$@" > cancelled
kill -TERM "$(cat srun.pid)"
"""
WAITS = "while :; do sleep 0.02; done"


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """Submits docs/train.slurm to a stand-in for SLURM: sbatch(work, on_term) -> the process of the batch script."""

    def submit(work="exit 0", on_term=143, words=WORDS):
        stubs = {"srun": SRUN.format(work=work, on_term=on_term), "scontrol": SCONTROL, "scancel": SCANCEL}
        for name, text in stubs.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        environment = {"SLURM_JOB_ID": "31", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node-[7-8]"}
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        command = ["bash", str(ROOT / "docs/train.slurm"), *words]
        return subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **environment, "PATH": path}, stderr=-1)

    return submit


def at_the_limit(job: subprocess.Popen, folder: Path) -> int:
    """Signal a job as SLURM does before its time limit, once its step runs; return its exit status."""
    end = time.monotonic() + 20
    while not (folder / "srun.pid").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    return job.wait(20)


def test_the_script_starts_the_training_that_it_is_given(sbatch, tmp_path):
    assert sbatch().wait(20) == 0 and not (tmp_path / "requeued").exists()
    torchrun, *words = (tmp_path / "srun.words").read_text().splitlines()
    args = get_args_parser().parse_args(words)
    assert torchrun == "torchrun" and (args.nnodes, args.nproc_per_node, args.rdzv_id) == ("2", "8", "31")
    assert (args.rdzv_endpoint, args.rdzv_backend, args.module) == ("node-7:29500", "c10d", True)
    assert [args.training_script, *args.training_script_args] == [
        *("latte", "train", "--config", "ucf101", "--run-dir", "runs/ucf101", "global_batch_size=80")
    ]
    assert args.training_script_args[2] in PRESETS


def test_at_the_time_limit_the_job_saves_and_is_requeued(sbatch, tmp_path):
    assert at_the_limit(sbatch(WAITS), tmp_path) == 143
    assert (tmp_path / "cancelled").read_text() == "--signal=TERM 31.0\n"
    assert (tmp_path / "requeued").read_text() == "requeue 31\n"


def test_finished_or_failed_training_is_not_requeued(sbatch, tmp_path):
    assert at_the_limit(sbatch(WAITS, on_term=0), tmp_path) == 0
    assert sbatch("exit 7").wait(20) == 7
    job = sbatch(words=["ucf101"])
    assert job.wait(20) == 2 and b"usage: sbatch docs/train.slurm CONFIG RUN" in job.stderr.read()
    assert not (tmp_path / "requeued").exists()


def test_the_script_requests_what_it_relies_on():
    text = (ROOT / "docs/train.slurm").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.MULTILINE))
    assert options.keys() == SBATCH and options["open-mode"] == "append"
    seconds = int(re.fullmatch(r"B:USR1@(\d+)", options["signal"])[1])
    timeout = int(re.search(r"--shutdown-timeout (\d+)", text)[1])
    assert timeout < seconds and f"--nproc-per-node {options['gpus-per-node']} " in text


def instructions() -> list[tuple[str, str]]:
    """The (keyword, arguments) of each instruction in the Dockerfile."""
    lines = [line for line in (ROOT / "docs/Dockerfile").read_text().splitlines() if line and line[0] != "#"]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_the_dockerfile_copies_what_the_package_is_built_of():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    folders = {line.split("=")[1].strip() for line in config["options"]["package_dir"].split("\n") if line}
    copied = {name: rest.split()[-1] for word, rest in instructions() if word == "COPY" for name in rest.split()[:-1]}
    assert copied.keys() == folders | {"setup.cfg", "pyproject.toml", "README.md", "LICENSE"}
    assert all((ROOT / name).exists() for name in copied)
    assert all(copied[name] == f"/src/{name}" for name in folders)
    kept = (ROOT / "docs/Dockerfile.dockerignore").read_text().split("\n")
    assert {line[1:] for line in kept if line[:1] == "!"} == copied.keys()
    extras = next(rest for word, rest in instructions() if rest.startswith("EXTRAS="))
    assert set(shlex.split(extras)[0].removeprefix("EXTRAS=").split(",")) <= set(config["options.extras_require"])
    assert f"latte = {run.__module__}:{run.__name__}" in config["options.entry_points"]["console_scripts"]


def test_the_commands_of_the_dockerfile_are_valid(tmp_path):
    words = [word for word, _ in instructions()]
    assert (
        set(words) <= {"FROM", "ARG", "RUN", "COPY", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
        and words[0] == "FROM"
    )
    assert [ast.literal_eval(rest) for word, rest in instructions() if word in ("ENTRYPOINT", "CMD")] == [
        ["latte"],
        ["--help"],
    ]
    (tmp_path / "pip").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "pip").chmod(0o700 | stat.S_IRWXU)
    install, own, user = (rest for word, rest in instructions() if word == "RUN")
    run = lambda line, **names: subprocess.run(
        ["sh", "-ec", line], env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **names}, capture_output=True, text=True
    ).stdout.split("\n")[:-1]
    assert run(install, TORCH="torch>=2.10", TORCH_INDEX="") == ["install", "--no-cache-dir", "torch>=2.10"]
    cpu = run(install, TORCH="torch>=2.10", TORCH_INDEX="https://index/cpu")
    assert cpu == ["install", "--no-cache-dir", "--index-url", "https://index/cpu", "torch>=2.10"]
    assert run(own, EXTRAS="plot,eval") == ["install", "--no-cache-dir", "/src[plot,eval]"]
    assert subprocess.run(["sh", "-n", "-c", user]).returncode == 0


def test_the_container_runs_as_a_user_whose_folders_any_user_can_write():
    words, rests = zip(*instructions())
    user, home = "latte", "/home/latte"
    assert [rest for word, rest in instructions() if word == "USER"] == [user]
    made = rests[words.index("USER") - 2]
    assert made.startswith(f"useradd --create-home {user} ") and made.endswith(f"chmod a+rwx {home} {home}/data")
    assert not {"RUN", "COPY"} & {*words[words.index("USER") :]}  # all else is root's
    assert f"HOME={home}" in rests[words.index("ENV")].split() and rests[words.index("WORKDIR")] == f"{home}/data"
    for text in ((ROOT / "docs" / name).read_text() for name in ("Dockerfile", "install.md")):
        runs = re.findall(r"^(?:# *)?docker run .*$", text, re.MULTILINE)
        assert runs and all('--user "$(id -u)" ' in run and f':{home}/data" latte' in run for run in runs)


def test_the_notebook_has_no_outputs_and_its_commands_exist(capsys):
    notebook = json.loads((ROOT / "docs/first-steps.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    commands = []
    for cell in cells:
        assert cell["outputs"] == [] and cell["execution_count"] is None
        text = "".join(cell["source"]).replace("\\\n", " ")
        ast.parse(re.sub(r"^(\s*)[!%].*$", r"\1pass", text, flags=re.MULTILINE))
        commands += re.findall(r"^!(latte .*)$", text, re.MULTILINE)
    assert [command.split()[1] for command in commands] == ["train", "eval"]
    for command in commands:
        with pytest.raises(SystemExit):
            main([command.split()[1], "--help"])
        known = capsys.readouterr().out
        assert all(word in known for word in command.split() if word.startswith("--")), command
