"""YAML files as documents in which every value knows its line, so that problems can be reported there."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]

MAX_VALUES = 100_000
"""In one document, counted with aliases expanded: a few lines of them can stand for billions."""
_PLAIN = (str, int, float, bool, type(None))
_SIMPLE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, order=True)
class Problem:
    """What is wrong, where, and how to fix it."""

    file: str
    line: int
    path: str
    what: str
    fix: str

    def __str__(self) -> str:
        return " ".join(f"{self.file}:{self.line}: {self.path}: {self.what}; {self.fix}".splitlines())


@dataclass
class Document:
    """One YAML document.

    Attributes:
        file: that contains it.
        first_line: of the text it was read from, within the file.
        prefix: what comes before its own paths; a document inside another one's text has the path of that text.
        problems: found so far, also in documents inside this one.
        value: mappings, lists, texts, numbers, booleans and ``None``; keys are text.
        lines: path -> line of the value, or of its key.
        texts: path -> line on which the text of a literal block (``|``) begins.
    """

    file: str
    first_line: int = 1
    prefix: str = ""
    problems: list[Problem] = field(default_factory=list)
    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    texts: dict[Path, int] = field(default_factory=dict)

    @property
    def root(self) -> "Part":
        """The whole document."""
        return Part(self, (), self.value)

    def refuse(self, path: Path, what: str, fix: str) -> None:
        """Report a problem with the value at a path, or with its absence."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        line = self.lines.get(known, self.first_line)
        self.problems.append(Problem(self.file, line, self.prefix + write_path(path), what, fix))


@dataclass(frozen=True)
class Part:
    """A value within a document; ``None`` where there is none, so that rules can go on without a check."""

    document: Document
    path: Path
    value: Any

    def at(self, *keys: str) -> "Part":
        """Return what mappings within mappings hold."""
        value = self.value
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return Part(self.document, (*self.path, *keys), value)

    def items(self, *keys: str) -> list["Part"]:
        """Return the parts of a list; none where there is no list."""
        found = self.at(*keys)
        values = found.value if isinstance(found.value, list) else []
        return [Part(self.document, (*found.path, row), value) for row, value in enumerate(values)]

    def entries(self, *keys: str) -> dict[str, "Part"]:
        """Return the parts of a mapping; none where there is no mapping."""
        found = self.at(*keys)
        values = found.value if isinstance(found.value, dict) else {}
        return {key: Part(self.document, (*found.path, key), value) for key, value in values.items()}

    @property
    def exists(self) -> bool:
        """Whether a value is given."""
        return self.value is not None

    @property
    def text(self) -> str:
        """The text, or none."""
        return self.value if isinstance(self.value, str) else ""

    @property
    def number(self) -> int | None:
        """The integer, or ``None``."""
        return self.value if isinstance(self.value, int) and not isinstance(self.value, bool) else None

    def refuse(self, what: str, fix: str) -> None:
        """Report a problem with it."""
        self.document.refuse(self.path, what, fix)

    def documents(self) -> list[Document]:
        """Read its text as YAML, and report what is wrong with that."""
        line = self.document.lines.get(self.path, self.document.first_line)
        first = self.document.texts.get(self.path, line)
        prefix = f"{self.document.prefix}{write_path(self.path)} > "
        return read_documents(self.text, self.document.file, self.document.problems, first_line=first, prefix=prefix)


def write_path(path: Path) -> str:
    """Return a path in its usual spelling, such as ``spec.workerGroupSpecs[0].replicas``."""
    text = ""
    for step in path:
        if isinstance(step, str) and _SIMPLE_KEY.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{step!r}]"
    return text or "the document"


def read_documents(
    text: str, file: str, problems: list[Problem], *, first_line: int = 1, prefix: str = ""
) -> list[Document]:
    """Read YAML as Kubernetes does: keys are text and unique, dates are text.

    Args:
        text: one document or several.
        file: named in problems.
        problems: list to which YAML errors are added.
        first_line: of the text within the file.
        prefix: see :class:`Document`.

    Returns:
        Every document up to the first that is not YAML, without empty ones.
    """
    found: list[Document] = []
    document = Document(file, first_line, prefix, problems)
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_node():
            document = Document(file, first_line, prefix, problems)
            node = loader.get_node()
            assert node is not None
            document.first_line = first_line + node.start_mark.line
            document.value = _Builder(loader.construct_object, document, first_line).build(node, ())
            if document.value is not None:
                found.append(document)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        document.first_line = first_line + (mark.line if mark else 0)
        document.refuse((), f"this is not YAML ({getattr(error, 'problem', None) or error})", "correct the syntax")
    except RecursionError:
        document.refuse((), "is nested too deeply", "write it flatter")
    except _TooManyValuesError:
        document.refuse((), f"has more than {MAX_VALUES} values once aliases are expanded", "write it without aliases")
    return found


class _TooManyValuesError(Exception):
    pass


class _Builder:
    """Makes values of YAML nodes."""

    def __init__(self, scalar: Callable[[Any], Any], document: Document, first_line: int) -> None:
        self._scalar = scalar
        self._document = document
        self._first_line = first_line
        self._count = 0

    def build(self, node: yaml.Node, path: Path) -> Any:
        self._count += 1
        if self._count > MAX_VALUES:
            raise _TooManyValuesError
        line = self._first_line + node.start_mark.line
        self._document.lines.setdefault(path, line)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, row)) for row, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if getattr(node, "style", None) == "|":
            self._document.texts[path] = line + 1
        try:
            value = self._scalar(node)
        except ValueError:  # such as the 31st of June, which is text to Kubernetes
            return node.value
        return value if isinstance(value, _PLAIN) else node.value

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                several = isinstance(value_node, yaml.SequenceNode)
                for one in reversed(value_node.value) if several else [value_node]:
                    value = self.build(one, path)
                    if isinstance(value, dict):
                        merged |= value
                continue
            key = str(key_node.value)
            where = (*path, key)
            self._document.lines[where] = self._first_line + key_node.start_mark.line
            if key_node.tag != "tag:yaml.org,2002:str":
                self._document.refuse(where, "this key is not text", "write it in quotes")
            if key in own:
                self._document.refuse(where, "appears twice, and the first is ignored", "remove one of them")
            own[key] = self.build(value_node, where)
        return merged | own
