"""The ``derm-ray`` command."""
