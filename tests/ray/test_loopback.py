"""A Ray of this machine alone is reached from this machine alone."""

import ipaddress

import psutil


def test_every_port_of_a_local_ray_is_on_loopback(ray_here):
    listening = {}
    for process in psutil.Process().children(recursive=True):
        try:
            found = [one.laddr for one in process.net_connections(kind="inet") if one.status == psutil.CONN_LISTEN]
        except psutil.Error:
            continue
        listening[process.name()] = [ipaddress.ip_address(address.ip.removeprefix("::ffff:")) for address in found]
    assert any("raylet" in name for name in listening)
    assert any("gcs_server" in name for name in listening)
    assert not {name: found for name, found in listening.items() if not all(ip.is_loopback for ip in found)}
