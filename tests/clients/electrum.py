"""A merchant that reads the chain from an Electrum server (PyPI e-x, which is ElectrumX, over the network's own bitcoind):
it is funded, opens a channel, pays and sells over it, goes on while the server is gone, and sees the chain again when it is
back. A server of another network is told apart."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

# A look at the chain comes every ten seconds.
DEADLINE_SECS = 90
# From a signal to the end of a program.
STOP_DEADLINE_SECS = 30
# Of a merchant's log, shown after a failure.
LOG_LINES = 30

DEPOSIT_SAT = 2_000_000
CHANNEL = "500000 sat"
# Paid to the other end of the channel, so that there is something to receive again.
SPENT = "40000 sat"


def holds(places, tollhouse, folder):
    """All of it, in this folder."""
    chain = Bitcoind(places)
    with electrumx(places, folder) as server:
        with merchant(tollhouse, folder / "signet", server.url, "signet") as stray:
            until("a server of another network", lambda: "another network" in stray.node()["phase"], stray)
        with merchant(tollhouse, folder / "regtest", server.url, "regtest") as shop:
            trades(places, chain, server, shop)


def trades(places, chain, server, shop):
    until("a node that runs", lambda: shop.node()["running"], shop)
    chain.send(shop.ask("address")["address"])
    until("the deposit", lambda: shop.looks() > 0, shop)
    peer = f"{places['merchant_node_id']}@{places['merchant_p2p']}"
    shop.ask("channels", "open", peer, CHANNEL)
    until("the funding in the pool", chain.has_waiting, shop)
    chain.mine(6)
    until("a channel", lambda: any(it["usable"] for it in shop.ask("channels", "list")["channels"]), shop)
    print("  ok      it saw its money and opened a channel", flush=True)

    other = Merchant(shop.tollhouse, Path(places["merchant_data_dir"]).with_name("tollhouse.toml"))
    shop.ask("pay", other.ask("invoice", SPENT)["bolt11"])
    shop.sells(other)
    print("  ok      it paid and sold over it", flush=True)

    server.stop()
    until("the loss of the server", lambda: shop.node()["chain"]["degraded_since_secs"], shop)
    shop.sells(other)
    chain.send(shop.ask("address")["address"])
    server.start()
    until("the money that came meanwhile", lambda: shop.ask("balance")["spendable_sat"] > DEPOSIT_SAT, shop)
    until("a chain that is read", lambda: not shop.node()["chain"]["degraded_since_secs"], shop)
    shop.sells(other)
    print("  ok      it sold while the server was gone, and saw the chain again", flush=True)


class Bitcoind:
    """The network's bitcoind, as far as it is needed."""

    def __init__(self, places):
        self.url = places["bitcoind_rpc"]
        self.cookie = Path(places["bitcoind_cookie"]).read_text().strip()

    def call(self, method, *params):
        body = json.dumps({"method": method, "params": params, "id": 0}).encode()
        token = base64.b64encode(self.cookie.encode()).decode()
        request = Request(self.url, body, {"authorization": f"Basic {token}", "content-type": "application/json"})
        try:
            with urlopen(request, timeout=20) as answer:
                return json.load(answer)["result"]
        except HTTPError as refused:
            sys.exit(f"bitcoind refused {method}: {refused.read().decode()}")

    def mine(self, blocks):
        self.call("generatetoaddress", blocks, self.call("getnewaddress"))

    def send(self, address):
        self.call("sendtoaddress", address, f"{DEPOSIT_SAT / 1e8:.8f}")
        self.mine(1)

    def has_waiting(self):
        return bool(self.call("getrawmempool"))


class Merchant:
    """A merchant, by its settings file."""

    def __init__(self, tollhouse, settings):
        self.tollhouse, self.settings = tollhouse, settings
        http = settings.read_text().split("[http]")[1]
        self.gate = http.split('listen = "')[1].split('"')[0]
        self.program = None

    def start(self):
        with open(self.settings.with_name("tollhouse.log"), "a") as log:
            command = [self.tollhouse, "run", "--config", self.settings]
            self.program = subprocess.Popen(command, stdout=log, stderr=log)
        until("the second merchant", lambda: listens(self.gate), self)

    def stop(self):
        if self.program:
            self.program.terminate()
            self.program.wait(STOP_DEADLINE_SECS)
            self.program = None

    def ask(self, *command):
        run = [self.tollhouse, *command, "--config", str(self.settings), "--json"]
        ended = subprocess.run(run, capture_output=True, text=True, timeout=90)
        if ended.returncode != 0:
            sys.exit(f"tollhouse {' '.join(command)} ended with {ended.returncode}: {ended.stderr}\n{self.log_tail()}")
        return json.loads(ended.stdout) if ended.stdout else None

    def looks(self):
        """Who owns nothing looks at the chain every few minutes only."""
        self.ask("sync")
        return self.ask("balance")["spendable_sat"]

    def node(self):
        return self.ask("status")["node"]

    def log_tail(self):
        log = self.settings.with_name("tollhouse.log")
        return "\n".join(log.read_text().splitlines()[-LOG_LINES:]) if log.exists() else ""

    def sells(self, payer):
        """One purchase, which another merchant's node pays."""
        url = f"http://{self.gate}/files/one"
        deadline = time.monotonic() + DEADLINE_SECS
        while (refused := refusal(url)).code == 503 and time.monotonic() < deadline:
            time.sleep(0.2)  # what was just paid is not counted yet
        if refused.code != 402:
            sys.exit(f"it answered {refused.code}: {refused.read().decode()}\n{self.log_tail()}")
        challenge = json.load(refused)
        preimage = payer.ask("pay", challenge["invoice"])["preimage"]
        request = Request(url, headers={"authorization": f"L402 {challenge['macaroon']}:{preimage}"})
        with urlopen(request, timeout=20) as answer:
            if answer.read() != b"one":
                sys.exit("it does not give what it sold")


def refusal(url):
    try:
        urlopen(url, timeout=20)
    except HTTPError as refused:
        return refused
    sys.exit("it gives away what it sells")


class ElectrumX:
    """The server; it can be stopped and started again at the same port."""

    def __init__(self, places, folder):
        self.port, self.log, self.program = free_port(), folder / "electrumx.log", None
        self.url = f"tcp://127.0.0.1:{self.port}"
        rpc = places["bitcoind_rpc"].removeprefix("http://")
        database = folder / "electrumx"
        database.mkdir()
        self.environment = {
            **os.environ,
            "ALLOW_ROOT": "1",
            "COIN": "Bitcoin",
            "NET": "regtest",
            "DB_ENGINE": "leveldb",
            "DB_DIRECTORY": str(database),
            "DAEMON_URL": f"http://{Path(places['bitcoind_cookie']).read_text().strip()}@{rpc}",
            "SERVICES": self.url,
            "PEER_DISCOVERY": "off",
            # Everybody is one client here.
            "COST_SOFT_LIMIT": "0",
            "COST_HARD_LIMIT": "0",
        }

    def start(self):
        server = Path(sys.executable).with_name("electrumx_server")
        with open(self.log, "a") as log:
            self.program = subprocess.Popen([sys.executable, server], env=self.environment, stdout=log, stderr=log)
        until("the Electrum server", lambda: listens(f"127.0.0.1:{self.port}"))

    def stop(self):
        if self.program:
            self.program.terminate()
            self.program.wait(STOP_DEADLINE_SECS)
            self.program = None


@contextmanager
def electrumx(places, folder):
    server = ElectrumX(places, folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def merchant(tollhouse, folder, electrum, network):
    """A second merchant, which reads the chain there."""
    return selling(tollhouse, folder, network, f'electrum = "{electrum}"')


@contextmanager
def selling(tollhouse, folder, network, chain, more=""):
    """A merchant that sells one file for 1,000 sat."""
    files = folder / "files"
    files.mkdir(parents=True)
    (files / "one").write_text("one")
    settings = folder / "tollhouse.toml"
    settings.write_text(
        f"""
data_dir = "{folder / "data"}"
[admin]
listen = "127.0.0.1:{free_port()}"
[http]
listen = "127.0.0.1:{free_port()}"
[node]
network = "{network}"
[node.chain]
{chain}
sync_interval = "10s"
{more}
[[route]]
path = "/files/*"
service = "files"
price = "1000 sat"
files = "{files}"
"""
    )
    shop = Merchant(tollhouse, settings)
    try:
        shop.start()
        yield shop
    finally:
        shop.stop()


def listens(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
        return True
    except OSError:
        return False


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def until(what, is_so, shop=None):
    deadline = time.monotonic() + DEADLINE_SECS
    while not is_so():
        if time.monotonic() > deadline:
            sys.exit(f"waited {DEADLINE_SECS} s for {what}\n{shop.log_tail() if shop else ''}")
        time.sleep(0.2)
