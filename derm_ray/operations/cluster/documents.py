"""YAML files as documents in which every value knows its line, so that problems can be reported there."""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]

_TEXT = "tag:yaml.org,2002:str"
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
        node: YAML's own tree, which knows the lines.
    """

    file: str
    first_line: int = 1
    prefix: str = ""
    problems: list[Problem] = field(default_factory=list)
    value: Any = None
    node: yaml.Node | None = None

    @property
    def root(self) -> "Part":
        """The whole document."""
        return Part(self, (), self.value)

    def refuse(self, path: Path, what: str, fix: str) -> None:
        """Report a problem with the value at a path, or with its absence."""
        line, _ = self.locate(path)
        self.problems.append(Problem(self.file, line, self.prefix + write_path(path), what, fix))

    def locate(self, path: Path) -> tuple[int, yaml.Node | None]:
        """Return line and node of the value at a path, or of the last one on the way that exists."""
        node = self.node
        line = node.start_mark.line if node else 0
        for step in path:
            children: dict[str | int, tuple[int, yaml.Node]] = {}
            if isinstance(node, yaml.MappingNode):
                children = {key.value: (key.start_mark.line, value) for key, value in node.value}
            elif isinstance(node, yaml.SequenceNode):
                children = {row: (value.start_mark.line, value) for row, value in enumerate(node.value)}
            if step not in children:
                break
            line, node = children[step]
        return self.first_line + line, node


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
        line, node = self.document.locate(self.path)
        if node is not None and getattr(node, "style", None) == "|":  # the text begins below
            line = self.document.first_line + node.start_mark.line + 1
        prefix = f"{self.document.prefix}{write_path(self.path)} > "
        return read_documents(self.text, self.document.file, self.document.problems, first_line=line, prefix=prefix)


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
        loader = _Loader(text)
        while loader.check_node():
            document = Document(file, first_line, prefix, problems)
            document.node = loader.get_node()
            assert document.node is not None
            _check_keys(document, document.node, ())
            document.value = loader.construct_document(document.node)
            if document.value is not None:
                found.append(document)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = first_line + (mark.line if mark else 0)
        reason = f"this is not YAML ({getattr(error, 'problem', None) or error})"
        problems.append(Problem(file, line, prefix + write_path(()), reason, "correct the syntax"))
    except RecursionError:
        document.refuse((), "is nested too deeply", "write it flatter")
    return found


class _Loader(yaml.SafeLoader):
    """Reads dates as text, as Kubernetes does."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in the base class
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _check_keys(document: Document, node: yaml.Node, path: Path) -> None:
    """Report keys that are not text or not unique, and make them text."""
    if isinstance(node, yaml.SequenceNode):
        for row, child in enumerate(node.value):
            _check_keys(document, child, (*path, row))
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, child in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                _check_keys(document, child, path)
                continue
            where = (*path, str(key.value))
            if key.tag != _TEXT:
                document.refuse(where, "this key is not text", "write it in quotes")
                key.tag = _TEXT
            if where[-1] in seen:
                document.refuse(where, "appears twice, and the first is ignored", "remove one of them")
            seen.add(str(where[-1]))
            _check_keys(document, child, where)
