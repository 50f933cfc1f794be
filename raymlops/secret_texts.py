"""What in a text looks like a secret: names of settings, and values by the rules of detect-secrets for keys, tokens and
private keys of many services. Reads no files."""

import functools
import re
from collections.abc import Iterator
from typing import Any

_SECRET_NAME = re.compile(
    r"passw|passphrase|(^|[-_.])pwd|secret|token|api[-_]?key|access[-_]?key|auth[-_]?key|credential|private|(^|[-_.])pat$",
    re.IGNORECASE,
)


def names_secret(name: str) -> bool:
    """Whether the name of a variable, an option or a setting is that of a secret."""
    return _SECRET_NAME.search(name) is not None


_PASSWORD_IN_URI = re.compile(r"\w+://[^/\s:@]+:[^/\s@]+@")


def holds_password(text: str) -> bool:
    """Whether the text has a URI with a password, as in http://ann:secret@mlflow."""
    return _PASSWORD_IN_URI.search(text) is not None


def find_secrets(text: str, code: bool = False) -> Iterator[tuple[int, str]]:
    """Line and kind of each possible secret; in code, the value after a name must not look like a word."""
    # Try the rules on the whole text first: in most files none matches.
    scanners = [rule for rule in _rules() if any(pattern.search(text) for pattern in rule.denylist)]
    assigned = re.search(_WORD, text, re.IGNORECASE) is not None
    if not scanners and not assigned:
        return
    for pair in _PAIR.finditer(text):
        if not _is_placeholder(pair[2]):
            yield text.count("\n", 0, pair.end()) + 1, f"a value of {pair[1]}"
    for number, line in enumerate(text.splitlines(), start=1):
        if len(line) > _LONGEST or "allowlist secret" in line:
            continue
        for scanner in scanners:
            # A placeholder, such as an f-string's or a shell's, is not a secret.
            if any(not _is_template(found) for found in scanner.analyze_string(line)):
                yield number, _article(scanner.secret_type)
                break
        else:
            if assigned and (found := _find_assignment(line, code)):
                yield number, f"a value of {found}"


_LONGEST = 20_000
"""Longest line that is scanned, in characters."""


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"


_MORE = {
    "Hugging Face token": re.compile(r"\bhf_[A-Za-z]{30,}\b"),
    "API key of raymlops": re.compile(r"\brmk_[A-Za-z0-9.-]{1,64}_[\w-]{43}\b"),
    "bearer token": re.compile(r"\bBearer [A-Za-z0-9+/_.~=-]{20,}"),
    "Google API key": re.compile(r"\bAIza[\w-]{35}\b"),
    "Google OAuth token": re.compile(r"\bya29\.[\w-]{20,}"),
    "DigitalOcean token": re.compile(r"\bdo[por]_v1_[a-f0-9]{64}\b"),
    "Databricks token": re.compile(r"\bdapi[a-f0-9]{32}\b"),
    "GitHub token": re.compile(r"\bgithub_pat_\w{22,}\b"),
    "Anthropic key": re.compile(r"\bsk-ant-[\w-]{20,}\b"),
}
"""Kinds for which detect-secrets has no rule."""


class _Rule:
    """With the same interface as the scanner's own rules."""

    def __init__(self, secret_type: str, pattern: re.Pattern[str]) -> None:
        self.secret_type, self.denylist = secret_type, [pattern]

    def analyze_string(self, text: str) -> Iterator[str]:
        yield from (found[0] for found in self.denylist[0].finditer(text))


@functools.cache
def _rules() -> tuple[Any, ...]:
    """Rules that name a service or a format; rules for entropy and for words beside names would also match code."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    left_out = ("Base64HighEntropyString", "HexHighEntropyString", "KeywordDetector", "IPPublicDetector")
    kinds: list[Any] = list(get_mapping_from_secret_type_to_class().values())
    rules = [kind for kind in kinds if kind.__name__ not in left_out]
    return (*(kind() for kind in rules), *(_Rule(name, pattern) for name, pattern in _MORE.items()))


_WORD = (
    r"passw(?:or)?d|passphrase|pwd|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|account[-_]?key|credential"
    r"|auth[-_]?key|requirepass|(?<![a-z])pass(?![a-z])"
)
_ASSIGNMENT = re.compile(
    rf"""((?:{_WORD})[\w.-]*)["'\\]*(?:\s*[:=]>?|>)\s*["'\\]*([^\s"'\\#,;}}\]<]+)""", re.IGNORECASE
)
_COMMAND = re.compile(
    rf"^\s*(?:ENV|ARG|setenv|set)\s+(\S*(?:{_WORD})\S*)\s+(\S+)|^\s*(requirepass)\s+(\S+)", re.IGNORECASE
)
"""As in a Dockerfile and in Redis' configuration."""
_PAIR = re.compile(
    rf"""name:\s*["']?(\w*(?:{_WORD})\w*)["']?\s*\n\s*value:\s*["']?([^\s"'#]+)""", re.IGNORECASE
)
"""As in Kubernetes manifests."""
_ABOUT = re.compile(
    r"(path|file|name|url|uri|type|kind|mode|ttl|count|length|size|limit|max|min|id|ref|env|field|[^s]s)$",
    re.I,
)
_PLACE = re.compile(r"(path|file|name|url|uri|type|kind|ref|field)$", re.IGNORECASE)
_PASSWORD = re.compile(r"passw|passphrase|pwd|requirepass|(?<![a-z])pass(?![a-z])", re.I)


def _find_assignment(line: str, code: bool) -> str | None:
    """The name of a setting that holds a secret, if its value is on the same line."""
    for found in (*_ASSIGNMENT.finditer(line), *(() if code else _COMMAND.finditer(line))):
        name, value = (str(part) for part in found.groups() if part is not None)
        quoted = line[found.end() - len(value) - 1] in "\"'"
        is_password = _PASSWORD.search(name) is not None and not _ABOUT.search(name)
        if code and not quoted:
            continue
        if is_password and value.isdecimal() and len(value) >= 6:
            return name
        dense = _is_dense(value) and not _PLACE.search(name)
        if not _is_placeholder(value) and (is_password or dense):
            return name
    return None


def _is_dense(value: str) -> bool:
    """Whether a value looks random: not like a word or a number."""
    return len(value) >= 12 and bool(re.search(r"\d", value)) and bool(re.search(r"[A-Za-z]", value))


_WORDS = frozenset({
    "none", "null", "true", "false", "yes", "no", "on", "off", "changeme", "change-me", "redacted", "xxx",
    "xxxx", "password", "secret", "token", "example", "optional", "required", "string", "str", "int",
    "float", "bool", "default",
})  # fmt: skip


def _is_template(value: object) -> bool:
    """Whether a value is a placeholder to be replaced later; rules may match only a part of one."""
    text = str(value).strip("\"'")
    return text.lower() in _WORDS or re.search(r"[{}<>$%]|\*\*\*|\.\.\.|^[x*.-]+$", text) is not None


_NO_SECRET = re.compile(
    r"(~|/|\./|\.\./|env:|file:|vault:|op:|arn:|!).*|[a-z]+(\.[a-z_]+)+|[A-Z][A-Z_]*[A-Z]|\d{1,9}(\.\d+)?[a-z]{0,2}"
)
"""Paths, references, names of attributes and variables, numbers with units."""


def _is_placeholder(value: str) -> bool:
    text = value.strip("\"'")
    return len(text) < 6 or _is_template(text) or _NO_SECRET.fullmatch(text) is not None
