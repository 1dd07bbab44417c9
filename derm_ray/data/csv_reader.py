"""CSV files of any delimiter and encoding as tables of text, in bounded memory. Ambiguity is an error."""

import codecs
import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import TextIOWrapper
from itertools import chain, islice
from typing import BinaryIO

import pyarrow as pa

from derm_ray.errors import ConfigError, ManifestError, counted

DELIMITERS = (",", ";", "\t", "|")
"""Detected automatically; others must be specified."""
MAX_LINE = 1 << 20
"""Characters of one line."""
_SAMPLE_LINES = 100
_MARKS = {  # the longer ones first: UTF-32's begins like UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHER_FORMATS = {
    b"PK\x03\x04": "an Excel workbook or another zip file. Export it as 'CSV UTF-8'",
    b"\xd0\xcf\x11\xe0": "an Excel workbook (.xls). Export it as 'CSV UTF-8'",
    b"\x1f\x8b": "compressed with gzip. Unpack it",
    b"PAR1": "a Parquet file. Name it .parquet",
}
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_UNDECODED = re.compile("[\udc80-\udcff]")  # undecodable bytes under ``surrogateescape``


@dataclass
class CsvTables:
    """A CSV's rows as tables of text columns, empty cells null.

    Every row needs as many cells as the header. Rows of empty cells, which spreadsheets leave, are skipped and do not
    count in row numbers. A column without a name is left out where it is the first one (an index that pandas or R
    wrote) or has no values.

    Attributes:
        file: seekable, binary.
        uri: for messages.
        rows: most rows in one table.
        delimiter: one character, or ``tab``; ``None`` takes that of a first line ``sep=;``, else the one of ``,``,
            ``;``, tab and ``|`` that occurs in the header, or that gives every row as many cells as the header.
        encoding: a name that Python knows; ``None`` uses the byte order mark, or UTF-8 without one.
        empty_rows: rows that were skipped so far.

    Raises:
        ConfigError: the delimiter is not a single character, or there is no such encoding.
    """

    file: BinaryIO
    uri: str
    rows: int
    delimiter: str | None = None
    encoding: str | None = None
    empty_rows: int = 0
    _row: int = field(default=0, init=False)
    _line: int = field(default=0, init=False)
    _skipped: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            self.delimiter = "\t" if self.delimiter.lower() in ("tab", r"\t") else self.delimiter
            if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
                raise ConfigError(f"--delimiter {self.delimiter!r}: give one character, such as ';', or tab.")
        try:
            "".encode(self.encoding or "utf-8")
        except (LookupError, ValueError) as error:
            raise ConfigError(
                f"--encoding {self.encoding!r} is unknown. Examples: utf-8, utf-16, cp1252, latin-1."
            ) from error

    def __iter__(self) -> Iterator[pa.Table]:
        """Yield at least one table.

        Raises:
            ManifestError: it is not a CSV, its encoding or delimiter is ambiguous, the header repeats a name or lacks
                one, or a row has more or fewer cells; with the row's number.
        """
        head = self.file.read(4)
        self.file.seek(0)
        encoding = self._encoding(head)
        text = TextIOWrapper(self.file, encoding, errors="surrogateescape", newline="")
        try:
            yield from self._tables(self._lines(text, encoding))
        finally:
            with suppress(ValueError):  # the file may be closed already
                text.detach()

    def _tables(self, lines: Iterator[str]) -> Iterator[pa.Table]:
        sample = list(islice(lines, _SAMPLE_LINES))
        cut = len(sample) == _SAMPLE_LINES
        while sample and not sample[0].strip():
            del sample[0]
            self._skipped += 1
        separator = _SEPARATOR_LINE.fullmatch(sample[0].strip("\r\n")) if sample else None
        if separator:
            del sample[0]
            self._skipped += 1
        delimiter = self.delimiter or (separator[1] if separator else self._detected(sample, cut=cut))
        records = self._records(chain(sample, lines), delimiter)
        names = self._header(next(records, []))
        count = 0
        while batch := list(islice(self._checked(records, len(names)), self.rows)):
            yield self._table(names, batch, count)
            count += len(batch)
        if not count:
            yield self._table(names, [], 0)

    def _refuse(self, *problems: str) -> ManifestError:
        return ManifestError(self.uri, problems)

    def _encoding(self, head: bytes) -> str:
        if not head:
            raise self._refuse("is empty; the first line of a CSV must name the columns")
        if other := next((what for mark, what in _OTHER_FORMATS.items() if head.startswith(mark)), None):
            raise self._refuse(f"is not a CSV but {other}")
        marked = next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None)
        asked = codecs.lookup(self.encoding).name if self.encoding else None
        if marked and asked and not asked.startswith(marked.removesuffix("-sig")):
            raise self._refuse(
                f"its byte order mark says {marked.removesuffix('-sig')}, not {asked}. Remove --encoding"
            )
        return marked or asked or "utf-8"

    def _lines(self, text: TextIOWrapper, encoding: str) -> Iterator[str]:
        number = 0
        while True:
            number += 1
            try:
                line = text.readline(MAX_LINE)
            except UnicodeError as error:
                raise self._refuse(f"after line {number - 1}: cannot be read as {encoding}: {error}") from error
            if not line:
                return
            if len(line) == MAX_LINE:
                raise self._refuse(f"line {number} is longer than {MAX_LINE:,} characters")
            if not line.isascii() and (found := _UNDECODED.search(line)):
                raise self._refuse(
                    f"line {number} cannot be read as {encoding} (byte 0x{ord(found[0]) - 0xDC00:02x}). Save it as "
                    "UTF-8 (Excel: 'CSV UTF-8'), or specify its encoding: `derm-ray data import folder --encoding "
                    "cp1252` (Windows), latin-1, mac_roman ..."
                )
            if "\0" in line:
                raise self._refuse(
                    f"line {number} contains a NUL character: the file is damaged, or UTF-16 without a byte order "
                    "mark. Save it as UTF-8, or specify it: `derm-ray data import folder --encoding utf-16-le`"
                )
            yield line

    def _detected(self, sample: list[str], *, cut: bool) -> str:
        candidates = {name: _shape(sample, name, cut=cut) for name in DELIMITERS}
        present = [name for name, counts in candidates.items() if counts and counts[0] > 1]
        if len(present) < 2:
            return present[0] if present else ","
        fitting = [name for name in present if len(candidates[name]) > 1 and len(set(candidates[name])) == 1]
        if len(fitting) == 1:
            return fitting[0]
        names = " and ".join(map(repr, fitting or present))
        raise self._refuse(
            f"the header contains {names}, and the rows do not show which one is the delimiter. Specify it: "
            "`derm-ray data import folder --delimiter ';'`"
        )

    def _records(self, lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            for record in reader:
                self._line = reader.line_num + self._skipped
                yield record
        except csv.Error as error:
            where = f"row {self._row + 1} (line {self._line + 1})" if self._line else "the header"
            raise self._refuse(
                f"{where}: {error}. Is a quotation mark not closed, or not doubled within quotes?"
            ) from error

    def _header(self, cells: list[str]) -> list[str]:
        if cells and cells[0].startswith("#") and cells[0].strip() != "#":
            raise self._refuse(
                f"line {self._line} begins with '#': comments are not supported. The first line must name the columns; "
                "remove the lines above it"
            )
        names = [unicodedata.normalize("NFC", cell).strip() for cell in cells]
        if not any(names):
            raise self._refuse("the first line is empty; it must name the columns")
        if twice := [name for name, count in Counter(names).items() if count > 1 and name]:
            raise self._refuse(*(f"column {name!r} occurs more than once; keep one" for name in twice))
        return names

    def _checked(self, records: Iterator[list[str]], width: int) -> Iterator[list[str]]:
        for cells in records:
            if not any(map(str.strip, cells)):
                self.empty_rows += bool(cells)
                continue
            self._row += 1
            if len(cells) != width:
                hint = "Quote cells that contain the delimiter, or remove it"
                if cells[0].startswith("#"):
                    hint = "Comments are not supported; remove the line"
                elif len(cells) < width:
                    hint = "Is it cut off?"
                found = f"row {self._row} (line {self._line}) has {counted(len(cells), 'cell')}"
                raise self._refuse(f"{found}, the header has {width}. {hint}")
            yield cells

    def _table(self, names: Sequence[str], batch: list[list[str]], before: int) -> pa.Table:
        columns = {}
        for number, name in enumerate(names):
            values = [record[number] or None for record in batch]
            if name:
                columns[name] = pa.array(values, pa.string())
            elif number and (row := next((row for row, value in enumerate(values, 1) if (value or "").strip()), 0)):
                raise self._refuse(
                    f"column {number + 1} has no name, but row {before + row} has the value {values[row - 1]!r}. "
                    "Name the column"
                )
        return pa.table(columns)


def _shape(sample: list[str], delimiter: str, *, cut: bool) -> list[int]:
    """Return the number of cells of the header and of each row that is not empty; but of a cut last one."""
    records: list[list[str]] = []
    with suppress(csv.Error):
        records.extend(csv.reader(sample, delimiter=delimiter))
    if cut and len(records) > 1:
        records.pop()
    return [len(record) for number, record in enumerate(records) if number == 0 or any(map(str.strip, record))]
