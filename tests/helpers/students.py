"""Small teachers, and the settings of students that learn from them."""

from pathlib import Path

from small_runs import run, small, small_t2v

STUDENT = ["model.class_dropout_prob=0", "teacher_steps=16", "steps=2", "clips=4", "save_every=1", "learning_rate=1e-3"]
FLOW = ["classes=false", "model.prediction=flow"]
KINDS = {  # the settings of a teacher, and those of its student
    "classes": (small, [], [*STUDENT, "teacher_guidance=3", "guided_from=300"]),
    "unconditional flow": (small, FLOW, [*FLOW, *STUDENT[1:]]),
    "text": (small_t2v, [], [*STUDENT[1:], "teacher_guidance=3", "sample_guidance=0"]),
}


def teacher_folder(kind: str, vae: Path, root: Path) -> Path:
    """The folder of a teacher that has learned a little, trained unless it is there."""
    make, words, _ = KINDS[kind]
    if not (root / kind / "final").exists():
        run(make(vae, "steps=2", "clips=4", "warmup=0", "learning_rate=3e-2", *words), root / kind)
    return root / kind / "final"


def student_of(kind: str, vae: Path, teacher: Path, *words: str, moments: bool = False):
    """The configuration of a student: of consistency distillation, or of moment matching."""
    make, _, settings = KINDS[kind]
    if moments:
        kept = (word for word in settings if not word.startswith("teacher_steps"))
        settings = [*kept, "distillation=moments", "warmup=0"]
    return make(vae, f"teacher={teacher}", f"init={teacher}", *settings, *words)
