"""``derm-ray doctor``."""

from dataclasses import asdict

import typer

from derm_ray.cli.options import JsonOption, emit


def doctor(as_json: JsonOption = False) -> None:
    """Look at this machine: versions, devices, memory, disk; each finding with its mend."""
    from derm_ray.operations.doctor import examine

    findings = list(examine())
    lines = [
        f"{'!' if f.mend else ' '} {f.subject:<14} {f.found}{'  -> ' + f.mend if f.mend else ''}" for f in findings
    ]
    emit({"findings": [asdict(finding) for finding in findings]}, "\n".join(lines), as_json=as_json)
    if any(finding.mend for finding in findings):
        raise typer.Exit(1)
