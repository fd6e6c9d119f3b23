// What the clients in JavaScript share: where everything is, the wallet behind them, the merchant's books, one line a check.
'use strict';

const assert = require('node:assert/strict');
const { readFile } = require('node:fs/promises');

/** How long the books may take to show a payment, in milliseconds; it is there within one second unless the machine is busy. */
const BOOKS_DEADLINE_MS = 20_000;

/** What `regtest up --json` printed. */
const places = JSON.parse(process.env.PLACES);

/** Pays an invoice with the network's own payer, a real node, and returns the preimage. */
async function pay(invoice) {
  const answer = await fetch(`${places.payer}/pay`, { method: 'POST', body: invoice });
  const text = await answer.text();
  assert.equal(answer.status, 200, `the payer says: ${text}`);
  return JSON.parse(text).preimage;
}

/** One service of the merchant, as its customers see it, and its page in the books. */
class Shop {
  constructor(service, priceSat) {
    this.service = service;
    this.priceSat = priceSat;
    this.url = `${places.gate}/${service}/blocks/tip/height`;
    this.payments = 0;
  }

  /** Pays and counts. */
  async pay(invoice) {
    const preimage = await pay(invoice);
    this.payments += 1;
    return preimage;
  }

  /** A request with this `Authorization` and no client around it. */
  async ask(authorization, method = 'GET') {
    const answer = await fetch(this.url, { method, headers: { authorization } });
    return { status: answer.status, headers: answer.headers, text: await answer.text() };
  }

  /** What is sold, from where the merchant has it. */
  async goods() {
    return (await fetch(`${places.esplora}/blocks/tip/height`)).text();
  }

  /** The credential is answered with a fresh challenge that gives this reason. */
  async refuses(authorization, reason, method = 'GET') {
    const answer = await this.ask(authorization, method);
    assert.equal(answer.status, 402, answer.text);
    assert.match(JSON.parse(answer.text).detail, reason);
    assert.match(answer.headers.get('www-authenticate'), /^L402 macaroon="/);
  }

  /** Every payment so far is one sale: no less, no more, each for the price and each redeemed. */
  async everyPaymentIsOneSale() {
    const token = (await readFile(places.admin_token_file, 'utf8')).trim();
    const until = Date.now() + BOOKS_DEADLINE_MS;
    for (;;) {
      const answer = await fetch(`${places.admin}/sales?limit=1000`, { headers: { authorization: `Bearer ${token}` } });
      assert.equal(answer.status, 200);
      const sales = (await answer.json()).sales.filter((sale) => sale.service === this.service);
      const redeemed = sales.filter((sale) => sale.redeemed_ms !== null);
      if ((sales.length < this.payments || redeemed.length < sales.length) && Date.now() < until) {
        await new Promise((resolve) => setTimeout(resolve, 100));
        continue;
      }
      assert.equal(sales.length, this.payments, 'sales in the books');
      assert.equal(redeemed.length, this.payments, 'redeemed sales in the books');
      for (const sale of sales) {
        assert.equal(sale.amount_msat, this.priceSat * 1000);
        assert.equal(sale.surplus_msat, 0);
      }
      return;
    }
  }
}

/** Runs one check and says so in a line; what it returns is passed on. A failure ends the program. */
async function check(what, run) {
  try {
    const result = await run();
    console.log(`  ok      ${what}`);
    return result;
  } catch (error) {
    console.log(`  FAILED  ${what}`);
    console.log(error);
    process.exit(1);
  }
}

module.exports = { Shop, assert, check, places };
