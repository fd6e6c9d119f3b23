"""PyPI `grpcio`: calls through the merchant to a gRPC server, paid as gRPC clients pay."""

import base64
import queue
import re
from urllib.parse import urlsplit

import grpc
from pymacaroons import Macaroon
from shop import ANSWER_DEADLINE_SECS, Shop, check, places

# As lnd's own interceptor for gRPC clients reads it, from the first `www-authenticate` alone.
CHALLENGE = re.compile(r'^(L402|LSAT)\s+macaroon="(.*?)",\s*invoice="(.*?)"')

shop = Shop("grpc", 15)
channel = grpc.insecure_channel(urlsplit(places["gate"]).netloc)


def method(kind, name):
    """A method of the server behind the merchant."""
    return getattr(channel, kind)(f"/shop.Stock/{name}")


count = method("unary_unary", "Count")
list_all = method("unary_stream", "List")
converse = method("stream_stream", "Converse")
break_down = method("unary_unary", "BreakDown")
show_credentials = method("unary_unary", "ShowCredentials")


def values(metadata, wanted):
    return [value for key, value in metadata or () if key == wanted]


def failure(call, metadata=()):
    """What a call that must fail fails with."""
    try:
        answer = call(b"bolts", metadata=metadata, timeout=ANSWER_DEADLINE_SECS)
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"answered {answer}")


def challenge(error):
    """The macaroon and the invoice in a refusal."""
    assert error.code() is grpc.StatusCode.INTERNAL, error
    assert error.details() == "payment required", error
    assert values(error.initial_metadata(), "www-authenticate") == [], error.initial_metadata()
    offers = values(error.trailing_metadata(), "www-authenticate")
    assert [offer.split()[0] for offer in offers] == ["LSAT", "L402"], offers
    _, macaroon, invoice = CHALLENGE.match(offers[0]).groups()
    return macaroon, invoice


def is_served(metadata):
    answer, call = count.with_call(b"bolts", metadata=metadata, timeout=ANSWER_DEADLINE_SECS)
    assert answer == b"12 of bolts", answer
    assert values(call.trailing_metadata(), "counted-by") == ["hand"], call.trailing_metadata()


class Paying(grpc.UnaryUnaryClientInterceptor):
    """Pays when it is asked to, and tries once more: what a client of lnd's has in its channel."""

    def intercept_unary_unary(self, continuation, details, request):
        call = continuation(details, request)
        if call.code() is not grpc.StatusCode.INTERNAL or call.details() != "payment required":
            return call
        macaroon, invoice = challenge(call)
        token = Macaroon.deserialize(macaroon)
        token.add_first_party_caveat(f"preimage={shop.pay(invoice)}")
        paid = [("macaroon", in_hex(token))]
        return continuation(details._replace(metadata=paid), request)


def in_hex(token):
    """The token as gRPC clients send it."""
    text = token.serialize()
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex()


with check("a call is answered with a challenge that is all trailers"):
    macaroon, invoice = challenge(failure(count))
    challenge(failure(count, [("authorization", "L402 nonsense:nonsense")]))

with check("pays and is served, trailers included"):
    preimage = shop.pay(invoice)
    paid = [("authorization", f"L402 {macaroon}:{preimage}")]
    is_served(paid)

with check("is served a stream of messages"):
    call = list_all(b"bolts", metadata=paid, timeout=ANSWER_DEADLINE_SECS)
    assert list(call) == [b"bolts 1", b"bolts 2", b"bolts 3"]
    assert values(call.trailing_metadata(), "listed") == ["3"], call.trailing_metadata()

with check("converses: each message arrives before the next is sent"):
    spoken = queue.SimpleQueue()
    answers = converse(iter(spoken.get, None), metadata=paid, timeout=ANSWER_DEADLINE_SECS)
    for word in [b"bolts", b"nuts", b"washers"]:
        spoken.put(word)
        assert next(answers) == word.upper()
    spoken.put(None)
    assert list(answers) == []

with check("a call that fails before it delivers costs nothing"):
    error = failure(break_down, paid)
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "the stock is on fire"), error

with check("the server behind is not shown the credential, in whatever header it came"):
    token = Macaroon.deserialize(macaroon)
    token.add_first_party_caveat(f"preimage={preimage}")
    shown = show_credentials(b"", metadata=[("macaroon", in_hex(token))], timeout=ANSWER_DEADLINE_SECS)
    assert shown == b"", shown

with check("is refused when its four calls are used up"):
    challenge(failure(count, paid))

with check("an interceptor buys again"):
    paying = grpc.intercept_channel(channel, Paying())
    before = shop.payments
    answer = paying.unary_unary("/shop.Stock/Count")(b"nuts", timeout=ANSWER_DEADLINE_SECS)
    assert answer == b"12 of nuts", answer
    assert shop.payments == before + 1

with check("each purchase is one sale"):
    shop.every_payment_is_one_sale()
