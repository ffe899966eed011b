"""Attacks over the network: the host's services, its sockets, its interfaces, other runs."""

import ctypes
import fcntl
import os
import signal
import socket
import struct
from typing import Any

from saggar.model.policy import Network, Rung
from saggar.testing.attacks.attack import attack
from saggar.testing.attacks.checks import held
from saggar.testing.attacks.inside import attempt, escaped, libc, read, scene, tries, watch

QUICK = 0.2


def connect(family: int, address: Any) -> str:
    """Connect a stream."""
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(QUICK)
        one.connect(address)
        return repr(one.getpeername())


def send_to(family: int, address: Any) -> int:
    """Send a datagram."""
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.settimeout(QUICK)
        return one.sendto(b"knock", address)


@attack(held)
def open_sockets_of_every_family() -> None:
    """Sockets that speak to the kernel, to the hypervisor, to radios, past the namespace."""
    seq, dgram, raw, stream = 5, 2, 3, 1
    for name, family, kinds in (
        ("netlink", 16, (raw, dgram)),
        ("packet", 17, (raw, dgram)),
        ("vsock", 40, (stream, dgram, seq)),
        ("alg", 38, (seq,)),
        ("bluetooth", 31, (raw, seq)),
        ("can", 29, (raw,)),
        ("tipc", 30, (stream, seq)),
        ("key", 15, (raw,)),
        ("xdp", 44, (raw,)),
        ("rds", 21, (seq,)),
        ("smc", 43, (stream,)),
        ("kcm", 41, (seq, dgram)),
        ("pppox", 24, (stream,)),
        ("nfc", 39, (seq,)),
        ("llc", 26, (stream,)),
        ("ax25", 3, (seq,)),
        ("x25", 9, (seq,)),
        ("phonet", 35, (dgram,)),
        ("mctp", 45, (dgram,)),
        ("qipcrtr", 42, (dgram,)),
        ("inet raw", 2, (raw,)),
        ("inet6 raw", 10, (raw,)),
    ):
        for kind in kinds:
            attempt(f"{name} {kind}", libc_socket, family, kind)


def libc_socket(family: int, kind: int, protocol: int = 0) -> int:
    """socket(2), past what Python thinks of it."""
    fd: int = libc.socket(family, kind, protocol)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "socket")
    return fd


@attack(held, network=Network.LOOPBACK)
def open_sockets_beside_a_loopback() -> None:
    """The same where the policy grants a loopback: raw, netlink and packet stay closed."""
    for family, kind, protocol in ((2, 3, 1), (2, 3, 255), (10, 3, 58), (16, 3, 0), (17, 3, 3)):
        attempt(f"{family} {kind} {protocol}", libc_socket, family, kind, protocol)
    for protocol in (132, 33, 136, 262):
        watch(f"stream of protocol {protocol}", libc_socket, 2, 1, protocol)


@attack(held, network=Network.HOST)
def open_sockets_on_the_hosts_network() -> None:
    """The same where the policy grants the host's network: to use it, not to command it."""
    for family, kind, protocol in ((2, 3, 1), (2, 3, 255), (10, 3, 58), (16, 3, 0), (17, 3, 3)):
        attempt(f"{family} {kind} {protocol}", libc_socket, family, kind, protocol)
    attempt("vsock", libc_socket, 40, 1)
    attempt("alg", libc_socket, 38, 5)


@attack(held, network=Network.HOST)
def leave_the_hosts_network_by_a_name() -> None:
    """Abstract names live in the network's namespace: sharing it must not mean sharing them."""
    attempt("abstract", connect, socket.AF_UNIX, f"\0{scene['abstract']}")
    attempt("path", connect, socket.AF_UNIX, scene["socket"])


@attack(held, shows=True)
def connect_to_the_hosts_services() -> None:
    """Reach a service that listens on the host, by each of its addresses."""
    for address in ("127.0.0.1", scene["address"], "0.0.0.0", "localhost"):
        attempt(f"tcp {address}", connect, socket.AF_INET, (address, scene["tcp"]))
        watch(f"udp {address}", send_to, socket.AF_INET, (address, scene["udp"]))
    attempt("tcp ::1", connect, socket.AF_INET6, ("::ffff:127.0.0.1", scene["tcp"]))


@attack(held, network=Network.LOOPBACK)
def reach_the_host_over_a_loopback() -> None:
    """The same where the policy grants a loopback: it must be another one."""
    for address in ("127.0.0.1", scene["address"], "0.0.0.0", "127.9.9.9"):
        attempt(f"tcp {address}", connect, socket.AF_INET, (address, scene["tcp"]))
        watch(f"udp {address}", send_to, socket.AF_INET, (address, scene["udp"]))


@attack(held)
def reach_the_world() -> None:
    """Name servers, a metadata service, a broadcast."""
    attempt("names", socket.getaddrinfo, "example.com", 80)
    for address in (("1.1.1.1", 53), ("169.254.169.254", 80), ("10.0.0.1", 443)):
        attempt(f"{address}", connect, socket.AF_INET, address)
        attempt(f"udp {address}", send_to, socket.AF_INET, address)


@attack(held, shows=True)
def connect_to_an_abstract_socket() -> None:
    """Reach a service of the host by a name without a path, which no mount table hides."""
    attempt("abstract", connect, socket.AF_UNIX, f"\0{scene['abstract']}")
    attempt("abstract datagram", send_to, socket.AF_UNIX, f"\0{scene['abstract']}")


@attack(held, shows=True)
def connect_to_a_socket_with_a_path() -> None:
    """Reach services by their path: a planted one, container engines, the system bus."""
    attempt("planted", connect, socket.AF_UNIX, scene["socket"])
    attempt("planted datagram", send_to, socket.AF_UNIX, scene["datagrams"])
    for path in (
        "/run/docker.sock",
        "/var/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/run/podman/podman.sock",
        "/run/dbus/system_bus_socket",
        "/run/systemd/private",
        "/run/systemd/journal/stdout",
        f"/run/user/{scene['uid']}/bus",
        "/var/run/postgresql/.s.PGSQL.5432",
        "/dev/log",
    ):
        attempt(path, connect, socket.AF_UNIX, path)


@attack(held)
def list_the_hosts_sockets() -> None:
    """Learn from /proc/net what listens on the host, and as whom."""
    tries.append("list")
    port = f":{scene['tcp']:04X} "
    for name in ("tcp", "tcp6", "udp", "unix", "netlink", "packet", "route"):
        try:
            table = read(f"/proc/self/net/{name}", 1 << 20).decode()
        except OSError as error:
            print("refused", name, error)
            continue
        if port in table or scene["token"] in table or scene["folder"] in table:
            escaped(f"the host's sockets in {name}")


def listen_and_wait() -> None:
    """A run that listens on every kind of socket it can get, for its neighbours to find."""
    kept = []
    for family, address in (
        (socket.AF_UNIX, f"\0{scene['token']}-beside"),
        (socket.AF_INET, ("0.0.0.0", 47011)),
    ):
        try:
            one = socket.socket(family, socket.SOCK_STREAM)
            one.bind(address)
            one.listen(8)
        except OSError as error:
            print("none", family, error)
        else:
            kept.append(one)
    for place in ("/tmp", "/dev/shm", "/work"):
        try:
            with open(f"{place}/{scene['token']}-beside", "w") as file:
                file.write("here")
        except OSError as error:
            print("none", place, error)
    print("WAITING", flush=True)
    signal.pause()


@attack(held, network=Network.LOOPBACK, beside=listen_and_wait, stopped_from=Rung.JAIL)
def talk_to_a_neighbour() -> None:
    """Find another run that is under way: its sockets, its files, its processes."""
    attempt("abstract", connect, socket.AF_UNIX, f"\0{scene['token']}-beside")
    attempt("loopback", connect, socket.AF_INET, ("127.0.0.1", 47011))
    for place in ("/tmp", "/dev/shm", "/work"):
        attempt(place, os.stat, f"{place}/{scene['token']}-beside")


@attack(held, network=Network.LOOPBACK)
def administer_the_network() -> None:
    """Change interfaces, routes and filters of the network it stands in."""
    try:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    except OSError as error:
        attempt("no socket", refuse_all, error)
        return
    name = struct.pack("16sH22x", b"lo", 0)
    for what, number in (("flags", 0x8914), ("address", 0x8916), ("mtu", 0x8922), ("name", 0x8923)):
        attempt(what, fcntl.ioctl, one, number, name)
    attempt("route", fcntl.ioctl, one, 0x890B, bytes(120))
    for what, level, option, value in (
        ("mark", socket.SOL_SOCKET, 36, 1),
        ("force buffers", socket.SOL_SOCKET, 33, 1 << 20),
        ("transparent", socket.IPPROTO_IP, 19, 1),
        ("packet filter", socket.IPPROTO_IP, 64, bytes(84)),
        ("packet filter's counters", socket.IPPROTO_IP, 65, bytes(40)),
        ("arp filter", socket.IPPROTO_IP, 96, bytes(84)),
    ):
        attempt(what, one.setsockopt, level, option, value)


def refuse_all(error: OSError) -> None:
    """There is nothing to administer."""
    raise error


@attack(held)
def administer_without_a_socket() -> None:
    """Make a virtual interface, or a tunnel to the world."""
    for path in ("/dev/net/tun", "/dev/vhost-net", "/dev/ppp"):
        attempt(path, os.open, path, os.O_RDWR)
