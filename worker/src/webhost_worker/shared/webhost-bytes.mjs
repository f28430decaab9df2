// Bytes: as hex and base64url, and read from a stream.

const DIGITS = /^[0-9a-f]*$/;

export function toHex(buffer) {
  return Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Bytes of lower-case hex of even length. */
export function fromHex(text) {
  if (text.length % 2 !== 0 || !DIGITS.test(text)) throw new TypeError("This is not hex.");
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

/** Bytes of unpadded base64url. */
export function fromBase64Url(text) {
  const bytes = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(bytes, (character) => character.charCodeAt(0));
}

/** All bytes of a stream, or null when they are more than `limit`. */
export async function readBounded(stream, limit) {
  const parts = [];
  let size = 0;
  for await (const part of stream ?? []) {
    size += part.length;
    if (size > limit) return null;
    parts.push(part);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
