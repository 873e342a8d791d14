"""The model card of a model folder: README.md, in the form that the Hugging Face hub shows."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

CARD = "README.md"
HERE = "."  # stands for the folder in its own card, which can be moved
INSTALL = "pip install path/to/latte-video  # a checkout: it is not on PyPI yet"
WHERE = f"`{HERE}` is the folder of this file."


@dataclass(frozen=True)
class ModelCard:
    """The content of a model card.

    Attributes:
        summary: What the model is, in a sentence or two.
        use: Shell commands that use the model.
        tags: Tags for the hub's search.
        task: The hub's name of the model's task; "" for none.
        sections: Titles, each with a text or a table of names and values.
    """

    summary: str
    use: Sequence[str]
    tags: Sequence[str] = ("latte", "video-generation")
    task: str = ""
    sections: Mapping[str, str | Mapping[str, object]] = field(default_factory=dict)


def card_text(card: ModelCard) -> str:
    """The card in Markdown, with the metadata header that the hub reads."""
    head = ["library_name: latte-video", *([f"pipeline_tag: {card.task}"] if card.task else [])]
    head += ["tags:", *(f"- {tag}" for tag in card.tags)]
    parts = ["---", *head, "---", "", card.summary]
    if card.use:
        parts += ["", "## Use", "", "```", INSTALL, *card.use, "```", "", WHERE]
    for title, content in card.sections.items():
        parts += ["", f"## {title}", ""]
        if isinstance(content, str):
            parts.append(content)
        else:
            parts += ["| | |", "|---|---|", *(f"| {name} | {cell(value)} |" for name, value in content.items())]
    text = "\n".join(parts) + "\n"
    return text.encode(errors="backslashreplace").decode()  # a file's name need not be valid Unicode


def cell(value: object) -> str:
    """A value in a cell of a table, on one line."""
    text = f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def card_on_hub(text: str, repo_id: str) -> str:
    """A card whose commands name the repository in place of the folder."""
    text = text.replace(
        WHERE, "`--download` fetches the model from the hub; it needs `pip install 'latte-video[hub]'`."
    )
    own = (
        rf"(?:{re.escape(HERE)}|[\w.-]+/[\w.-]+ --download)"  # or another repository, for a model that came from there
    )
    return re.sub(rf"^(latte \w+) {own}(?= |$)", rf"\1 {repo_id} --download", text, flags=re.MULTILINE)
