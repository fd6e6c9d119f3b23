"""PyPI `l402`: its client over requests and its asynchronous one over httpx, which both pay whenever they are refused."""

import asyncio

from l402.client import Client, PreimageProvider
from l402.client.credentials import SqliteAsyncService, SqliteCredentialsService
from l402.client.requests import SyncClient
from shop import Shop, check

shop = Shop("l402-pypi", 12)


class Wallet(PreimageProvider):
    """Pays with the network's payer."""

    def get_preimage(self, invoice):
        return shop.pay(invoice)


class AsyncWallet(PreimageProvider):
    """The same for a client that waits for it."""

    async def get_preimage(self, invoice):
        return await asyncio.to_thread(shop.pay, invoice)


async def run(name, get, stored):
    """A client: `get` is a request through it, `stored` the credential that it keeps."""
    bought_before = shop.payments

    async def is_served(purchases):
        answer = await get(shop.url)
        assert answer.status_code == 200, answer.text
        assert answer.text == shop.goods()
        assert shop.payments == bought_before + purchases, f"{shop.payments} payments"

    with check(f"{name} buys and is served"):
        await is_served(1)
    first = (await stored(shop.url)).authentication_header()
    with check(f"{name} is served up to its grant without paying"):
        await is_served(1)
    with check(f"{name} is refused when that is used up"):
        shop.refuses(first, "used up")
    with check(f"{name} buys again"):
        await is_served(2)
        assert (await stored(shop.url)).authentication_header() != first
    with check(f"{name} is served on what it bought again"):
        await is_served(2)


async def main():
    kept = SqliteCredentialsService(":memory:")
    client = SyncClient(Wallet(), kept)

    async def get(url):
        return client.request("GET", url)

    async def stored(url):
        return kept.get(url)

    await run("SyncClient", get, stored)
    kept_async = SqliteAsyncService(":memory:")
    client_async = Client(AsyncWallet(), kept_async)
    await run("Client", lambda url: client_async.request("GET", url), kept_async.get)
    with check("each purchase is one sale"):
        shop.every_payment_is_one_sale()


asyncio.run(main())
