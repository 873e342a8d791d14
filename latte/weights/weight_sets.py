"""Finding the weights of one network in a checkpoint of any trainer.

Trainers nest tables ({"state_dict": {...}}), prefix the names of parameters ("ema.", "first_stage_model."), or do both;
and module wrappers insert words of their own anywhere in the names. A network is recognised by the name of one of its
parameters. Its weights are all parameters beside this one, in the same table and with the same prefix.
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor

from latte.weights.pickles import Foreign
from latte.weights.tensors import NOT_LOADED, nested_tables, rename_keys

Words = tuple[str, ...]

WRAPPERS = {  # inserted by data parallelism and averaging, torch.compile, FSDP, activation checkpointing, Fabric
    *("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"),
    "_fpw_module",  # by the first versions of FSDP
}
AVERAGES = {"ema", "emas", "swa", "averaged", "average", "avg", "polyak", "shadow"}  # in prefixes of averaged weights
WORD = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # a part of model_ema, emaModel or netEMA
AVERAGED_BY_LIGHTNING = {"state_dict": "averaged_state_dict"}  # beside current_model_state, by its WeightAveraging
ONLINE = "online_model"  # the prefix of the online weights in the table of ema_pytorch
MOST_SETS = 20  # in a checkpoint
COUNTERS = ("n_averaged", "num_updates", "decay", "initted", "step")  # numbers stored beside averages


class WeightSet(NamedTuple):
    """One set of weights in a checkpoint."""

    keys: Words  # of the tables that it lies in, outermost first
    prefix: Words  # before the names in that table
    state: dict[str, Tensor]  # by the parameters' names in the network

    @property
    def averaged(self) -> bool:
        """Whether it holds averaged weights (EMA)."""
        return is_average((*self.keys, *self.prefix))

    @property
    def name(self) -> str:
        """Its location, for messages."""
        return ".".join((*self.keys, *self.prefix)) or "one without a name"


def without_wrappers(name: str) -> str:
    """The name of a parameter without the words that module wrappers insert."""
    return ".".join(word for word in name.split(".") if word not in WRAPPERS)


def is_average(words: Words) -> bool:
    """Whether these words are the prefix of averaged weights."""
    return ONLINE not in words and any(part.lower() in AVERAGES for word in words for part in WORD.findall(word))


def weight_sets(table: dict, markers: Words) -> list[WeightSet]:
    """Find all sets of weights of a kind of network.

    Args:
        table: A checkpoint, as read_tensors returns it.
        markers: Names of parameters. Every network of this kind has exactly one of them.

    Raises:
        ValueError: A set is not a table of tensors with distinct names, or there are too many.
    """
    sets: list[WeightSet] = []
    if "current_model_state" in table:
        table = {AVERAGED_BY_LIGHTNING.get(key, key): part for key, part in table.items()}
    for keys, part in nested_tables(table):
        names = {key: without_wrappers(key) if isinstance(key, str) else "" for key in part}
        prefixes = {
            name.removesuffix(marker)
            for name in names.values()
            for marker in markers
            if f".{name}".endswith(f".{marker}")
        }
        if len(sets) + len(prefixes) > MOST_SETS:
            raise ValueError(f"the checkpoint holds more than {MOST_SETS} sets of weights, so it is not read")
        for prefix in sorted(prefixes):
            inner = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
            beside = {
                key: name.removeprefix(prefix)
                for key, name in names.items()
                if name.startswith(prefix) and not name.startswith(inner)
            }
            state = rename_keys({key: part[key] for key in beside}, lambda key, beside=beside: beside[key])
            for name in COUNTERS:
                if name in state and state[name].numel() == 1:
                    del state[name]
            found = WeightSet(keys, tuple(prefix.split(".")[:-1]), state)
            averages = dotless_averages(part, found, markers)
            for words in (average.prefix for average in averages) if not prefix else ():
                for name in [name for name in state if name.startswith(".".join(words) + ".")]:
                    del state[name]  # which lie beside weights without a prefix
            sets += [found, *averages]
    return sets


def dotless_averages(part: dict, online: WeightSet, markers: Words) -> list[WeightSet]:
    """Find averages as the latent diffusion code keeps them: under the names of the weights, without dots.

    Args:
        part: The table that a set of weights lies in.
        online: This set. The names of its averages may begin with the last word of its prefix.
        markers: See weight_sets.
    """
    names = {}
    for count in range(len(online.prefix) + 1):
        start = "".join(online.prefix[len(online.prefix) - count :])
        names |= {start + name.replace(".", ""): name for name in online.state}
    states: dict[str, dict[str, Tensor]] = {}
    for key, tensor in part.items():
        words, dot, last = key.rpartition(".") if isinstance(key, str) else ("", "", "")
        if dot and last in names and isinstance(tensor, Tensor) and is_average((*online.keys, *words.split("."))):
            states.setdefault(words, {})[names[last]] = tensor
    complete = {words: state for words, state in states.items() if any(marker in state for marker in markers)}
    return [WeightSet(online.keys, tuple(words.split(".")), state) for words, state in complete.items()]


def choose_weights(table: dict, sets: list[WeightSet], weights: str | None) -> WeightSet:
    """Choose one set of weights.

    Args:
        table: The checkpoint, which may also hold averages that cannot be read.
        sets: The sets in it, at least one.
        weights: "ema": the averaged weights, or, if nothing tells which kind they are, the others. "model": the weights
            that are not averaged. None: the averaged weights if there are any, otherwise the others.

    Raises:
        ValueError: There are no weights of this kind, or several sets that differ.
    """
    averaged = [found for found in sets if found.averaged]
    others = [found for found in sets if not found.averaged]
    named = any("model" in found.keys for found in others)
    if weights == "ema" and not averaged and (named or unread_averages(table)):
        asked = []
    else:
        asked = others if weights == "model" or not averaged else averaged
    if not asked:
        names, other = sorted(found.name for found in sets), "model" if weights == "ema" else "ema"
        unread = (
            f" that can be read; {unread_averages(table)[0]}" if weights == "ema" and unread_averages(table) else ""
        )
        raise ValueError(f"the checkpoint holds {names}, not {weights!r}{unread}; choose weights={other!r}")
    if differing := [found for found in asked[1:] if not equal(found.state, asked[0].state)]:
        raise ValueError(
            f"the checkpoint holds both {asked[0].name} and {differing[0].name}, which differ, so it is unclear which "
            'one to load: save the tensors of one of them with torch.save({"ema": state_dict}, ...)'
        )
    return asked[0]


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two sets hold the same tensors."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def unread_averages(table: dict) -> list[str]:
    """Describe entries that are averaged weights by name, but not tables of tensors with parameter names."""
    found = []
    for keys, part in nested_tables(table):
        for key, value in part.items():
            words = (*keys, *str(key).split("."))
            if not is_average(words):
                continue
            if isinstance(value, Foreign):
                found.append(f"{'.'.join(words)} is an object of {value.name}, which is not loaded")
            elif isinstance(value, list | tuple) and any(isinstance(item, Tensor | dict) for item in value):
                kind = "tables" if isinstance(value[0], dict) else "tensors without names"
                found.append(f"{'.'.join(words)} is a list of {kind}")
            elif isinstance(value, Tensor) and value.numel() > 1:
                found.append(f"{'.'.join(words)} is not a name of this network")
    return found


def refuse_without_weights(table: dict, marker: str, whose: str) -> None:
    """Raise ValueError for a checkpoint without the requested kind of weights; the message says what it holds."""
    foreign = [
        f"{'.'.join((*keys, str(key)))} is an object of {value.name}"
        for keys, part in nested_tables(table)
        for key, value in part.items()
        if isinstance(value, Foreign)
    ]
    raise ValueError(
        f"these are not the weights of {whose}: {marker} is missing"
        + (f"; {foreign[0]}, {NOT_LOADED}" if foreign else "")
    )
