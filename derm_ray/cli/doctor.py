"""``derm-ray doctor``."""

from dataclasses import asdict
from typing import Annotated

import typer

from derm_ray.cli.options import AddressOption, JsonOption, emit
from derm_ray.errors import DermRayError


def doctor(
    storage: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URI",
            help="Also check a folder, from every node of a cluster too: one file is written and removed. Repeatable.",
        ),
    ] = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine, storage and a cluster, and suggest fixes.

    Checks versions, devices, memory, disk, ports and Ray's token on this machine; access, exclusive writes and clock
    of each --storage folder; versions, clocks and free space of every node of the cluster that --address or
    RAY_ADDRESS names.
    """
    from derm_ray import runtime
    from derm_ray.operations.doctor.access import access
    from derm_ray.operations.doctor.cluster import cluster
    from derm_ray.operations.doctor.finding import Finding
    from derm_ray.operations.doctor.machine import machine
    from derm_ray.operations.doctor.storage_checks import check_storage

    findings = [*machine(), *access()]
    for uri in storage or ():
        findings += check_storage(uri)
    if there := runtime.cluster_address(address):
        try:
            findings += cluster(there, tuple(storage or ()))
        except DermRayError as error:
            findings.append(Finding("cluster", "cannot be examined", str(error)))
    width = max(len(finding.subject) for finding in findings)
    lines = [
        f"{'!' if f.fix else ' '} {f.subject:<{width}}  {f.found}{f'  -> {f.fix}' if f.fix else ''}" for f in findings
    ]
    emit({"findings": [asdict(finding) for finding in findings]}, "\n".join(lines), as_json=as_json)
    if any(finding.fix for finding in findings):
        raise typer.Exit(1)
