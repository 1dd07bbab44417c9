"""Grouping files into pairs by a pairing rule."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from derm_ray.data.archives import streams
from derm_ray.data.archives.address import Address, StreamMember, is_sequential, parse
from derm_ray.data.archives.names import quoted, shown
from derm_ray.data.archives.pairing import PairingRule
from derm_ray.data.archives.reader import MAX_BYTES
from derm_ray.data.archives.source import SourceFile
from derm_ray.data.manifest import URI_COLUMNS
from derm_ray.data.normalization import has_unseen, is_missing
from derm_ray.domain import Modality

REPEATED = "occurs more than once; ids must be unique across all archives of a folder"


@dataclass(slots=True)
class Pair:
    """A future manifest row; ``order`` is the number of its first file, ``columns`` are all but the images."""

    order: int
    columns: tuple[str, ...]
    values: tuple[object, ...]
    clinical: Address | str | None = None
    dermoscopy: Address | str | None = None

    @property
    def locations(self) -> list[Address | str]:
        """The images present."""
        return [location for location in (self.clinical, self.dermoscopy) if location is not None]

    def row(self) -> dict[str, object]:
        """Return the manifest's row; an absent image is ``None``."""
        uris = {f"{modality}_uri": getattr(self, modality) for modality in Modality}
        return dict(zip(self.columns, self.values, strict=True)) | uris


class Pairs:
    """Pairs by id.

    Attributes:
        problems: one line each.
    """

    def __init__(self, rule: PairingRule) -> None:
        self._rule = rule
        self._columns = tuple(dict.fromkeys(("pair_id", "lesion_id", *rule.columns)))
        self._pairs: dict[str, Pair] = {}
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
        row = {"pair_id": pair_id, "lesion_id": pair_id, **found}
        values = tuple(row[name] for name in self._columns)
        pair = self._pairs.get(pair_id)
        if pair is None:
            for name in ("pair_id", "lesion_id"):
                if why := id_refusal(row[name]):
                    self.problems.append(f"{shown(file.path)}: its {name} {why}")
            pair = self._pairs[pair_id] = Pair(order, self._columns, values)
        if getattr(pair, modality) is not None:
            self.problems.append(f"{shown(file.path)}: a second {modality} image of pair {quoted(pair_id)}")
        elif pair.values != values:
            self.problems.append(
                f"{shown(file.path)}: its fields differ from those of the other image of pair {quoted(pair_id)}"
            )
        setattr(pair, modality, file.location)

    def put_row(self, order: int, row: dict[str, object]) -> None:
        """Add a whole row of manifest columns."""
        pair_id = str(row["pair_id"])
        if why := id_refusal(pair_id) or self.repeated(pair_id):
            self.problems.append(f"pair_id {quoted(pair_id)} {why}")
        columns = tuple(name for name in row if name not in URI_COLUMNS)
        clinical, dermoscopy = (str(row[name]) if row.get(name) else None for name in URI_COLUMNS)
        self._pairs[pair_id] = Pair(order, columns, tuple(row[name] for name in columns), clinical, dermoscopy)

    def repeated(self, pair_id: str) -> str | None:
        """Return why an id cannot be used again, or ``None``."""
        return REPEATED if pair_id in self._pairs else None


def id_refusal(value: str) -> str | None:
    """Return what is wrong with an id, or ``None``."""
    if is_missing(value):
        return "is empty, or a word for a missing value (NA, None, nan, null, unknown)"
    return "contains invisible characters" if has_unseen(value) else None


def unstreamable(locations: Iterable[Address | str]) -> Iterator[str]:
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
