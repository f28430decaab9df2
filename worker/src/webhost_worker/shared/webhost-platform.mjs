// The primitives the platform relies on, captured before the customer's module is evaluated.
//
// Customer code shares this isolate and may patch any global afterwards. Code that handles a key or
// a signature therefore uses only what this module captured, index access, and operators. That is
// hygiene, not a boundary: a deployment's key is only ever valid for that deployment.

const uncurryThis = Function.prototype.bind.bind(Function.prototype.call);
const encoder = new TextEncoder();
const { subtle } = crypto;

export const encode = encoder.encode.bind(encoder);
export const importKey = subtle.importKey.bind(subtle);
export const sign = subtle.sign.bind(subtle);
export const verify = subtle.verify.bind(subtle);
export const platformFetch = fetch.bind(globalThis);
export const now = Date.now;
export const parseJson = JSON.parse;
export const stringifyJson = JSON.stringify;
export const ownKeys = Object.keys;
export const matchRegExp = uncurryThis(RegExp.prototype.exec);

const Bytes = Uint8Array;
const copyInto = uncurryThis(Uint8Array.prototype.set);
const NativePromise = Promise;
const { setTimeout: startTimer } = globalThis;

// `await` looks up `constructor` on a promise and `then` on what it resolves to. With these two
// answered here for good, patched prototypes never see a key on its way through an await.
Object.defineProperty(Promise.prototype, "constructor", {
  value: Promise,
  writable: false,
  configurable: false,
});
Object.defineProperty(CryptoKey.prototype, "then", {
  value: undefined,
  writable: false,
  configurable: false,
});

export function sleep(milliseconds) {
  return new NativePromise((resolve) => startTimer(resolve, milliseconds));
}

/** The bytes of `text` followed by `bytes`. */
export function concat(text, bytes) {
  const head = encode(text);
  const whole = new Bytes(head.length + bytes.length);
  copyInto(whole, head, 0);
  copyInto(whole, bytes, head.length);
  return whole;
}

const HEX = "0123456789abcdef";
const BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

function digits(alphabet) {
  const table = { __proto__: null };
  for (let index = 0; index < alphabet.length; index++) table[alphabet[index]] = index;
  return table;
}

const HEX_DIGITS = digits(HEX);
const BASE64URL_DIGITS = digits(BASE64URL);

export function toHex(buffer) {
  const bytes = new Bytes(buffer);
  let text = "";
  for (let index = 0; index < bytes.length; index++) {
    text += HEX[bytes[index] >> 4] + HEX[bytes[index] & 15];
  }
  return text;
}

/** Bytes of lower-case hex of even length; the caller has checked the alphabet. */
export function fromHex(text) {
  const bytes = new Bytes(text.length / 2);
  for (let index = 0; index < bytes.length; index++) {
    bytes[index] = (HEX_DIGITS[text[2 * index]] << 4) | HEX_DIGITS[text[2 * index + 1]];
  }
  return bytes;
}

/** Bytes of unpadded base64url. */
export function fromBase64Url(text) {
  const bytes = new Bytes((text.length * 3) >> 2);
  let bits = 0;
  let value = 0;
  let length = 0;
  for (let index = 0; index < text.length; index++) {
    value = ((value << 6) | BASE64URL_DIGITS[text[index]]) & 0xffff;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes[length++] = (value >> bits) & 0xff;
    }
  }
  return bytes;
}
