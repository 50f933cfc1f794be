"""Turns error texts of ONNX Runtime and ONNX into a sentence for the sender of the model or the request: operator,
node, sizes; without codes, source files and C++ signatures. Imports neither."""

import re

_CODE = re.compile(r"\[ONNXRuntimeError\]\s*:\s*\d+\s*:\s*[A-Z_]+\s*:\s*")
_PLACE = re.compile(
    r"(?<![^\s(\"':=])(?P<path>[^\s(\"']{1,1000}?)\.(?:cuh|cu|cc|cpp|cxx|hpp|hxx|h|inl|inc|mm|m)(?::|\()\d+\)?:?(?:\s+|$)"
)
"""A source file with its line, as `/src/core/reshape_helper.h:91 ` or `matmul_helper.h:59 `."""
_AFTER_SIGNATURE = re.compile(r"\s*(?:\[with [^\]]*\]|const\b|noexcept\b|mutable\b|&&?|::\S*)")
_RUNNING = re.compile(
    r"Non-zero status code returned while running (?P<operator>\S+) node\. Name:'(?P<node>.{0,500}?)' "
    r"Status Message:\s*"
)
_INVALID_NODE = re.compile(
    r'(?:This is an invalid model\. )?In Node, \("(?P<node>[^"]*)", (?P<operator>[^,]+), [^)]*\) : .*?, Error\s+',
    re.DOTALL,
)
_INFERENCE = re.compile(r"Node \((?P<node>.*?)\) Op \((?P<operator>\w+)\) \[\w*Error\]\s*")
_CONDITION = re.compile(r"(?P<condition>\S.{0,300}?) was false\.?\s*")
_STACK = re.compile(r"\s*Stacktrace:.*\Z", re.DOTALL)
_NAMESPACE = re.compile(r"\b(?:onnxruntime|onnx|std)::(?:\w+::)*")
_REMEDY = re.compile(r"\s*Please fix either the inputs/outputs or the model\.")
_PLAINER = {
    "stod": "a text is not a number",
    "stof": "a text is not a number",
    "stoi": "a text is not an integer",
    "stol": "a text is not an integer",
    "stoll": "a text is not an integer",
    "std::bad_alloc": "not enough memory",
    "bad allocation": "not enough memory",
}
_MOST = 4000
"""Longest text that is examined, in characters."""


def explain_failure(error: BaseException | str) -> str:
    """One line of text.

    `... : FAIL : Non-zero status code returned while running Reshape node. Name:'r' Status Message: /src/a.h:91
    void f(int) x == y was false. Input shape:{1,2}, requested shape:{3,2}` becomes
    `operator Reshape (node 'r'): Input shape:{1,2}, requested shape:{3,2}`.
    """
    text = _STACK.sub("", str(error)[:_MOST])
    text = _CODE.sub("", " ".join(text.split()))
    text = _RUNNING.sub(_name_node, text)
    text = _INVALID_NODE.sub(_name_node, text)
    text = _INFERENCE.sub(_name_node, text)
    text = _drop_places(text)
    text = _REMEDY.sub("", text)
    head, separator, rest = text.rpartition(": ")
    text = head + separator + _PLAINER.get(rest.strip(" ."), rest)
    return _NAMESPACE.sub("", text).strip() or "it does not say why"


def _name_node(found: re.Match[str]) -> str:
    node = f" (node {found['node']!r})" if found["node"] else ""
    return f"operator {found['operator']}{node}: "


def _drop_places(text: str) -> str:
    """The text without source files, their function names and the condition that was false."""
    parts: list[str] = []
    while (found := _PLACE.search(text)) is not None:
        parts.append(text[: found.start()])
        rest = text[found.end() :]
        # A whole path is followed by a whole signature, a bare file name by the name of the function.
        rest = _drop_signature(rest) if "/" in found["path"] or "\\" in found["path"] else _drop_word(rest)
        held = _CONDITION.match(rest)
        if held is not None:
            rest = rest[held.end() :] or f"it needs {held['condition']}"
        text = rest
    return "".join([*parts, text])


def _drop_word(text: str) -> str:
    word, space, rest = text.partition(" ")
    return rest if space and re.fullmatch(r"[\w:~<>]+", word) else text


def _drop_signature(text: str) -> str:
    """Without a leading `void a::f(const b<c>&, int) const [with T = d] `; unchanged if there is none."""
    depth = 0
    for place, character in enumerate(text):
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth < 0:
                return text
            if depth == 0 and text[place + 1 : place + 2] in ("", " ", ":", "["):
                end = place + 1
                while (more := _AFTER_SIGNATURE.match(text, end)) is not None and more.end() > end:
                    end = more.end()
                if text[end : end + 1] in ("", " "):
                    return text[end:].lstrip()
        elif character in ".!?" and not depth and text[place + 1 : place + 2] == " ":
            return text  # a sentence, not a signature
    return text
