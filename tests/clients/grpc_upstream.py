"""A gRPC server behind the merchant, which knows nothing of payments: prints its port, and ends with its standard input.

Messages are plain bytes: what is in them is not what is looked at here.
"""

import sys
from concurrent import futures

import grpc

SERVICE = "shop.Stock"
# Calls at once; the client makes one after the other.
THREADS = 4


def count(request, context):
    """One message for one, and a word behind it."""
    context.set_trailing_metadata([("counted-by", "hand")])
    return b"12 of " + request


def list_all(request, context):
    """Several messages for one."""
    for number in range(1, 4):
        yield b"%s %d" % (request, number)
    context.set_trailing_metadata([("listed", "3")])


def converse(requests, context):
    """A message for each, as it comes."""
    for request in requests:
        yield request.upper()


def break_down(request, context):
    """Fails before there is anything to deliver."""
    context.abort(grpc.StatusCode.UNAVAILABLE, "the stock is on fire")


def show_credentials(request, context):
    """Names what it was told that could be spent."""
    spendable = {"authorization", "macaroon", "grpc-metadata-macaroon", "token"}
    return b",".join(key.encode() for key, _ in context.invocation_metadata() if key in spendable)


def main():
    methods = {
        "Count": grpc.unary_unary_rpc_method_handler(count),
        "List": grpc.unary_stream_rpc_method_handler(list_all),
        "Converse": grpc.stream_stream_rpc_method_handler(converse),
        "BreakDown": grpc.unary_unary_rpc_method_handler(break_down),
        "ShowCredentials": grpc.unary_unary_rpc_method_handler(show_credentials),
    }
    server = grpc.server(futures.ThreadPoolExecutor(THREADS))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None).wait()


if __name__ == "__main__":
    main()
