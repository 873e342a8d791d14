"""Safe YAML for hand-written and untrusted files: decimal numbers, and limits on size, depth and expanded aliases."""

import re
from collections import Counter
from typing import Any, ClassVar

import yaml

from latte.models.network_config import shown

MAX_BYTES = 1 << 18  # of a file
MAX_VALUES = 10_000  # with all aliases expanded, through which a small file can grow without bound
MAX_DEPTH = 50  # of nested lists and tables
MAX_TEXT = 4096  # characters of one value; no path is longer
INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
DIGITS = "[0-9]+(?:_[0-9]+)*"
INTEGER = re.compile(rf"[-+]?(?:{DIGITS}|0[xX][0-9a-fA-F]+)\Z")
FRACTION = re.compile(
    rf"[-+]?(?:{DIGITS}(?:\.(?:{DIGITS})?)?|\.{DIGITS})(?:[eE][-+]?[0-9]+)?\Z|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"
)


class DecimalLoader(yaml.SafeLoader):
    """Reads numbers as people write them. PyYAML follows YAML 1.1: 010 is 8, 1:30 is 90, and 1e-4 is a string."""

    yaml_implicit_resolvers: ClassVar[dict[str, list]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (INT, FLOAT)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Compose a table. Raises ValueError if a key occurs twice; plain YAML would take its last value."""
        table = super().compose_mapping_node(anchor)
        names = [key.value for key, _ in table.value if isinstance(key, yaml.ScalarNode)]
        if twice := [name for name, number in Counter(names).items() if number > 1 and name != "<<"]:
            raise ValueError(f"gives {shown(twice[0])} twice")
        return table

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """An integer: decimal, or hexadecimal as in 0xff."""
        text = self.construct_scalar(node)
        return int(text, 16 if "x" in text.lower() else 10)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """A number, infinity (.inf) or not a number (.nan)."""
        text = self.construct_scalar(node).lower()
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))


DecimalLoader.add_implicit_resolver(INT, INTEGER, list("-+0123456789"))
DecimalLoader.add_implicit_resolver(FLOAT, FRACTION, list("-+0123456789."))  # after integers, which it matches too
DecimalLoader.add_constructor(INT, DecimalLoader.construct_yaml_int)
DecimalLoader.add_constructor(FLOAT, DecimalLoader.construct_yaml_float)


def compose(text: str | bytes) -> tuple[yaml.Node | None, DecimalLoader]:
    """Parse YAML into nodes, which keep every value as it was written.

    Args:
        text: The YAML. Bytes are UTF-8, or UTF-16 with a byte order mark.

    Returns:
        The root, None for an empty text; and a loader that turns nodes into values.

    Raises:
        ValueError: It is not valid YAML, exceeds a limit, or has a table with a duplicate key.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"has {len(text):,} bytes, more than the {MAX_BYTES:,} that a configuration may have")
    try:
        check_nesting(text)
        loader = DecimalLoader(text)
        return loader.get_single_node(), loader
    except yaml.YAMLError as error:
        raise not_valid(error) from error


def check_nesting(text: str | bytes) -> None:
    """Raise ValueError for YAML that is nested too deeply or expands too much, without making values or recursing."""
    sizes, open_nodes = {}, [[None, 0]]  # values below each finished anchor; (anchor, values so far) of open nodes
    for event in yaml.parse(text, DecimalLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append([event.anchor, 1])
            if len(open_nodes) > MAX_DEPTH:
                raise ValueError(f"has lists or tables nested more than {MAX_DEPTH} deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _ in open_nodes):
                raise ValueError("holds a value that contains itself")
            anchor, size = None, sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1 + len(event.value) // 64
            if len(event.value) > MAX_TEXT:
                raise ValueError(f"holds a value of {len(event.value):,} characters, more than {MAX_TEXT:,}")
        else:
            continue
        sizes |= {anchor: size} if anchor else {}
        open_nodes[-1][1] += size
        if open_nodes[-1][1] > MAX_VALUES:
            raise ValueError(f"has more than {MAX_VALUES:,} values, with its aliases expanded")


def value_of(node: yaml.Node, loader: DecimalLoader) -> Any:
    """Make the value of a node. Raises ValueError if that is impossible, as for a 13th month or a list as a key."""
    try:
        return loader.construct_object(node, deep=True)
    except Exception as error:  # PyYAML raises IndexError, KeyError and others for values that do not fit their tags
        raise not_valid(error) from error


def merge(table: yaml.MappingNode, loader: DecimalLoader) -> None:
    """Insert the entries of merged tables (<<). Raises ValueError if anything but a table is merged."""
    try:
        loader.flatten_mapping(table)
    except yaml.YAMLError as error:
        raise not_valid(error) from error


def not_valid(error: Exception) -> ValueError:
    """The error for invalid YAML, in one line that quotes only a little of it."""
    problem, mark = getattr(error, "problem", None) or str(error), getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}" if mark else ""
    return ValueError(f"is not valid YAML{where}: {' '.join(problem.split())[:200]}")
