// npm `@getalby/lightning-tools`: both of its paying versions of `fetch`.
'use strict';

const { fetch402, fetchWithL402 } = require('@getalby/lightning-tools/402');
const { Shop, assert, check } = require('./shop.js');

async function main() {
  const shop = new Shop('lightning-tools', 10);
  const wallet = { payInvoice: async ({ invoice }) => ({ preimage: await shop.pay(invoice) }) };
  for (const [name, get] of Object.entries({ fetch402, fetchWithL402 })) {
    const paidBefore = shop.payments;
    const buy = async () => {
      const answer = await get(shop.url, {}, { wallet });
      assert.equal(answer.status, 200);
      assert.equal(await answer.text(), await shop.goods());
      assert.equal(answer.payment.paid, true);
      assert.equal(answer.payment.amountSat, shop.priceSat);
      return answer.payment.credentials;
    };
    const credentials = await check(`${name} buys and is served`, buy);
    await check(`${name} is served up to its grant`, async () => {
      const answer = await get(shop.url, {}, { wallet, credentials });
      assert.equal(answer.status, 200);
      assert.equal(await answer.text(), await shop.goods());
    });
    await check(`${name} is refused when that is used up`, async () => {
      const answer = await get(shop.url, {}, { wallet, credentials });
      assert.equal(answer.status, 402);
      await shop.refuses(credentials.value, /used up/);
      assert.equal(shop.payments, paidBefore + 1);
    });
    await check(`${name} buys again`, buy);
    assert.equal(shop.payments, paidBefore + 2);
  }
  await check('each purchase is one sale', () => shop.everyPaymentIsOneSale());
}

main();
