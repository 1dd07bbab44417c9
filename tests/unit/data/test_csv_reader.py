from io import BytesIO

import pyarrow as pa
import pytest

from derm_ray.data.csv_reader import CsvTables
from derm_ray.errors import ConfigError, ManifestError

PLAIN = "lesion_id,age,note\nL1,45,x\nL2,50,y\n"
ROWS = [{"lesion_id": "L1", "age": "45", "note": "x"}, {"lesion_id": "L2", "age": "50", "note": "y"}]


def read(data: bytes | str, rows: int = 100, **options: str) -> pa.Table:
    encoded = data.encode() if isinstance(data, str) else data
    return pa.concat_tables(CsvTables(BytesIO(encoded), "m.csv", rows, **options))


@pytest.mark.parametrize(
    "data",
    [
        PLAIN,
        *(PLAIN.replace(",", delimiter) for delimiter in ";\t|"),
        PLAIN.encode("utf-8-sig"),
        PLAIN.replace(",", ";").encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.encode("utf-32"),
        "sep=;\r\n" + PLAIN.replace(",", ";").replace("\n", "\r\n"),
        '"sep=|"\n' + PLAIN.replace(",", "|"),
        PLAIN.replace("\n", "\r"),
        "\n\n" + PLAIN.rstrip("\n"),
        PLAIN.replace("L2", ",,\n , ,\nL2") + ",,\n,,,,\n\n",
        PLAIN.replace("\n", ",\n"),
        ",lesion_id,age,note\n0,L1,45,x\n1,L2,50,y\n",
        PLAIN.replace("age", " age\u00a0"),
        '"lesion_id","age","note"\n"L1","45","x"\n"L2","50","y"\n',
    ],
)
def test_what_programs_write_is_one_table(data: bytes | str) -> None:
    assert read(data).to_pylist() == ROWS
    assert read(data, rows=1).to_pylist() == ROWS


def test_cells_are_kept_as_they_are() -> None:
    table = read('id;text\n007;"a; ""b""\nc, d"\n NA ;\n')
    assert table.to_pylist() == [{"id": "007", "text": 'a; "b"\nc, d'}, {"id": " NA ", "text": None}]


def test_a_delimiter_in_texts_is_not_taken_for_the_one_between_columns() -> None:
    assert read("id\tage (years; about)\nA, B\t4\nC, D; E\t5\n").column_names == ["id", "age (years; about)"]
    assert read("id,age (years; about)\nA,4\nC,5\n").column_names == ["id", "age (years; about)"]
    assert read("#,id\n1,2\n").column_names == ["#", "id"]


def test_a_header_alone_is_an_empty_table() -> None:
    table = read("lesion_id,age\n")
    assert (table.column_names, table.num_rows) == (["lesion_id", "age"], 0)


def test_options_say_what_cannot_be_seen() -> None:
    assert read("id,x\nM\u00fcller,1\n".encode("cp1252"), encoding="cp1252")["id"].to_pylist() == ["M\u00fcller"]
    assert read(PLAIN.encode("utf-16-be"), encoding="utf-16-be").to_pylist() == ROWS
    assert read("a;b,c\n1;2,3\n", delimiter=";").column_names == ["a", "b,c"]
    assert read("sep=,\na;b\n1;2\n", delimiter=";").column_names == ["a", "b"]
    for options in ({"delimiter": ";;"}, {"delimiter": '"'}, {"encoding": "klingon"}, {"encoding": "rot13"}):
        with pytest.raises(ConfigError, match=r"--delimiter|--encoding"):
            read(PLAIN, **options)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "is empty"),
        ("\n\n \n", "must name the columns"),
        (PLAIN.replace("x", "x,"), r"row 1 \(line 2\) has 4 cells, the header has 3"),
        (PLAIN.replace("L1", "L0,1,\n,,\nL1").replace("y", "y,z"), r"row 3 \(line 5\) has 4 cells"),
        (PLAIN.replace(",y", ""), r"row 2 \(line 3\) has 2 cells, the header has 3. Is it cut off"),
        (PLAIN.replace("L1", "# old\nL1"), r"row 1 \(line 2\) has 1 cell.*Comments are not supported"),
        ("# of 2020\n" + PLAIN, "line 1 begins with '#'"),
        (PLAIN.replace("note", "age"), "column 'age' occurs more than once; keep one"),
        (PLAIN.replace("note", " age "), "column 'age' occurs more than once; keep one"),
        (PLAIN.replace("note", ""), "column 3 has no name, but row 1 has the value 'x'"),
        ("a;b,c\n1;2,3\n4;5,6\n", "the header contains ',' and ';'"),
        ("a;b,c\n", "--delimiter"),
        (PLAIN.replace("x", '"x'), r"row 1 \(line 2\): unexpected end of data"),
        (PLAIN.replace("L2", '"L2"2'), r"row 2 \(line 3\): ',' expected after '\"'"),
        (PLAIN.replace("x", "x" * 200_000), r"row 1 \(line 2\): field larger"),
        (PLAIN.replace("x", "x" * 2_000_000), "line 2 is longer than"),
        (PLAIN.replace("x", "\0"), "NUL"),
        (PLAIN.replace("x", "x" * 5000 + "\0"), "line 2 contains a NUL"),
        (PLAIN.replace("x", "\u00fc").encode("cp1252"), r"line 2 cannot be read as utf-8 \(byte 0xfc\).*--encoding"),
        (PLAIN.encode("utf-16-le"), "--encoding utf-16-le"),
        (PLAIN.encode("utf-16-be"), "UTF-16 without a byte order mark"),
        (PLAIN.encode("utf-16")[:-1], "cannot be read as utf-16"),
        (b"PK\x03\x04\x14\x00\x06\x00", "Excel workbook"),
        (b"\x1f\x8b\x08\x00", "gzip"),
    ],
)
def test_what_is_not_certain_is_one_message_with_its_place(data: bytes | str, message: str) -> None:
    with pytest.raises(ManifestError, match=message) as caught:
        read(data)
    assert len(caught.value.problems) == 1


def test_a_byte_order_mark_that_contradicts_the_encoding_is_refused() -> None:
    with pytest.raises(ManifestError, match="Remove --encoding"):
        read(PLAIN.encode("utf-8-sig"), encoding="cp1252")
    assert read(PLAIN.encode("utf-8-sig"), encoding="utf8").to_pylist() == ROWS


def test_a_long_file_is_read_in_pieces() -> None:
    class Source(BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.taken += len(data)
            return data

        read1 = read

    source = Source(b"id,x\n" + b"L,1\n" * 200_000)
    pieces = iter(CsvTables(source, "m.csv", 1000))
    assert next(pieces).num_rows == 1000
    assert source.taken < 50_000
