"""Which files of an archive make a pair: patterns on their paths."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from derm_ray.data.manifest import ID_COLUMNS, URI_COLUMNS
from derm_ray.data.normalization import normalize
from derm_ray.domain import Modality
from derm_ray.errors import ConfigError

COLUMNS = {"lesion": "lesion_id", "pair": "pair_id", "patient": "patient_id"}
EXAMPLE = "clinical/{lesion}.jpg"
_TOKEN = re.compile(r"\{([^{}]*)\}|([*{}])|([^*{}]+)")
_FIELD = re.compile(r"([a-z_][a-z0-9_]*)(:path)?")
_EXTENSION = re.compile(r"\.[A-Za-z0-9]+\Z")


@dataclass(frozen=True)
class PairingRule:
    """Patterns of the two images' paths inside an archive.

    ``{field}`` matches any text without ``/``, ``{field:path}`` any text, ``*`` any text without ``/`` or nothing. The
    rest matches literally, a final extension in any case. ``lesion``, ``pair`` and ``patient`` fill the manifest's
    columns of these ids, other fields the columns of their names. A pair without ``{pair}`` has its lesion's id.

    Args:
        clinical: patterns of clinical photos.
        dermoscopy: patterns of dermoscopy images.

    Raises:
        ConfigError: a pattern is wrong, or they do not agree on the fields.
    """

    clinical: Sequence[str]
    dermoscopy: Sequence[str]

    def __post_init__(self) -> None:
        for modality in Modality:
            patterns = getattr(self, modality)
            object.__setattr__(self, modality, (patterns,) if isinstance(patterns, str) else tuple(patterns))
        if not self.clinical and not self.dermoscopy:
            raise ConfigError(f"no pattern given. Give one such as {EXAMPLE!r}.")
        first, *others = (*self.clinical, *self.dermoscopy)
        fields = self._compiled[0][1].groupindex.keys()
        for pattern, (_, compiled) in zip(others, self._compiled[1:], strict=True):
            if compiled.groupindex.keys() != fields:
                raise ConfigError(
                    f"patterns {first!r} and {pattern!r} have different fields. Use the same in all patterns."
                )
        if not fields & {"lesion_id", "pair_id"}:
            raise ConfigError(f"pattern {first!r} has no {{lesion}} or {{pair}}; write it like {EXAMPLE!r}.")

    @cached_property
    def _compiled(self) -> list[tuple[Modality, re.Pattern[str]]]:
        return [(modality, _compile(pattern)) for modality in Modality for pattern in getattr(self, modality)]

    def match(self, path: str) -> dict[Modality, dict[str, str]]:
        """Match a path: modality -> column -> value; empty if no pattern matches."""
        found: dict[Modality, dict[str, str]] = {}
        for modality, pattern in self._compiled:
            if modality not in found and (match := pattern.fullmatch(path)):
                groups = match.groupdict()
                found[modality] = {name: normalize(v) if name in ID_COLUMNS else v for name, v in groups.items()}
        return found


def _compile(pattern: str) -> re.Pattern[str]:
    extension = _EXTENSION.search(pattern)
    stem = pattern[: extension.start()] if extension else pattern
    parts: list[str] = []
    seen: set[str] = set()
    for field, sign, text in _TOKEN.findall(stem):
        if sign == "*":
            parts.append("[^/]*")
        elif text:
            parts.append(re.escape(text))
        else:
            parts.append(_group(pattern, field, sign, seen))
    if extension:
        parts.append(f"(?i:{re.escape(extension[0])})")
    return re.compile("".join(parts), re.DOTALL)


def _group(pattern: str, field: str, sign: str, seen: set[str]) -> str:
    match = _FIELD.fullmatch(field)
    if sign or match is None:
        raise ConfigError(
            f"pattern {pattern!r}: write a field as {{name}} or {{name:path}}, in lowercase letters, "
            f"such as {EXAMPLE!r}."
        )
    name = COLUMNS.get(match[1], match[1])
    if name in URI_COLUMNS:
        raise ConfigError(
            f"pattern {pattern!r}: {{{match[1]}}} is set from the files themselves. Use another field name."
        )
    if name in seen:
        return f"(?P={name})"
    seen.add(name)
    return f"(?P<{name}>{'.+' if match[2] else '[^/]+'})"


DEFAULT_RULE = PairingRule(
    clinical=("{lesion:path}/clinical.*", "{lesion:path}.clinical.*"),
    dermoscopy=("{lesion:path}/dermoscopy.*", "{lesion:path}.dermoscopy.*"),
)
"""A folder per lesion, and the naming of WebDataset."""
