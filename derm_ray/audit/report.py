"""An audit as one self-contained HTML page, as JSON, and as a table of all findings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from derm_ray import __version__, storage
from derm_ray.audit.audit import Audit
from derm_ray.audit.findings import LIMITS, Problem
from derm_ray.audit.fingerprint import MEASURES, THREADS
from derm_ray.audit.thresholds import HASH_DISTANCE, SIMILARITY
from derm_ray.credentials import redact
from derm_ray.data.archives.reader import ImageReader
from derm_ray.data.preprocessing import Preprocessing, load_image
from derm_ray.domain import Split
from derm_ray.errors import ImageError, counted
from derm_ray.evaluation.plots import jpeg_uri, render_page

HTML_NAME, JSON_NAME, TABLE_NAME = "audit.html", "audit.json", "findings.parquet"
_NAMES = (HTML_NAME, JSON_NAME, TABLE_NAME)
_IDS = ("pair_id", "lesion_id", "split", "diagnosis")
SHOWN = 50
"""Findings of each kind that the page shows."""
SHOWN_IMAGES = 8
"""Images of each of them."""
THUMBNAIL = Preprocessing(112)

TITLES = {
    "duplicates_across_splits": "Duplicates across splits",
    "groups_in_several_splits": "Patients and lesions in several splits",
    "duplicates_in_one_split": "Other duplicates",
    "label_conflicts": "Duplicates whose diagnoses exclude each other",
    "label_errors": "Likely label errors",
    "unreadable": "Images that cannot be used",
    "not_skin": "Images that are perhaps not skin",
    "blurred": "Blurred images",
    "dark": "Dark images",
    "tiny": "Tiny images",
}


@dataclass(frozen=True)
class Finding:
    """One finding: the rows and the uses of images it is about, and its text."""

    kind: str
    rows: tuple[int, ...]
    uses: tuple[int, ...]
    text: str


def findings(audit: Audit) -> dict[str, Iterable[Finding]]:
    """Return the findings of each kind, a key of :data:`TITLES`; a duplicate may be of several kinds."""
    groups = audit.duplicates
    found: dict[str, Iterable[Finding]] = {
        "duplicates_across_splits": _duplicates("duplicates_across_splits", [g for g in groups if g.leak]),
        "groups_in_several_splits": [
            Finding(
                "groups_in_several_splits",
                leak.rows,
                (),
                f"{leak.column} {leak.group} is in {', '.join(leak.splits)}",
            )
            for leak in audit.group_leaks
        ],
        "duplicates_in_one_split": _duplicates("duplicates_in_one_split", [g for g in groups if not g.leak]),
        "label_conflicts": _duplicates("label_conflicts", [g for g in groups if g.conflict]),
    }
    if audit.label_errors is not None:
        uses = _uses_of_rows(audit, [error.row for error in audit.label_errors.errors])
        found["label_errors"] = [
            Finding(
                "label_errors",
                (error.row,),
                uses[error.row],
                f"given {error.given} (probability {error.given_probability:.3f}), perhaps {error.suggested} "
                f"({error.suggested_probability:.3f})",
            )
            for error in audit.label_errors.errors
        ]
    return found | {str(problem): _Problems(audit, problem) for problem in audit.problems}


def _duplicates(kind: str, groups: Sequence[Any]) -> list[Finding]:
    return [
        Finding(
            kind,
            group.rows,
            group.uses,
            ", ".join(
                [
                    "same file" if group.exact else "same photo",
                    counted(len(group.rows), "pair"),
                    f"splits: {' and '.join(group.splits) or 'none'}",
                    f"diagnoses: {' and '.join(group.diagnoses) or 'none'}",
                    *([f"source: {' and '.join(group.sources)}"] if group.sources else []),
                ]
            ),
        )
        for group in groups
    ]


def _uses_of_rows(audit: Audit, rows: Sequence[int]) -> dict[int, tuple[int, ...]]:
    wanted = np.flatnonzero(np.isin(audit.images.rows, rows))
    found: dict[int, tuple[int, ...]] = dict.fromkeys(rows, ())
    for use in wanted.tolist():
        found[int(audit.images.rows[use])] += (use,)
    return found


class _Problems:
    """The images with a problem, each with all its uses, made one by one: there may be millions."""

    def __init__(self, audit: Audit, problem: Problem) -> None:
        self._audit = audit
        self._problem = problem

    def __iter__(self) -> Iterator[Finding]:
        images, found = self._audit.images, self._audit.fingerprints
        order = np.argsort(images.image, kind="stable")
        wanted = self._audit.problems[self._problem]
        first, last = (np.searchsorted(images.image[order], wanted, side) for side in ("left", "right"))
        for image, start, stop in zip(wanted.tolist(), first, last, strict=True):
            uses = order[start:stop]
            if self._problem is Problem.UNREADABLE:
                text = ": ".join(found.errors[image])
            else:
                measure, limit = LIMITS[self._problem]
                value = found.measures[image, MEASURES.index(measure)]
                text = f"{measure.replace('_', ' ')} {value:.3g}, below {limit:g}"
            yield Finding(str(self._problem), tuple(images.rows[uses].tolist()), tuple(uses.tolist()), text)


def write_audit(audit: Audit, out_uri: str, *, images: bool = True) -> dict[str, str]:
    """Write the page, the JSON and the table into a folder.

    Args:
        audit: what was found.
        out_uri: the folder; an earlier audit in it is replaced.
        images: show thumbnails.

    Returns:
        ``html``, ``json`` and ``table``: the URIs.
    """
    found = findings(audit)
    shown = {kind: list(islice(some, SHOWN)) for kind, some in found.items()}
    uris = {name: storage.join(out_uri, file) for name, file in zip(("html", "json", "table"), _NAMES, strict=True)}
    storage.write_json(uris["json"], to_json(audit, shown))
    storage.write_bytes(uris["table"], _table(audit, found))
    storage.write_bytes(uris["html"], render_html(audit, shown, _thumbnails(audit, shown) if images else {}).encode())
    return uris


def to_json(audit: Audit, shown: Mapping[str, Sequence[Finding]]) -> dict[str, Any]:
    """Return counts, thresholds, and the first findings of each kind as JSON types."""
    return {
        "manifest": audit.manifest.uri,
        "manifest_digest": audit.manifest.digest,
        "derm_ray_version": __version__,
        "leak": audit.leak,
        "images": len(audit.images.uris),
        "counts": audit.counts,
        "pairs_checked_for_label_errors": audit.label_errors.checked if audit.label_errors else 0,
        "thresholds": {
            "hash_distance": HASH_DISTANCE,
            "similarity": SIMILARITY,
            **dict(LIMITS.values()),
        },
        "summary": asdict(audit.summary),
        "shown": SHOWN,
        "findings": {
            kind: [{"text": one.text, "images": images} for one, images in zip(some, _cells(audit, some), strict=True)]
            for kind, some in shown.items()
        },
    }


def _cells(audit: Audit, some: Sequence[Finding]) -> list[list[dict[str, Any]]]:
    """Return for each finding its images, or its rows where it is about no image."""
    places: list[list[tuple[int, int | None]]] = [
        [(int(audit.images.rows[use]), use) for use in one.uses] or [(row, None) for row in one.rows] for one in some
    ]
    rows = [row for found in places for row, _ in found]
    taken = iter(audit.manifest.table.select(list(_IDS)).take(pa.array(rows, pa.int64())).to_pylist())
    return [
        [
            {
                "row": row + 1,
                **next(taken),
                "modality": str(audit.images.modality(use)) if use is not None else None,
                "uri": redact(audit.images.uris[audit.images.image[use]]) if use is not None else None,
            }
            for row, use in found
        ]
        for found in places
    ]


def _table(audit: Audit, found: Mapping[str, Iterable[Finding]]) -> bytes:
    """Return Parquet of all findings: a row for each image, or each pair where it is about none."""
    text, sink = pa.string(), BytesIO()
    schema = pa.schema(
        {"finding": text, "number": pa.int64(), "text": text, "row": pa.int64(), "pair_id": text, "lesion_id": text}
        | {"split": text, "diagnosis": text, "modality": text, "uri": text}
    )
    with pq.ParquetWriter(sink, schema) as writer:
        for kind, some in found.items():
            rest, number = iter(some), 0
            while part := list(islice(rest, 4096)):
                cells = [
                    {"finding": kind, "number": number + place, "text": one.text, **cell}
                    for place, (one, images) in enumerate(zip(part, _cells(audit, part), strict=True), 1)
                    for cell in images
                ]
                number += len(part)
                writer.write_table(pa.Table.from_pylist(cells, schema=schema))
    return sink.getvalue()


def _thumbnails(audit: Audit, shown: Mapping[str, Sequence[Finding]]) -> dict[str, str]:
    """Return thumbnails as data URIs, of those images that can be read."""
    uses = {use for some in shown.values() for one in some for use in one.uses[:SHOWN_IMAGES]}
    names = sorted({audit.images.uris[audit.images.image[use]] for use in uses})

    def one(uri: str) -> str | None:
        try:
            return jpeg_uri(load_image(uri, THUMBNAIL, reader).pixels)
        except ImageError:
            return None

    with ImageReader(names) as reader, ThreadPoolExecutor(THREADS) as threads:
        made = dict(zip(names, threads.map(one, names), strict=True))
    return {redact(uri): image for uri, image in made.items() if image is not None}


def render_html(audit: Audit, shown: Mapping[str, Sequence[Finding]], thumbnails: Mapping[str, str]) -> str:
    """Return the page; it loads nothing from elsewhere."""
    totals = dict(audit.counts)
    totals["duplicates_in_one_split"] = len(audit.duplicates) - totals["duplicates_across_splits"]
    sections = [
        {
            "kind": kind,
            "title": TITLES[kind],
            "total": totals[kind],
            "findings": [
                {"text": one.text, "images": images[:SHOWN_IMAGES], "more": len(images[SHOWN_IMAGES:])}
                for one, images in zip(some, _cells(audit, some), strict=True)
            ],
        }
        for kind, some in shown.items()
    ]
    return render_page(
        "derm_ray.audit",
        {},
        audit=audit,
        images=len(audit.images.uris),
        sections=sections,
        splits=[part for part in (*Split, "unsplit") if any(part in row for row in audit.summary.diagnoses.values())],
        thumbnails=thumbnails,
        shown=SHOWN,
        table=TABLE_NAME,
        limits=LIMITS,
        similarity=SIMILARITY,
        hash_distance=HASH_DISTANCE,
    )


def summary_text(audit: Audit) -> str:
    """Return the numbers of findings for a terminal."""
    pairs, images = counted(len(audit.manifest), "pair"), counted(len(audit.images.uris), "image")
    lines = [f"{audit.manifest.uri}: {pairs}, {images}"]
    lines += [f"{count:>9,}  {name.replace('_', ' ')}" for name, count in audit.counts.items()]
    return "\n".join([*lines, "leak found" if audit.leak else "no leak found"])
