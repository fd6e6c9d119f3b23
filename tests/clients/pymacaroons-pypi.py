"""PyPI `pymacaroons`: checks a token that the merchant minted, mints the same one, and narrows it for lending."""

import base64
import hashlib
import hmac
import time
from pathlib import Path

from pymacaroons import MACAROON_V2, Macaroon, Verifier
from pymacaroons.exceptions import MacaroonInvalidSignatureException
from shop import Shop, check, places

shop = Shop("pymacaroons", 14)


def root_key(identifier):
    """What only the merchant can derive: HMAC-SHA256(master key, label ‖ identifier)."""
    master = bytes.fromhex((Path(places["merchant_data_dir"]) / "master.key").read_text().strip())
    return hmac.new(master, b"l402-root-v1" + identifier, hashlib.sha256).digest()


def verifies(token, key):
    """Whether the signature fits. Every caveat is satisfied: whether they hold is the merchant's to say."""
    verifier = Verifier()
    verifier.satisfy_general(lambda caveat: True)
    try:
        return verifier.verify(token, key)
    except MacaroonInvalidSignatureException:
        return False


def minted(identifier, key, caveats):
    """A token of our own making."""
    token = Macaroon(location="lsat", identifier=identifier, key=key, version=MACAROON_V2)
    for caveat in caveats:
        token.add_first_party_caveat(caveat)
    return token


def narrowed(token, *caveats):
    """A copy with further caveats."""
    copy = token.copy()
    for caveat in caveats:
        copy.add_first_party_caveat(caveat)
    return copy


def conditions(token):
    """The caveats as text."""
    return [caveat.caveat_id_bytes.decode() for caveat in token.caveats]


def buy():
    """A challenge without a client around it, paid."""
    answer = shop.ask()
    assert answer.status_code == 402, answer.text
    challenge = answer.json()
    return challenge["macaroon"], shop.pay(challenge["invoice"])


def own(condition):
    return f"{shop.service}_{condition}"


macaroon, preimage = buy()
token = Macaroon.deserialize(macaroon)
key = root_key(token.identifier_bytes)
now = int(time.time())


def credential(copy):
    # As the library writes it: url-safe, and without padding.
    return f"L402 {copy.serialize()}:{preimage}"


def is_served(copy, method="GET"):
    answer = shop.ask(credential(copy), method)
    assert answer.status_code == 200, f"{answer.status_code} {answer.text}"


def is_refused(copy, reason, method="GET"):
    shop.refuses(credential(copy), reason, method)


with check("reads and verifies a token with the merchant's root key"):
    assert verifies(token, key)
    assert not verifies(token, bytes(32))
    services, *limits = conditions(token)
    assert services == f"services={shop.service}:0", services
    assert own("requests=6") in limits, limits
    assert any(limit.startswith(own("valid_until=")) for limit in limits), limits

with check("mints the same token, byte for byte"):
    same = minted(token.identifier_bytes, key, conditions(token))
    padded = same.serialize() + "=" * (-len(same.serialize()) % 4)
    assert base64.urlsafe_b64decode(padded) == base64.b64decode(macaroon)

# Six requests were bought; every line that says `is_served` takes one of them, and none that says `is_refused` does.
once = narrowed(token, own("requests=1"))
with check("a copy for one request opens one"):
    assert verifies(once, key)
    is_served(once)
    is_refused(once, "used up")
    is_served(token)

read_only = narrowed(token, own("method=GET"))
with check("a copy for GET opens nothing else"):
    is_served(read_only)
    is_refused(read_only, "narrowed to other requests", "POST")

with check("a copy with less time is good until then"):
    is_served(narrowed(token, own(f"valid_until={now + 600}")))
    is_refused(narrowed(token, own(f"valid_until={now - 1}")), "time is over")

with check("a caveat that is not the merchant's is left to others"):
    is_served(narrowed(token, "for=a friend", "other_requests=0"))

with check("no copy is wider"):
    wider = "asks for more than an earlier one gave"
    is_refused(narrowed(token, own("requests=7")), wider)
    is_refused(narrowed(once, own("requests=6")), wider)
    is_refused(narrowed(token, own(f"valid_until={now + 864000}")), wider)
    is_refused(narrowed(token, f"services={shop.service}:1"), wider)
    is_refused(narrowed(token, "services=macaroon-npm:0"), wider)
    is_refused(narrowed(read_only, own("method=GET,POST")), "narrowed to other requests", "POST")

with check("a caveat cannot be taken off again"):
    stripped = read_only.copy()
    stripped.caveats = stripped.caveats[:-1]
    assert conditions(stripped) == conditions(token)
    assert not verifies(stripped, key)
    is_refused(stripped, "signature is wrong")

with check("a token under another key opens nothing"):
    is_refused(minted(token.identifier_bytes, bytes([7] * 32), conditions(token)), "signature is wrong")

with check("a third party is not asked"):
    copy = token.copy()
    copy.add_third_party_caveat("elsewhere", "a key of theirs", "ask elsewhere")
    is_refused(copy, "third-party")

with check("copies and token share what was bought, and it ends"):
    is_served(token)
    for copy in [token, once, read_only]:
        is_refused(copy, "used up")

with check("buys again"):
    macaroon, preimage = buy()
    answer = shop.ask(f"LSAT {macaroon}:{preimage}")
    assert answer.status_code == 200, answer.text
    assert answer.text == shop.goods()

with check("each purchase is one sale"):
    shop.every_payment_is_one_sale()
