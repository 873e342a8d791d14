"""The parts of caption cleaning that must neither fail nor take long on any input."""

import html
import re

MOST_PARSING = 250_000  # characters times "<": for the end of each tag, the parser may search all following text
TAG = re.compile(r"<!--(?:(?!<!--).)*?-->|<[a-z/!?][^<>]*>", re.DOTALL | re.IGNORECASE)
TOO_LONG_NUMBER = re.compile(r"&#\d{8,};?")  # no character has such a number, and Python refuses to read a longer one
HOST = r"[a-zA-Z0-9.\-]"
DOMAIN = rf"{HOST}+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b\/?(?!@)"


def without_tags(text: str) -> str:
    """Remove HTML. Text that the parser rejects, or would take long for, loses whatever looks like a tag."""
    text = TOO_LONG_NUMBER.sub("\ufffd", text)
    if "<" not in text and "&" not in text:
        return text
    from bs4 import BeautifulSoup  # only texts with mark-up need it

    if text.count("<") * len(text) <= MOST_PARSING:
        try:
            return BeautifulSoup(text, features="html.parser").text
        except Exception:  # it has no documented errors: AssertionError, ParserRejectedMarkup and others were seen
            pass
    return TAG.sub("", text.replace("<![", "["))


def unescaped(text: str) -> str:
    """Replace HTML entities by their characters."""
    return html.unescape(TOO_LONG_NUMBER.sub("\ufffd", text))


def without_addresses(text: str, scheme: str) -> str:
    r"""Remove web addresses: what `\b(?:SCHEME(?:/{1,3}|[a-zA-Z0-9%])|DOMAIN)` matches, in linear time.

    A domain is searched for once in each run of domain characters, from the first word boundary in the run. From a
    later boundary, the match would end at the same place, or there would be none either.

    Args:
        text: The text.
        scheme: The pattern for the beginning of an address, such as "https?:".
    """
    address = rf"\b{scheme}(?:/{{1,3}}|[a-zA-Z0-9%])"
    host = rf"([.\-]*?|[a-zA-Z0-9]*?)\b(?:{address}|{DOMAIN})"
    in_run, anywhere = re.compile(host), re.compile(rf"{address}|(?<!{HOST}){host}")
    kept, end = [], 0
    while found := in_run.match(text, end) or anywhere.search(text, end):
        kept += [text[end : found.start()], found[1] or ""]
        end = found.end()
    return "".join([*kept, text[end:]])
