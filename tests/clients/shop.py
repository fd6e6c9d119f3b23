"""What the clients in Python share: where everything is, the wallet behind them, the merchant's books, one line a check."""

import json
import os
import sys
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

import requests

# How long the books may take to show a payment, in seconds; it is there within one unless the machine is busy.
BOOKS_DEADLINE_SECS = 20
# How long anything else here may take to answer, in seconds; a first payment takes two.
ANSWER_DEADLINE_SECS = 60

# What `regtest up --json` printed.
places = json.loads(os.environ["PLACES"])


class Shop:
    """One service of the merchant, as its customers see it, and its page in the books."""

    def __init__(self, service, price_sat):
        self.service = service
        self.price_sat = price_sat
        self.url = f"{places['gate']}/{service}/blocks/tip/height"
        self.payments = 0

    def pay(self, invoice):
        """Pays an invoice with the network's own payer, a real node, and returns the preimage."""
        answer = requests.post(f"{places['payer']}/pay", data=invoice, timeout=ANSWER_DEADLINE_SECS)
        assert answer.status_code == 200, f"the payer says: {answer.text}"
        self.payments += 1
        return answer.json()["preimage"]

    def ask(self, authorization=None, method="GET"):
        """A request with this `Authorization` and no client around it."""
        headers = {"authorization": authorization} if authorization else {}
        return requests.request(method, self.url, headers=headers, timeout=ANSWER_DEADLINE_SECS)

    def goods(self):
        """What is sold, from where the merchant has it."""
        return requests.get(f"{places['esplora']}/blocks/tip/height", timeout=ANSWER_DEADLINE_SECS).text

    def refuses(self, authorization, reason, method="GET"):
        """The credential is answered with a fresh challenge that gives this reason."""
        answer = self.ask(authorization, method)
        assert answer.status_code == 402, f"{answer.status_code} {answer.text}"
        assert reason in answer.json()["detail"], answer.text
        assert answer.headers["www-authenticate"].startswith('L402 macaroon="'), answer.headers

    def every_payment_is_one_sale(self):
        """Every payment so far is one sale: no less, no more, each for the price and each redeemed."""
        headers = {"authorization": f"Bearer {Path(places['admin_token_file']).read_text().strip()}"}
        until = time.monotonic() + BOOKS_DEADLINE_SECS
        while True:
            answer = requests.get(f"{places['admin']}/sales?limit=1000", headers=headers, timeout=ANSWER_DEADLINE_SECS)
            assert answer.status_code == 200, answer.text
            sales = [sale for sale in answer.json()["sales"] if sale["service"] == self.service]
            redeemed = [sale for sale in sales if sale["redeemed_ms"] is not None]
            if len(redeemed) >= self.payments or time.monotonic() > until:
                break
            time.sleep(0.1)
        assert len(sales) == len(redeemed) == self.payments, f"{self.payments} payments, and in the books: {sales}"
        for sale in sales:
            assert sale["amount_msat"] == self.price_sat * 1000, sale
            assert sale["surplus_msat"] == 0, sale


@contextmanager
def check(what):
    """Runs one check and says so in a line. A failure ends the program."""
    try:
        yield
    except Exception:
        print(f"  FAILED  {what}", flush=True)
        traceback.print_exc(file=sys.stdout)
        sys.exit(1)
    print(f"  ok      {what}", flush=True)
