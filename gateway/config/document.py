"""YAML in which every scalar is its own text, and every value knows its line.

YAML would read `1.10` as 1.1 and `no` as false; versions and names are neither, so nothing is typed
here. A schema types the text afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import yaml

from router.errors import ConfigInvalid, ConfigProblem

Value = None | str | list["Value"] | dict[str, "Value"]
"""What a document is made of; None is a key without a value."""

Path = tuple[str | int, ...]
"""Where something stands in a document: keys and list indices."""

Finding = tuple[Path, str]
"""Where a mistake is, and what would be right."""

MAX_BYTES = 32 << 20
_MAX_NODES = 2_000_000
_MAX_DEPTH = 64
_PLAIN_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


@dataclass(slots=True)
class Document:
    """One YAML document.

    Attributes:
        root: its content; None for an empty one.
        lines: 1-based line of each value, by path.
        problems: mistakes that did not stop the reading, such as a key given twice.
    """

    root: Value = None
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[ConfigProblem] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """Line of the value at `path`, else of the nearest thing around it; 0 for an empty document."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return 0


def show_path(path: Path) -> str:
    """A path as people write it: `backends[0].grpc`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_documents(text: bytes | str, source: str) -> list[Document]:
    """Read all documents of a YAML text.

    Args:
        text: the file's content.
        source: its name, for the error.

    Raises:
        ConfigInvalid: it is not YAML at all. Lesser mistakes stand in `Document.problems`.
    """
    if len(text) > MAX_BYTES:
        raise ConfigInvalid(source, [ConfigProblem("", 0, f"is larger than {MAX_BYTES >> 20} MiB")])
    try:
        nodes = list(yaml.compose_all(text, Loader=_Loader))
        return [_Reader().read(node) for node in nodes]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        raise ConfigInvalid(source, [ConfigProblem("", line, _syntax_message(error))]) from None
    except yaml.reader.ReaderError as error:
        message = f"is not UTF-8 text: {error.reason} at position {error.position}"
        raise ConfigInvalid(source, [ConfigProblem("", _line_at(text, error.position), message)]) from None
    except _TooLargeError as error:
        raise ConfigInvalid(source, [ConfigProblem("", error.line, str(error))]) from None


def read_document(text: bytes | str, source: str) -> Document:
    """Read a text of at most one document. Raises ConfigInvalid, as `read_documents`."""
    documents = read_documents(text, source)
    if len(documents) > 1:
        second = ConfigProblem("", documents[1].line(()), "holds a second document; only one is allowed here")
        raise ConfigInvalid(source, [second])
    return documents[0] if documents else Document()


def _syntax_message(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "cannot be read"
    if "'@'" in problem and "cannot start" in problem:
        return "a value that begins with '@' must be quoted, such as \"@champion\""
    if "cannot start any token" in problem:
        return f"{problem}; quote the value"
    if "could not determine a constructor" in problem:
        return problem
    context = f" ({error.context})" if error.context else ""
    return f"not valid YAML: {problem}{context}"


def _line_at(text: bytes | str, position: int) -> int:
    newline: bytes | str = b"\n" if isinstance(text, bytes) else "\n"
    return text[:position].count(newline) + 1  # type: ignore[arg-type]


_TOO_LARGE = "is nested too deep or unfolds to too much; check its aliases (&, *)"


class _TooLargeError(Exception):
    """More than any real file holds, in depth or by aliases that unfold."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.BaseLoader):
    """Makes nodes, and stops at a depth long before Python's own limit."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node, below `parent`."""
        self._depth += 1
        if self._depth > _MAX_DEPTH + 1:
            event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise _TooLargeError(_TOO_LARGE, line)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Reader:
    """Turns one node tree into values, and remembers lines."""

    def __init__(self) -> None:
        self._document = Document()
        self._nodes = 0

    def read(self, node: yaml.Node | None) -> Document:
        if node is not None:
            self._document.root = self._value((), node)
        return self._document

    def _value(self, path: Path, node: yaml.Node) -> Value:
        line = node.start_mark.line + 1
        self._nodes += 1
        if self._nodes > _MAX_NODES or len(path) > _MAX_DEPTH:
            raise _TooLargeError(_TOO_LARGE, line)
        self._document.lines.setdefault(path, line)
        if node.tag not in _PLAIN_TAGS:
            self._problem(path, line, f"tags are not used here; remove {node.tag!r}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(path, node)
        if isinstance(node, yaml.SequenceNode):
            return [self._value((*path, index), item) for index, item in enumerate(node.value)]
        # A key with nothing after it; a quoted empty text has a style.
        empty = isinstance(node, yaml.ScalarNode) and node.style is None and node.value == ""
        return None if empty else str(node.value)

    def _mapping(self, path: Path, node: yaml.MappingNode) -> dict[str, Value]:
        result: dict[str, Value] = {}
        for key, value in self._items(path, node):
            if key in result:
                first = self._document.lines[(*path, key)]
                line = value.start_mark.line + 1
                self._problem((*path, key), line, f"is given twice; the first is in line {first}")
                continue
            inner = (*path, key)
            result[key] = self._value(inner, value)
        return result

    def _items(self, path: Path, node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._problem(path, line, "a key must be text")
                continue
            self._document.lines.setdefault((*path, key.value), line)
            yield key.value, value

    def _problem(self, path: Path, line: int, message: str) -> None:
        self._document.problems.append(ConfigProblem(show_path(path), line, message))


def as_mapping(value: Value) -> Mapping[str, Value]:
    """The value where it is a mapping, else an empty one; for checks that run on half-right documents."""
    return value if isinstance(value, dict) else {}


def as_list(value: Value) -> list[Value]:
    """The value where it is a list, else an empty one."""
    return value if isinstance(value, list) else []
