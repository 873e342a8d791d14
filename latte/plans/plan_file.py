"""Plans as files: JSON, one evaluation per line."""

import json
from pathlib import Path
from typing import Any

from latte.files import read_json, write_text
from latte.plans.named_rules import RULES
from latte.plans.records import KINDS, Evaluation, Plan, Reuse, Threshold

FORMAT = 1
MOST_EVALUATIONS = 4000  # twice as many as the most steps of a sampler with two evaluations each
FOLDER = "plans"  # in a model's folder; plans in it are found by name


def find_plan(name: str, folder: Path | None) -> Path | None:
    """The file of a plan, given by its path or by its name among the plans in a model's folder; None without one."""
    if Path(name).is_file():
        return Path(name)
    if folder is not None and name in plan_names(folder):
        return folder / FOLDER / f"{name}.json"
    return None


def no_plan(name: str, folder: Path | None) -> ValueError:
    """The error that there is no plan of this name, with the names that there are."""
    there = plan_names(folder)
    known = f"the model's plans are {', '.join(there)}" if there else "the model has no plans"
    rules = f"the rules are {', '.join(RULES)} (`latte plan --help`)"
    return ValueError(f"there is no plan {name!r}: {known}; `latte calibrate` makes one; {rules}")


def plan_names(folder: Path | None) -> tuple[str, ...]:
    """The names of the plans in a model's folder."""
    return tuple(sorted(path.stem for path in (folder / FOLDER).glob("*.json"))) if folder is not None else ()


def copy_plans(source: Path, folder: Path) -> None:
    """Copy the plans in a model's folder to another model folder; plans of the same name are replaced."""
    for path in sorted((source / FOLDER).glob("*.json")):
        target = folder / FOLDER / path.name
        if not (target.exists() and target.samefile(path)):
            write_text(target, path.read_text())


def plan_text(plan: Plan, about: dict[str, Any] | None = None) -> str:
    """A plan as the text of its file, with additional facts about it."""
    head = {"plan": FORMAT, "after_gate": plan.after_gate, **({"about": about} if about else {})}
    lines = [json.dumps(to_values(evaluation)) for evaluation in plan.evaluations]
    start = json.dumps(head, indent=2).removesuffix("\n}")
    return start + ',\n  "evaluations": [\n    ' + ",\n    ".join(lines) + "\n  ]\n}\n"


def write_plan(plan: Plan, path: Path, about: dict[str, Any] | None = None) -> Path:
    """Write a plan atomically, and return its path.

    Args:
        plan: The plan.
        path: A .json file.
        about: Additional facts to record, such as its measured error.
    """
    return write_text(path, plan_text(plan, about))


def to_values(evaluation: Evaluation) -> dict[str, Any]:
    """A record as JSON values; defaults are left out."""
    values: dict[str, Any] = {"timestep": evaluation.timestep}
    if evaluation.reuse:
        values["reuse"] = {kind: reuse_values(reuse) for kind, reuse in evaluation.reuse.items()}
    if evaluation.branch != "both":
        values["branch"] = evaluation.branch
    if evaluation.bands != (1.0, 1.0):
        values["bands"] = list(evaluation.bands)
    return values


def reuse_values(reuse: Reuse) -> dict[str, Any]:
    """See to_values."""
    values: dict[str, Any] = {"weights": list(reuse.weights)}
    if reuse.places is not None:
        values["places"] = sorted(reuse.places)
    if reuse.threshold is not None:
        values["limit"], values["polynomial"] = reuse.threshold.limit, list(reuse.threshold.polynomial)
    return values


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        ValueError: The file is missing, damaged, or does not hold a plan that can be followed.
    """
    try:
        values = read_json(path)
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    try:
        return plan_of(values)
    except ValueError as error:
        raise ValueError(f"{path} is not a plan that can be followed: {error}") from error


def plan_of(values: dict[str, Any]) -> Plan:
    """Build a plan from a file's values; raises ValueError if they are invalid."""
    check_keys("the file", values, {"plan", "evaluations"}, {"after_gate", "about"})
    if values["plan"] != FORMAT:
        raise ValueError(f"plan is {values['plan']!r}; this version reads format {FORMAT}")
    if not isinstance(values.get("after_gate", False), bool):
        raise ValueError("after_gate must be true or false")
    records = values["evaluations"]
    if not isinstance(records, list) or not 1 <= len(records) <= MOST_EVALUATIONS:
        raise ValueError(f"evaluations must be a list of 1 to {MOST_EVALUATIONS} records")
    return Plan(tuple(evaluation_of(k, record) for k, record in enumerate(records)), values.get("after_gate", False))


def evaluation_of(k: int, values: Any) -> Evaluation:
    """Build a record from a file's values."""
    where = f"evaluation {k}"
    check_keys(where, values, {"timestep"}, {"reuse", "branch", "bands"})
    (timestep,) = numbers(f"{where}: timestep", [values["timestep"]])
    reuse = values.get("reuse", {})
    check_keys(f"{where}: reuse", reuse, set(), set(KINDS))
    low, high = numbers(f"{where}: bands", values.get("bands", [1.0, 1.0]), 2)
    made = {kind: reuse_of(f"{where}: {kind}", value) for kind, value in reuse.items()}
    return Evaluation(timestep, made, values.get("branch", "both"), (low, high))


def reuse_of(where: str, values: Any) -> Reuse:
    """Build a Reuse from a file's values."""
    check_keys(where, values, {"weights"}, {"places", "limit", "polynomial"})
    places, threshold = values.get("places"), None
    if places is not None:
        if not isinstance(places, list) or not all(type(place) is int and place >= 0 for place in places):
            raise ValueError(f"{where}: places must be a list of whole numbers, 0 or more")
        places = frozenset(places)
    if "polynomial" in values and "limit" not in values:
        raise ValueError(f"{where}: polynomial does nothing without limit")
    if "limit" in values:
        (limit,) = numbers(f"{where}: limit", [values["limit"]])
        threshold = Threshold(limit, numbers(f"{where}: polynomial", values.get("polynomial", [1.0, 0.0])))
    return Reuse(numbers(f"{where}: weights", values["weights"]), places, threshold)


def numbers(where: str, values: Any, count: int | None = None) -> tuple[float, ...]:
    """Read one or more finite numbers from a file's values."""
    good = isinstance(values, list) and all(type(value) in (int, float) and abs(value) < 1e9 for value in values)
    if not good or not values or (count is not None and len(values) != count):
        raise ValueError(f"{where} must be {f'{count} numbers' if count else 'numbers'}, in -1e9 to 1e9")
    return tuple(values)


def check_keys(where: str, values: Any, needed: set[str], others: set[str]) -> None:
    """Raise ValueError unless values are an object with all needed keys and no unknown ones."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be a JSON object")
    if lacking := needed - values.keys():
        raise ValueError(f"{where} lacks {min(lacking)!r}")
    if unknown := values.keys() - needed - others:
        raise ValueError(f"{where} has unknown key {min(unknown)!r}; it may have {', '.join(sorted(needed | others))}")
