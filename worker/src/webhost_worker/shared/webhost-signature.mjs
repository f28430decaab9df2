// Ed25519 signatures of the control plane: the gateway's on calls, the deployer's on its own.
//
// Consumes: a header `t=<unix ms>,kid=<key id>,v1=<lower-case hex>`, made over
// `<t>.<audience>.<raw body>`; public keys as a JSON object {kid: base64url of the raw 32 bytes},
// two of them while keys rotate.
// Guarantees: a body comes out only with a signature by one of those keys, over exactly these bytes,
// for this audience, within a minute of now. Every failure is the same UNAUTHENTICATED.

import { fromBase64Url, fromHex, readBounded } from "./webhost-bytes.mjs";
import { unauthenticated } from "./webhost-errors.mjs";

const HEADER = /^t=([0-9]{1,15}),kid=([A-Za-z0-9_.-]{1,64}),v1=([0-9a-f]{128})$/;
const WINDOW_MS = 60_000;
const BODY_LIMIT = 2 * 1024 * 1024;

/**
 * The raw bytes of a request's body, signed under the header of this name.
 * @throws {PlatformError} 401 UNAUTHENTICATED, also of a body over 2 MiB
 */
export async function signedBody(request, headerName, publicKeys, audience) {
  const signature = readHeader(request.headers.get(headerName));
  if (signature === null) throw unauthenticated();
  const body = await readBounded(request.body, BODY_LIMIT);
  if (body === null) throw unauthenticated();
  const key = await publicKey(publicKeys, signature.keyId);
  if (key === null) throw unauthenticated();
  const head = new TextEncoder().encode(`${signature.time}.${audience}.`);
  const message = new Uint8Array(head.length + body.length);
  message.set(head);
  message.set(body, head.length);
  if (!(await crypto.subtle.verify("Ed25519", key, signature.bytes, message)))
    throw unauthenticated();
  return body;
}

/** The header's parts when it is well formed and fresh, else null. */
function readHeader(header) {
  const match = HEADER.exec(header ?? "");
  if (match === null) return null;
  const [, time, keyId, signature] = match;
  if (Math.abs(Date.now() - Number(time)) > WINDOW_MS) return null;
  return { time, keyId, bytes: fromHex(signature) };
}

// Keyed by their own text, so that a key never outlives the binding that named it.
const imported = new Map();

async function publicKey(publicKeys, keyId) {
  const text = new Map(Object.entries(JSON.parse(publicKeys))).get(keyId);
  if (text === undefined) return null;
  if (!imported.has(text)) {
    const bytes = fromBase64Url(text);
    imported.set(text, await crypto.subtle.importKey("raw", bytes, "Ed25519", false, ["verify"]));
  }
  return imported.get(text);
}
