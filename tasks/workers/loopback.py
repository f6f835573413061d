"""Speak to this machine's own servers directly, whatever proxies the environment names."""

from __future__ import annotations

import os
from ipaddress import ip_address
from urllib.parse import urlsplit

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def bypass_proxies_on_loopback() -> None:
    """Add loopback to NO_PROXY, for this process and its children.

    A proxy is another machine, or knows nothing of the ports that a command has just opened: Prefect's server, the
    demo's web, an object store. What the user has listed stays, and the proxies serve all other hosts as before.
    """
    if not any(name.lower().endswith("_proxy") and value for name, value in os.environ.items()):
        return  # NO_PROXY alone would hide the proxies that some systems keep elsewhere.
    from urllib.request import getproxies_environment

    # urllib's choice where the two spellings differ, so that other libraries read the same.
    listed = [host.strip() for host in getproxies_environment().get("no", "").split(",") if host.strip()]
    if listed == ["*"]:
        return  # `*` means all hosts only when alone.
    listed += [host for host in LOOPBACK if host not in listed]
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(listed)


def is_loopback(url: str) -> bool:
    """True where the URL's host is this machine."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False  # Another name.
