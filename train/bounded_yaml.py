"""YAML from people and from strangers: read within bounds of size, depth and expanded aliases."""

from typing import Any

import yaml

MAX_BYTES = 1 << 18  # of a file
MAX_VALUES = 10_000  # with every alias written out, which is how a small file can grow without end
MAX_DEPTH = 50  # of lists and tables in each other
MAX_TEXT = 4096  # characters of one value; no path is longer


def compose(text: str | bytes) -> tuple[yaml.Node | None, yaml.SafeLoader]:
    """Parse YAML into nodes, which keep every value as it was written.

    Args:
        text: The YAML. Bytes are UTF-8, or UTF-16 with a byte order mark.

    Returns:
        The root, None for an empty text; and a loader that makes values of nodes.

    Raises:
        ValueError: It is not valid YAML, or is out of bounds.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"has {len(text):,} bytes, more than the {MAX_BYTES:,} that a configuration may have")
    try:
        check_bounds(text)
        loader = yaml.SafeLoader(text)
        return loader.get_single_node(), loader
    except yaml.YAMLError as error:
        raise not_valid(error) from error


def check_bounds(text: str | bytes) -> None:
    """Raise ValueError for YAML that is too deep or that grows too much. It makes no values and does not recurse."""
    sizes, open_nodes = {}, [[None, 0]]  # values below each finished anchor; (anchor, values so far) of what is open
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append([event.anchor, 1])
            if len(open_nodes) > MAX_DEPTH:
                raise ValueError(f"has lists or tables more than {MAX_DEPTH} deep in each other")
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
            raise ValueError(f"has more than {MAX_VALUES:,} values, its aliases written out")


def value_of(node: yaml.Node, loader: yaml.SafeLoader) -> Any:
    """Make the value of a node. Raises ValueError if it is none, such as a 13th month or a key that is a list."""
    try:
        return loader.construct_object(node, deep=True)
    except Exception as error:  # PyYAML raises IndexError, KeyError and others at values that do not fit their tags
        raise not_valid(error) from error


def merge(table: yaml.MappingNode, loader: yaml.SafeLoader) -> None:
    """Put the entries of merged tables (<<) in their place. Raises ValueError if something else is merged."""
    try:
        loader.flatten_mapping(table)
    except yaml.YAMLError as error:
        raise not_valid(error) from error


def not_valid(error: Exception) -> ValueError:
    """The error for what is not YAML, in one line that quotes little of it."""
    problem, mark = getattr(error, "problem", None) or str(error), getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}" if mark else ""
    return ValueError(f"is not valid YAML{where}: {' '.join(problem.split())[:200]}")
