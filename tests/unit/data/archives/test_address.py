import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derm_ray import storage
from derm_ray.data.archives.address import (
    ParquetCell,
    StreamMember,
    TarMember,
    ZipMember,
    container,
    is_sequential,
    parse,
)
from derm_ray.errors import ImageError, ImageErrorCode

NUMBERS = st.integers(0, 2**63 - 1)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
PLACES = st.sampled_from(["s3://b/a", "/data/we#ird/a", "memory://x/a%2F"])
ADDRESSES = st.one_of(
    st.builds(TarMember, PLACES.map("{}.tar".format), NAMES, NUMBERS, NUMBERS),
    st.builds(ZipMember, PLACES.map("{}.ZIP".format), NAMES, NUMBERS, NUMBERS, st.sampled_from([0, 8]), NUMBERS),
    st.builds(StreamMember, PLACES.map("{}.tar.gz".format), NAMES, NUMBERS, NUMBERS),
    st.builds(ParquetCell, PLACES.map("{}.parquet".format), NAMES, NUMBERS, NUMBERS),
)


@settings(deadline=None)
@given(ADDRESSES)
def test_an_address_survives_text_and_what_storage_does_to_uris(
    address: TarMember | ZipMember | StreamMember | ParquetCell,
) -> None:
    uri = str(address)
    assert parse(uri) == address
    assert container(uri) == address.container
    assert is_sequential(uri) == isinstance(address, StreamMember)
    assert storage.absolute(uri) == uri
    assert storage.parent(uri) == storage.parent(address.container)
    name = uri.rpartition("/")[2]
    assert storage.resolve(f"./sub/../{name}", "s3://b/set") == f"s3://b/set/{name}"


def test_the_forms_are_as_documented() -> None:
    assert str(TarMember("s3://b/a.tar", "les/c.jpg", 1536, 3400)) == (
        "s3://b/a.tar#member=les%2Fc.jpg&offset=1536&size=3400"
    )
    assert str(ZipMember("a.zip", "ä b", 0, 1, 8, 2)) == "a.zip#member=%C3%A4%20b&offset=0&size=1&method=8&length=2"
    assert str(StreamMember("a.tgz", "..", 2, 1)) == "a.tgz#member=..&position=2&size=1"
    assert str(ParquetCell("a.parquet", "clinical", 3, 17)) == "a.parquet#column=clinical&group=3&row=17"


@pytest.mark.parametrize(
    "uri",
    ["a.jpg", "x#1.jpg", "s3://b/k#member=a&offset=1&size=1", "a.tar", "a.tar#1", "a.zip#column=a", "a#b.tar", "#", ""],
)
def test_ordinary_files_may_hold_a_hash(uri: str) -> None:
    assert parse(uri) is None
    assert container(uri) == uri
    assert not is_sequential(uri)


@pytest.mark.parametrize(
    "fragment",
    [
        "member=a",
        "member=a&offset=1",
        "member=a&offset=-1&size=1",
        "member=a&offset=1&size=-5",
        "member=a&offset=1&size=" + "9" * 5000,
        "member=a&offset=9223372036854775808&size=1",
        "member=a&offset=01&size=1",
        "member=a&offset=1&size=1e3",
        "member=a&offset=²&size=1",
        "member=&offset=1&size=1",
        "member=a/b&offset=1&size=1",
        "member=%FF&offset=1&size=1",
        "member=%6&offset=1&size=1",
        "member=a&size=1&offset=1",
        "member=a&offset=1&size=1&more=1",
    ],
)
def test_malformed_addresses_are_unsupported(fragment: str) -> None:
    with pytest.raises(ImageError, match="not a valid archive member") as error:
        parse(f"s3://b/a.tar#{fragment}")
    assert error.value.code is ImageErrorCode.UNSUPPORTED
    assert container(f"s3://b/a.tar#{fragment}") == "s3://b/a.tar"
