"""Extension points: named things that a recipe or an option chooses."""

import pkgutil
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from derm_ray.errors import ConfigError, unknown_name

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Things of one kind by name; names are known without importing the modules that the things are in.

    A thing is added by one line: ``"name": "module:object"`` where the registry is made, or an entry point
    ``name = "module:object"`` in the group ``derm_ray.<kind>`` of any installed package (``_`` for blanks).
    Code and tests use :meth:`add`.

    Args:
        kind: what the things are, for messages, such as ``trunk``.
        known: name -> ``module:object``.
        families: prefix -> ``module:function``, which returns the thing named ``prefix/NAME`` for any ``NAME``.
    """

    def __init__(self, kind: str, known: Mapping[str, str], families: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._families = families or {}
        self._found: dict[str, T | str] = dict(known)
        self._twice: dict[str, str] = {}
        self._complete = False

    def add(self, name: str, thing: T | str) -> None:
        """Add a thing, or a reference ``module:object`` to it.

        Raises:
            ConfigError: the name is taken.
        """
        if name in self._things():
            raise ConfigError(f"{self.kind} {name!r} is registered twice. Give the new one another name.")
        self._found[name] = thing

    def __getitem__(self, name: str) -> T:
        """Return a thing by name.

        Raises:
            ConfigError: the name is unknown or stands for two things, or what it stands for cannot be imported.
        """
        family, slash, member = name.partition("/")
        if slash and family in self._families:
            return cast("T", pkgutil.resolve_name(self._families[family])(member))
        self.check(name)
        things = self._things()
        thing = things[name]
        if isinstance(thing, str):
            try:
                thing = things[name] = cast("T", pkgutil.resolve_name(thing))
            except (ImportError, AttributeError, ValueError) as error:
                raise ConfigError(f"{self.kind} {name!r} is {thing}, which cannot be imported: {error}.") from error
        return thing

    def check(self, name: str) -> None:
        """Check a name; nothing is imported but for a member of a family.

        Raises:
            ConfigError: the name is unknown or stands for two things.
        """
        if name not in self:
            raise ConfigError(unknown_name(self.kind, name, self._names()))
        if name in self._twice:
            raise ConfigError(
                f"{self.kind} {name!r} is registered twice, once more as {self._twice[name]}. Rename or uninstall that."
            )
        if name not in self._things():
            self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._things())

    def __contains__(self, name: object) -> bool:
        return name in self._things() or ("/" in str(name) and str(name).partition("/")[0] in self._families)

    def __len__(self) -> int:
        return len(self._things())

    def __str__(self) -> str:
        """Return the names, for help texts."""
        return ", ".join(self._names())

    def _names(self) -> tuple[str, ...]:
        return (*self, *(f"{family}/NAME" for family in self._families))

    def _things(self) -> dict[str, T | str]:
        """Return what is registered; that of other packages is looked up once."""
        if not self._complete:
            self._complete = True
            for point in entry_points(group=f"derm_ray.{self.kind.replace(' ', '_')}"):
                if point.name in self._found:
                    self._twice[point.name] = point.value
                self._found[point.name] = point.value
        return self._found
