// npm `macaroon`: checks a token that the merchant minted, mints the same one, and narrows it for lending.
'use strict';

const { createHmac } = require('node:crypto');
const { readFile } = require('node:fs/promises');
const { join } = require('node:path');
const { importMacaroon, newMacaroon } = require('macaroon');
const { Shop, assert, check, places } = require('./shop.js');

const text = (bytes) => Buffer.from(bytes).toString();
const conditions = (token) => token.caveats.map((caveat) => text(caveat.identifier));

/** Satisfies every caveat: whether they hold is the merchant's to say, here it is about signatures. */
const anything = () => null;

/** What only the merchant can derive: HMAC-SHA256(master key, label ‖ identifier). */
async function rootKey(identifier) {
  const master = (await readFile(join(places.merchant_data_dir, 'master.key'), 'utf8')).trim();
  return createHmac('sha256', Buffer.from(master, 'hex')).update('l402-root-v1').update(identifier).digest();
}

/**
 * The token as bytes, out of the library's JSON. Its own `exportBinary` cannot write one with more than three caveats: it
 * doubles its buffer at every field (the field that it compares the wanted size with is never set).
 */
function binary(token) {
  const { i, i64, l, c = [], s, s64 } = token.exportJSON();
  const field = (tag, bytes) => Buffer.concat([Buffer.from([tag]), varint(bytes.length), bytes]);
  const either = (plain, base64) => (plain === undefined ? Buffer.from(base64, 'base64url') : Buffer.from(plain));
  const end = Buffer.from([0]);
  const caveats = c.map((caveat) =>
    Buffer.concat([
      caveat.l === undefined ? Buffer.alloc(0) : field(1, Buffer.from(caveat.l)),
      field(2, either(caveat.i, caveat.i64)),
      caveat.v64 === undefined ? Buffer.alloc(0) : field(4, either(undefined, caveat.v64)),
      end,
    ]));
  const head = [Buffer.from([2]), field(1, Buffer.from(l)), field(2, either(i, i64)), end];
  return Buffer.concat([...head, ...caveats, end, field(6, either(s, s64))]);
}

/** A length, seven bits a byte, the lowest first. */
function varint(number) {
  return number < 0x80 ? Buffer.from([number]) : Buffer.from([(number & 0x7f) | 0x80, ...varint(number >> 7)]);
}

/** A challenge without a client around it, paid. */
async function buy(shop) {
  const answer = await fetch(shop.url);
  assert.equal(answer.status, 402);
  const challenge = await answer.json();
  return { macaroon: challenge.macaroon, preimage: await shop.pay(challenge.invoice) };
}

/** A copy with further caveats. */
function narrowed(token, ...caveats) {
  const copy = token.clone();
  caveats.forEach((caveat) => copy.addFirstPartyCaveat(caveat));
  return copy;
}

async function main() {
  const shop = new Shop('macaroon-npm', 13);
  const own = (condition) => `${shop.service}_${condition}`;
  const sold = await buy(shop);
  const token = importMacaroon(sold.macaroon);
  const key = await rootKey(token.identifier);
  const credential = (copy) => `L402 ${binary(copy).toString('base64')}:${sold.preimage}`;
  const isServed = async (copy, method) => {
    const answer = await shop.ask(credential(copy), method);
    assert.equal(answer.status, 200, answer.text);
  };
  const isRefused = (copy, reason, method) => shop.refuses(credential(copy), reason, method);
  const now = Math.floor(Date.now() / 1000);

  await check('reads and verifies a token with the merchant\'s root key', () => {
    token.verify(key, anything);
    const [services, ...limits] = conditions(token);
    assert.equal(services, `services=${shop.service}:0`);
    assert.ok(limits.includes(own('requests=6')), String(limits));
    assert.ok(limits.some((limit) => limit.startsWith(own('valid_until='))), String(limits));
    assert.throws(() => token.verify(Buffer.alloc(32), anything));
    assert.throws(() => narrowed(token, own('requests=1')).verify(key, () => 'does not hold'));
  });
  await check('mints the same token, byte for byte', () => {
    const same = newMacaroon({ identifier: token.identifier, location: token.location, rootKey: key, version: 2 });
    conditions(token).forEach((condition) => same.addFirstPartyCaveat(condition));
    assert.equal(binary(same).toString('base64'), sold.macaroon);
  });

  // Six requests were bought; every line that says `isServed` takes one of them, and none that says `isRefused` does.
  const once = narrowed(token, own('requests=1'));
  await check('a copy for one request opens one', async () => {
    once.verify(key, anything);
    await isServed(once);
    await isRefused(once, /used up/);
    await isServed(token);
  });
  const readOnly = narrowed(token, own('method=GET'));
  await check('a copy for GET opens nothing else', async () => {
    await isServed(readOnly);
    await isRefused(readOnly, /narrowed to other requests/, 'POST');
  });
  await check('a copy with less time is good until then', async () => {
    await isServed(narrowed(token, own(`valid_until=${now + 600}`)));
    await isRefused(narrowed(token, own(`valid_until=${now - 1}`)), /time is over/);
  });
  await check('a caveat that is not the merchant\'s is left to others', () =>
    isServed(narrowed(token, 'for=a friend', 'other_requests=0')));
  await check('no copy is wider', async () => {
    const wider = /asks for more than an earlier one gave/;
    await isRefused(narrowed(token, own('requests=7')), wider);
    await isRefused(narrowed(once, own('requests=6')), wider);
    await isRefused(narrowed(token, own(`valid_until=${now + 864000}`)), wider);
    await isRefused(narrowed(token, `services=${shop.service}:1`), wider);
    await isRefused(narrowed(token, 'services=pymacaroons:0'), wider);
    await isRefused(narrowed(readOnly, own('method=GET,POST')), /narrowed to other requests/, 'POST');
  });
  await check('a caveat cannot be taken off again', async () => {
    const { c, ...rest } = readOnly.exportJSON();
    const stripped = importMacaroon({ ...rest, c: c.slice(0, -1) });
    assert.deepEqual(conditions(stripped), conditions(token));
    assert.throws(() => stripped.verify(key, anything));
    await isRefused(stripped, /signature is wrong/);
  });
  await check('a token under another key opens nothing', async () => {
    const forged = newMacaroon({ identifier: token.identifier, location: 'lsat', rootKey: Buffer.alloc(32, 7), version: 2 });
    conditions(token).forEach((condition) => forged.addFirstPartyCaveat(condition));
    await isRefused(forged, /signature is wrong/);
  });
  await check('a third party is not asked', async () => {
    const copy = token.clone();
    copy.addThirdPartyCaveat(Buffer.alloc(32, 7), 'ask elsewhere', 'elsewhere');
    await isRefused(copy, /third-party/);
  });
  await check('copies and token share what was bought, and it ends', async () => {
    await isServed(token);
    for (const copy of [token, once, readOnly]) await isRefused(copy, /used up/);
  });
  await check('buys again', async () => {
    const again = await buy(shop);
    const answer = await shop.ask(`LSAT ${again.macaroon}:${again.preimage}`);
    assert.equal(answer.status, 200, answer.text);
    assert.equal(answer.text, await shop.goods());
  });
  await check('each purchase is one sale', () => shop.everyPaymentIsOneSale());
}

main();
