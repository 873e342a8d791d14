"""Caption cleaning as used to train text-to-video models: the rules of DeepFloyd IF, in the same order.

Each rule is a pattern and its replacement. They apply from top to bottom and expect lower case.
"""

import re
from collections import Counter
from urllib.parse import unquote_plus

from latte.text.markup import unescaped, without_addresses, without_tags

DASHES = "-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
DASHES += "\ufe31\ufe32\ufe58\ufe63\uff0d"
IDEOGRAPHS = "\u31c0-\u31ef\u31f0-\u31ff\u3200-\u32ff\u3300-\u33ff\u3400-\u4dbf\u4dc0-\u4dff\u4e00-\u9fff"
MARKS = "#®•©™&@·º½¾¿¡§~()[]{}|\\/*"

BEFORE = [  # (pattern, replacement), after HTML tags are removed
    (r"@[\w\d]+\b", ""),  # nicknames
    (f"[{IDEOGRAPHS}]+", ""),
    (f"[{DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    (r"&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # IP addresses
    (r"\d:\d\d\s+$", ""),  # a time at the end of an article
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (r"(?<!\S)[\S]+\.(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)", ""),  # file names
    (r"[\"']{2,}", '"'),
    (r"[.]{2,}", " "),
    (f"[{re.escape(MARKS)}]+", " "),
    (r"(?<!\s)\s+\.\s+", " "),
]
AFTER = [  # after dashes, broken encodings and HTML entities are fixed
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # article numbers: jc6640
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),  # jc6640vc
    (r"\b\d+[a-zA-Z]+\d+\b", ""),  # 6640vc231
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (r"\b(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)(\simage[s]?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),  # j2d1a2a
    (r"\b\d+(?:\.\d*)?[xх×]\d+(?:\.\d*)?\b", ""),  # sizes: 1920x1080
    (r"\b\s+\:\s+", r": "),
    (r"(\D[,\./])\b", r"\1 "),
    (r"\s+", " "),
]
ENDS = [  # quotes and punctuation around the whole text; a space before or after the text keeps them
    (r"^[\"\']([\w\W]+)[\"\']$", r"\1"),
    (r"^[\'\_,\-\:;]", r""),
    (r"[\'\_,\-\:\-\+]$", r""),
    (r"^\.\S+$", ""),
]


def apply_rules(text: str, rules: list[tuple[str, str]]) -> str:
    """Apply every rule to the text, in order."""
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def fixed(text: str) -> str:
    """Repair broken encodings in a text."""
    import ftfy  # only texts need it

    return ftfy.fix_text(text)


def clean_once(text: str) -> str:
    """Clean a caption once."""
    text = unquote_plus(str(text)).strip().lower().replace("<person>", "person")
    for start in ("https?:", "www:"):
        text = without_addresses(text, start)
    text = without_tags(text)
    text = apply_rules(text, BEFORE)
    if len(re.findall("[-_]", text)) > 3:
        text = re.sub("[-_]", " ", text)
    text = unescaped(unescaped(fixed(text)))
    return apply_rules(apply_rules(text, AFTER), ENDS).strip()


def clean(text: str) -> str:
    """Clean a caption twice, like the captions that the models were trained on.

    Args:
        text: A caption or prompt.

    Returns:
        The caption in lower case, without mark-up, addresses and other leftovers of web pages.
    """
    return clean_once(clean_once(text))


def dropped_words(text: str) -> list[str]:
    """The words of a caption that cleaning removes, in lower case and in their order."""
    words = lambda text: re.findall(r"[^\W_]+", text.lower())
    kept, dropped = Counter(words(clean(text))), []
    for word in words(unescaped(fixed(unquote_plus(text)))):
        kept[word] -= 1
        dropped += [word] if kept[word] < 0 else []
    return dropped
