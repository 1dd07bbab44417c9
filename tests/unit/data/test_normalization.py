import unicodedata

import pyarrow as pa
import pytest

from derm_ray.data.normalization import column_key, convert, has_unseen, is_missing, normalize, not_numbers


def converted(values: list[object], kind: pa.DataType | None = None, **options: bool) -> list[object]:
    return convert(pa.chunked_array([values]), kind or pa.string(), **options)[0].to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "text", ["PAT1", " PAT1", "PAT1\u00a0", "\u3000PAT1\t", "e\u0301", "\u00e9 ", "None-12", "0", "n a"]
)
def test_columns_and_single_values_have_the_same_form(text: str) -> None:
    assert converted([text]) == [normalize(text)]
    assert not is_missing(text)


@pytest.mark.parametrize(
    "word", ["", " ", "\u00a0", "NA", "n/a", "N.A.", "#N/A", "<NA>", "none", "NaN", "NaT", "NULL", " Unknown "]
)
def test_words_for_missing_are_null_and_counted(word: str) -> None:
    assert is_missing(word)
    column, words = convert(pa.chunked_array([[word, "a", word], [None]]), pa.string())
    assert column.to_pylist() == [None, "a", None, None]
    assert dict(words) == ({word.strip(): 2} if word.strip() else {})
    assert converted([word, "45"], pa.float64()) == [None, 45.0]
    assert converted([word, "3.0"], pa.int64()) == [None, 3]


def test_uris_keep_their_form() -> None:
    decomposed = unicodedata.normalize("NFD", " m\u00fcller.jpg ")
    assert converted([decomposed, "NA", ""], is_uri=True) == [decomposed, None, None]


def test_numbers_as_ids() -> None:
    assert converted([12, None]) == ["12", None]
    assert converted([12.0, float("nan")], is_id=True) == ["12", None]
    for value in (1.5, 2.0**60):
        with pytest.raises(ValueError, match="Write ids as text"):
            converted([value], is_id=True)


def test_texts_that_are_no_numbers_are_named() -> None:
    column = pa.chunked_array([["45", " 45,5 ", "old", None, "NA"]])
    assert list(not_numbers(column, pa.float64())) == [
        (2, "' 45,5 ' is not a number; write 45.5"),
        (3, "'old' is not a number"),
    ]
    assert [row for row, _ in not_numbers(pa.chunked_array([["3.5", "4"]]), pa.int64())] == [1]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_every_kind_of_text_is_text(kind: pa.DataType) -> None:
    column = pa.chunked_array([pa.array([" a ", "NA"]).cast(kind)])
    assert convert(column, pa.string())[0].to_pylist() == ["a", None]


@pytest.mark.parametrize(
    "text", ["a\u200bb", "a\ufeff", "a\0", "\u202ea", "a\u00a0b", "\u3164", "a\u00ad", "a\ufe0f", "\u2800"]
)
def test_what_cannot_be_seen_is_found(text: str) -> None:
    assert has_unseen(text)
    assert not has_unseen("M\u00fcller 1")


def test_names_of_columns_are_compared_without_case_and_separators() -> None:
    assert {column_key(name) for name in ("Lesion ID", "lesion-id", "LESION_ID", " lesion.id\u00a0")} == {"lesionid"}
