"""Grouping files into pairs by a pairing rule."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from derm_ray.data.archives import streams
from derm_ray.data.archives.address import MAX_BYTES, Address, StreamMember, is_sequential, parse
from derm_ray.data.archives.names import quoted, shown
from derm_ray.data.archives.pairing import PairingRule
from derm_ray.data.archives.source import SourceFile
from derm_ray.data.manifest import URI_COLUMNS
from derm_ray.data.normalization import has_unseen, is_missing
from derm_ray.domain import Modality

Location = Address | str
"""Of an image: inside an archive, or the URI of an ordinary file."""


@dataclass(slots=True)
class Pair:
    """A future manifest row; ``order`` is the number of its first file, ``columns`` are all but the images."""

    order: int
    columns: dict[str, object]
    images: dict[str, Location] = field(default_factory=dict)


class Pairs:
    """Pairs by id.

    Attributes:
        problems: one line each.
    """

    def __init__(self, rule: PairingRule) -> None:
        self._rule = rule
        self._pairs: dict[str, Pair] = {}
        self._ids_of_tables: set[str] = set()
        self.problems: list[str] = []

    def ordered(self) -> list[Pair]:
        """Return the pairs in the order of their first files."""
        return sorted(self._pairs.values(), key=lambda pair: pair.order)

    def add(self, order: int, file: SourceFile) -> bool:
        """Add a file as an image of a pair; return ``False`` if no pattern matches."""
        matches = self._rule.match(file.path)
        if len(matches) > 1:
            self.problems.append(f"{shown(file.path)}: matches both a clinical and a dermoscopy pattern")
        elif matches:
            ((modality, found),) = matches.items()
            self._put(order, file, modality, found)
        return bool(matches)

    def _put(self, order: int, file: SourceFile, modality: Modality, found: dict[str, str]) -> None:
        pair_id = found.get("pair_id") or found["lesion_id"]
        columns: dict[str, object] = {"pair_id": pair_id, "lesion_id": pair_id, **found}
        pair = self._pairs.get(pair_id)
        if pair is None:
            for name in ("pair_id", "lesion_id"):
                if why := _id_problem(str(columns[name])):
                    self.problems.append(f"{shown(file.path)}: its {name} {why}")
            pair = self._pairs[pair_id] = Pair(order, columns)
        column = f"{modality}_uri"
        if column in pair.images:
            self.problems.append(f"{shown(file.path)}: a second {modality} image of pair {quoted(pair_id)}")
        elif pair.columns != columns:
            self.problems.append(
                f"{shown(file.path)}: its fields differ from those of the other image of pair {quoted(pair_id)}"
            )
        pair.images[column] = file.location

    def put_row(self, order: int, row: dict[str, object]) -> None:
        """Add a whole row of manifest columns."""
        pair_id = str(row["pair_id"])
        self.check(pair_id, pair_id)
        images: dict[str, Location] = {name: str(row[name]) for name in URI_COLUMNS if row.get(name)}
        self._pairs[pair_id] = Pair(order, {name: row[name] for name in row if name not in URI_COLUMNS}, images)

    def check(self, pair_id: str | None, lesion_id: str | None) -> None:
        """Check the ids of a row that a table or DICOM headers give."""
        why = _id_problem(pair_id or "") or _id_problem(lesion_id or "")
        if pair_id in self._pairs or pair_id in self._ids_of_tables:
            why = "occurs more than once; ids must be unique across all archives of a folder"
        if why:
            self.problems.append(f"pair_id {quoted(pair_id or '')} or its lesion_id {why}")
        self._ids_of_tables.add(pair_id or "")


def _id_problem(value: str) -> str | None:
    if is_missing(value):
        return "is empty, or a word for a missing value (NA, None, nan, null, unknown)"
    return "contains invisible characters" if has_unseen(value) else None


def unstreamable(locations: Iterable[Location]) -> Iterator[str]:
    """Yield a line for every ``.tar.gz`` that cannot be read in this order within the memory for passed members."""
    members: dict[str, list[StreamMember]] = defaultdict(list)
    for location in locations:
        address = parse(location) if isinstance(location, str) and is_sequential(location) else location
        if isinstance(address, StreamMember) and address.size <= MAX_BYTES:
            members[address.container].append(address)
    for uri, wanted in members.items():
        if (held := _max_held(wanted)) > streams.MAX_HELD_BYTES:
            yield (
                f"{shown(uri)}: images of one pair are so far apart that {held:,} bytes would have to be buffered, "
                f"at most {streams.MAX_HELD_BYTES:,} are allowed; repack it as .tar"
            )


def _max_held(wanted: list[StreamMember]) -> int:
    """Return the most bytes that wait while members are read in this order from a stream."""
    stream = sorted(wanted, key=lambda member: member.position)
    positions = [member.position for member in stream]
    passed = list(accumulate(member.size for member in stream))
    reached = most = delivered = 0
    for member in wanted:
        reached = max(reached, bisect_right(positions, member.position))
        most = max(most, passed[reached - 1] - delivered)
        delivered += member.size
    return most
