"""Outgoing HTTP: the proxy and the certificates that the environment asks for, checked before they are used."""

import importlib.util
import ipaddress
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from derm_ray.errors import ConfigError

_SCHEMES = ("http", "https", "socks5", "socks5h")


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host or address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


@dataclass(frozen=True)
class Proxy:
    """A proxy that the environment names.

    Attributes:
        url: of the proxy, with its credentials if it has some.
        variable: the environment variable that names it, for messages.
    """

    url: str
    variable: str

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS, for which HTTP libraries need another package."""
        return urlsplit(self.url).scheme.startswith("socks")

    def __str__(self) -> str:
        """Return host and port without credentials, and the variable."""
        return f"the proxy {urlsplit(self.url).netloc.rpartition('@')[2]} of {self.variable}"


def proxy_for(url: str, socks_package: str) -> Proxy | None:
    """Return the proxy through which a URL is asked, or ``None``.

    The URL's scheme decides (``HTTPS_PROXY``), then ``ALL_PROXY``. A loopback address never goes through one, nor does
    a host that ``NO_PROXY`` names: by its name, a domain, an address or a network such as ``10.0.0.0/8``.

    Args:
        url: to be asked.
        socks_package: the package that the HTTP library needs for a SOCKS proxy.

    Raises:
        ConfigError: the variable holds no proxy's address, or ``socks_package`` is missing.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or _in_network(host) or proxy_bypass(host):
        return None
    known = getproxies()
    kind = next((name for name in (parts.scheme, "all") if known.get(name)), None)
    if kind is None:
        return None
    spelled = f"{kind}_proxy"
    variable = next((name for name in (spelled, spelled.upper()) if os.environ.get(name)), "the system's settings")
    value = known[kind].strip()
    proxy = Proxy(value if "://" in value else f"http://{value}", variable)
    try:
        found = urlsplit(proxy.url)
        usable = found.scheme in _SCHEMES and bool(found.hostname) and found.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            f"{variable}: is not a proxy's address. Give one such as http://HOST:3128 or socks5://HOST:1080, or unset "
            "it."
        )
    if proxy.is_socks and importlib.util.find_spec(socks_package) is None:
        raise ConfigError(
            f"{variable}: a SOCKS proxy needs the package {socks_package!r}. Install it, unset {variable}, or add "
            f"{host} to NO_PROXY."
        )
    return proxy


def certificates(*variables: str) -> str | None:
    """Return the first of the variables that is set, whose certificates can be read; ``None`` where none is set.

    Args:
        variables: environment variables of files or folders of trusted certificates, such as ``SSL_CERT_FILE``.

    Raises:
        ConfigError: its certificates cannot be read.
    """
    variable = next((name for name in variables if os.environ.get(name)), None)
    if variable is None:
        return None
    try:
        trusting(variable)
        reason = ""
    except OSError as error:
        reason = error.strerror or str(error)
    path = Path(os.environ[variable])
    if path.is_dir() and next(path.iterdir(), None) is None:
        reason = "the folder is empty"
    if reason:
        raise ConfigError(
            f"{variable}={path}: no certificates can be read from it ({reason}). Name a PEM file of trusted "
            "certificates, or unset it."
        )
    return variable


def trusting(variable: str) -> ssl.SSLContext:
    """Return a context that trusts the certificates of the file, or folder, which a variable names."""
    path = os.environ[variable]
    if Path(path).is_dir():
        return ssl.create_default_context(capath=path)
    return ssl.create_default_context(cafile=path)


def _in_network(host: str) -> bool:
    """Return whether ``NO_PROXY`` names a network with this address, or the address in brackets."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for name in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(","):
        try:
            if address in ipaddress.ip_network(name.strip().strip("[]"), strict=False):
                return True
        except ValueError:
            continue
    return False


def for_requests(url: str) -> dict[str, str]:
    """Return the ``proxies`` of a call of the library requests, after checking the environment variables that it uses.

    Raises:
        ConfigError: a proxy or a file of certificates that the environment names cannot be used.
    """
    if url.startswith("https:"):
        certificates("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    proxy = proxy_for(url, "socks")
    return {urlsplit(url).scheme: proxy.url} if proxy else {"no_proxy": "*"}
