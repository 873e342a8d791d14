"""The rules that have names: their options, and the words that stand for them, such as network:17,order=1+gate:40%.

Nothing here loads PyTorch, so that the command line checks such words at once.
"""

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from latte.plans.records import ATTENTION, LAYERS, Plan
from latte.plans.rules import faster_cache, gate_guidance, repeat, repeat_blocks, tea_cache

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Percent:
    """A share of a plan's evaluations, in percent."""

    value: float

    def of(self, count: int) -> int:
        """The nearest number of evaluations, at least 1."""
        return max(1, round(self.value / 100 * count))


@dataclass(frozen=True)
class Kind:
    """What an option may be.

    Attributes:
        read: Its value, from text; raises ValueError if it is not valid.
        words: What is valid, in words.
    """

    read: Callable[[str], Any]
    words: str


@dataclass(frozen=True)
class NamedRule:
    """A rule with a name.

    Attributes:
        apply: The rule: takes a plan and the options by name.
        options: Its options. The first one may be given without its name.
        needed: Whether the first option must be given.
        kinds: What it reuses. A model needs at least one of them; an empty tuple means that any model has it.
        what: What it does.
        example: An example.
    """

    apply: Callable[..., Plan]
    options: dict[str, Kind]
    what: str
    example: str
    needed: bool = False
    kinds: tuple[str, ...] = ()


def whole(text: str, least: int = 0, most: int | None = None) -> int:
    """Read a whole number within bounds."""
    value = int(text) if text.isdecimal() else -1
    if value < least or (most is not None and value > most):
        raise ValueError(text)
    return value


def number(text: str, least: float = -1e9, most: float = 1e9) -> float:
    """Read a finite number within bounds."""
    if not least <= float(text) <= most:
        raise ValueError(text)
    return float(text)


def percent_or(read: Callable[[str], Any], text: str) -> Any:
    """Read a percentage such as 30%, or else another value."""
    return Percent(number(text[:-1], 0, 100)) if text.endswith("%") else read(text)


def several(read: Callable[[str], Any], text: str) -> tuple:
    """Read values that are separated by slashes."""
    return tuple(read(part) for part in text.split("/"))


def count_or_list(text: str) -> int | tuple[int, ...]:
    """Read how many evaluations to compute, or which."""
    return several(whole, text) if "/" in text else whole(text, 1)


COMPUTED = Kind(
    partial(percent_or, count_or_list), "how many evaluations, a share such as 30%, or a list such as 0/5/9"
)
WHICH = Kind(partial(percent_or, whole), "the number of an evaluation, or a share of them, such as 30%")
ORDER = Kind(partial(whole, most=2), "0, 1 or 2")
NUMBER = Kind(number, "a number")
LIMIT = Kind(partial(number, least=0), "a number, 0 or more")
NUMBERS = Kind(partial(several, number), "numbers separated by slashes")
EVERY = Kind(partial(whole, least=1), "a whole number, 1 or more")
BLOCKS = Kind(partial(several, whole), "numbers of blocks separated by slashes")


def repeat_kinds(
    plan: Plan, kinds: Collection[str], computed: int | Percent | tuple[int, ...], order: int = 0, share: float = 1.0
) -> Plan:
    """latte.plans.rules.repeat for several kinds."""
    computed = computed.of(len(plan)) if isinstance(computed, Percent) else computed
    for kind in kinds:
        plan = repeat(plan, computed, kind, order, share)
    return plan


def gate(plan: Plan, after: int | Percent) -> Plan:
    """latte.plans.rules.gate_guidance, from an evaluation or a share of them on."""
    return gate_guidance(plan, after.of(len(plan)) if isinstance(after, Percent) else after)


def blocks_in_window(
    plan: Plan, every: int = 2, low: float = 100.0, high: float = 800.0, blocks: Collection[int] | None = None
) -> Plan:
    """latte.plans.rules.repeat_blocks."""
    return repeat_blocks(plan, (low, high), every, blocks)


def repeating(kinds: tuple[str, ...], what: str, example: str) -> NamedRule:
    """The row of a rule that computes some evaluations and reuses some kinds in the others."""
    options = {"computed": COMPUTED, "order": ORDER, "share": NUMBER}
    needed = () if set(kinds) - set(LAYERS) else kinds
    return NamedRule(partial(repeat_kinds, kinds=kinds), options, what, example, True, needed)


REPEATED = {  # of `repeating`: what is reused, in words, and an example
    **{kind: ((kind,), f"the outputs of the {kind} attention", f"{kind}:50%") for kind in ATTENTION},
    "mlp": (("mlp",), "the outputs of the MLPs", "mlp:50%"),
    "attention": (ATTENTION, "the outputs of all attentions", "attention:50%,order=1"),
    "block": (("block",), "what each block adds to its tokens", "block:40%"),
    "network": (("network",), "what all blocks add together", "network:17,order=1"),
    "clean": (("clean",), "the predicted clean latents", "clean:40%,order=1"),
}
RULES = {
    **{
        name: repeating(kinds, f"compute some evaluations, and reuse {what} in the others", example)
        for name, (kinds, what, example) in REPEATED.items()
    },
    "bw-cache": NamedRule(
        blocks_in_window, {"every": EVERY, "low": NUMBER, "high": NUMBER, "blocks": BLOCKS},
        "between two timesteps, compute the blocks only in every n-th evaluation", "bw-cache:2,low=100,high=800",
    ),
    "gate": NamedRule(
        gate, {"after": WHICH},
        "after a given evaluation, compute the conditional half, and reuse the last guidance difference", "gate:40%",
        needed=True,
    ),
    "faster-cache": NamedRule(
        faster_cache, {"scale": NUMBER}, "FasterCache: extrapolated attention, guidance from frequency bands",
        "faster-cache:1.1",
    ),
    "tea-cache": NamedRule(
        tea_cache, {"limit": LIMIT, "polynomial": NUMBERS},
        "TeaCache: reuse the network's output while its input changes little", "tea-cache:0.1",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class RulePlan:
    """A rule that was given in words: a function from one plan to another.

    Attributes:
        words: The words.
        parts: The rules in their order, with the values of their options.
    """

    words: str
    parts: tuple[tuple[NamedRule, Values], ...] = field(compare=False)

    def __call__(self, plan: Plan) -> Plan:
        """Apply the rules, one after the other."""
        try:
            for rule, values in self.parts:
                plan = rule.apply(plan, **values)
        except ValueError as error:
            raise ValueError(f"plan {self.words}: {error}") from error
        return plan

    def check_layers(self, kinds: Collection[str]) -> None:
        """Raise ValueError if a rule reuses layers that a model lacks, given the kinds of layers that it has."""
        for rule, _ in self.parts:
            if rule.kinds and not set(rule.kinds) & set(kinds):
                known = ", ".join(kind for kind in LAYERS if kind in kinds)
                raise ValueError(f"plan {self.words}: this model has no {rule.kinds[0]!r} layers; it has {known}")


def is_rule(words: str) -> bool:
    """Whether words are meant as rules, rather than as the name or the file of a plan."""
    return ":" in words or words.partition("+")[0] in RULES


def check_rule_words(words: str | Path) -> None:
    """Raise ValueError if the words of --plan are meant as rules, but are not valid."""
    if is_rule(str(words)) and not Path(words).exists():
        rule_of(str(words))


def rule_of(words: str) -> RulePlan:
    """The rule that words stand for: NAME:VALUE,OPTION=VALUE, or several of these joined by "+".

    Raises:
        ValueError: There is no such rule or option, or a value is not valid.
    """
    try:
        return RulePlan(words, tuple(part_of(part) for part in words.split("+")))
    except ValueError as error:
        raise ValueError(f"plan {words}: {error}") from error


def part_of(words: str) -> tuple[NamedRule, Values]:
    """One rule, and the values of its options."""
    name, _, rest = words.partition(":")
    if name not in RULES:
        raise ValueError(f"there is no rule {name!r}{meant(name, RULES)}; the rules are {', '.join(RULES)}")
    rule, values = RULES[name], {}
    for i, word in enumerate(rest.split(",") if rest else ()):
        option, equals, text = word.partition("=")
        if not equals and i == 0:
            option, text = next(iter(rule.options)), word
        if option not in rule.options:
            known = ", ".join(rule.options)
            raise ValueError(f"{name} has no option {option!r}{meant(option, rule.options)}; its options are {known}")
        if option in values:
            raise ValueError(f"{option} is given twice")
        try:
            values[option] = rule.options[option].read(text)
        except ValueError as error:
            raise ValueError(f"{option} is {text!r}; it must be {rule.options[option].words}") from error
    if rule.needed and (first := next(iter(rule.options))) not in values:
        raise ValueError(f"give its {first}, as in {rule.example}")
    return rule, values


def meant(word: str, known: Collection[str]) -> str:
    """A hint at the most similar known word, if there is one."""
    close = difflib.get_close_matches(word, known, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def rules_help() -> str:
    """The rules and their options, for `latte plan --help`."""
    lines = ["rules of --plan, as RULE:VALUE,OPTION=VALUE; join several with +:"]
    for name, rule in RULES.items():
        lines += [f"  {name:13} {rule.what}", f"  {'':13} options: {', '.join(rule.options)}; example: {rule.example}"]
    return "\n".join(lines)
