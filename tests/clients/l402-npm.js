// npm `l402`: its interceptor in axios, which pays whenever it is refused.
'use strict';

const axios = require('axios');
const { MemoryTokenStore, setupL402Interceptor } = require('l402');
const { Shop, assert, check } = require('./shop.js');

async function main() {
  const shop = new Shop('l402-npm', 11);
  const client = axios.create();
  const wallet = { payInvoice: async (invoice) => ({ preimage: await shop.pay(invoice), success: true }) };
  const store = new MemoryTokenStore();
  setupL402Interceptor(client, wallet, store);
  const isServed = async (payments) => {
    const answer = await client.get(shop.url);
    assert.equal(answer.status, 200);
    assert.equal(String(answer.data), await shop.goods());
    assert.equal(shop.payments, payments);
    return store.get(shop.url);
  };

  const first = await check('buys and is served', () => isServed(1));
  await check('is served up to its grant without paying', () => isServed(1));
  await check('is refused when that is used up', () => shop.refuses(first, /used up/));
  const second = await check('buys again', () => isServed(2));
  assert.notEqual(second, first);
  await check('is served on what it bought again', () => isServed(2));
  await check('each purchase is one sale', () => shop.everyPaymentIsOneSale());
}

main();
