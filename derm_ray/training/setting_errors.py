"""What a setting should have been, in words."""

from pydantic_core import ErrorDetails

_EXPECTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "finite_number": "a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": "text",
    "literal_error": "{expected}",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
}
"""Type of a pydantic error -> what it expected."""


def expected(error: ErrorDetails) -> str:
    """Return what a setting should have been; other errors keep their own message."""
    text = _EXPECTED.get(error["type"])
    return f"expected {text.format(**error.get('ctx', {}))}" if text else error["msg"]
